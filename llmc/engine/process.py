"""The only place that starts a process; events in, exceptions out.

A compiler runs quietly to its end. The engine is read line by line while it works, in a process
group of its own: a terminal's Ctrl-C reaches Python alone, which passes it on and keeps reading, so
that the engine can finish its step and save. Whatever happens here, no child is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from llmc.errors import (
    BadData,
    CompileFailed,
    Interrupted,
    LlmcError,
    LossNotFinite,
    MissingOutput,
    Usage,
)

ERRORS: dict[int, type[LlmcError]] = {
    kind.exit_code: kind
    for kind in (BadData, Usage, MissingOutput, CompileFailed, LossNotFinite, Interrupted)
}
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 30.0  # a step to finish and a checkpoint to write
KEPT_LINES = 50


class Finished(NamedTuple):
    """How a process ended: its exit code (a shell's 127 if it could not start) and all it said."""

    code: int
    output: str


def run_quietly(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Finished:
    """Run a program to its end and return what it said on stdout and stderr together.

    Args:
        argv: the program and its arguments.
        env: variables put over this process's own.
    """
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        return Finished(127, f"error: cannot start {argv[0]}: {error.strerror}")
    return Finished(done.returncode, done.stdout.decode(errors="replace"))


class Engine:
    """One run of llmc-native: a context manager, and an iterator over its lines of stdout.

    ::

        with Engine([str(binary), "train", …]) as engine:
            for line in engine:
                …

    The iteration ends when the engine does, and raises if it failed; :meth:`events` is the same
    where every line is a JSON object. Leaving the block earlier (a
    ``break``, a closed pipe, any exception) ends the engine: SIGTERM, and SIGKILL if it does not
    obey within seconds.

    One that ``talks`` has a stdin too. :meth:`say` and :meth:`stop` may be called from other
    threads than the one that iterates.

    Attributes:
        prose: the last lines of its stderr, complete once the iteration has ended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        name: str = "the engine",
        talks: bool = False,
    ) -> None:
        """Prepare a run of ``argv`` with ``env`` put over this process's own variables.

        ``name`` is what errors call it: PyTorch is run, and can fail, in the same way. With
        ``talks`` it has a stdin; without, that is empty.
        """
        self.argv = list(argv)
        self.name = name
        self.talks = talks
        self.env = {**os.environ, **(env or {})}
        self.prose: deque[str] = deque(maxlen=KEPT_LINES)
        self._child: subprocess.Popen[bytes] | None = None
        self._forwarded: int | None = None
        self._handlers: dict[int, signal.Handlers | object] = {}

    def __enter__(self) -> Engine:
        """Start the engine.

        Raises:
            LlmcError: it cannot be started.
        """
        self._catch_signals()
        try:
            self._child = subprocess.Popen(
                self.argv,
                env=self.env,
                stdin=subprocess.PIPE if self.talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        except OSError as error:
            self._release_signals()
            raise LlmcError(
                f"cannot start {self.argv[0]}: {error.strerror}; run 'llmc build --force'"
            ) from error
        if self._forwarded is not None:  # came while the child was being made
            _send(self._child, self._forwarded)
        self._reader = threading.Thread(target=self._read_prose, args=(self._child,), daemon=True)
        self._reader.start()
        return self

    def __iter__(self) -> Iterator[str]:
        """Yield each line of stdout as it comes, without its newline.

        Raises:
            LlmcError: the engine failed; the class is that of its exit code, the message the last
                sentence it said after "error: ".
        """
        child = self._running()
        assert child.stdout is not None
        for line in child.stdout:
            yield line.decode(errors="replace").rstrip("\n")
        code = child.wait()
        self._reader.join()
        if code != 0:
            raise self._failure(code)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON object that is on each line of stdout, as it comes.

        Raises:
            LlmcError: as the lines do, or one of them holds something else.
        """
        for line in self:
            try:
                event = json.loads(line)
            except ValueError as error:
                raise self.no_event(line) from error
            if not isinstance(event, dict):
                raise self.no_event(line)
            yield event

    def no_event(self, said: object) -> LlmcError:
        """Return the failure of an engine that said what nobody understands."""
        return LlmcError(
            f"{self.name} said what is no event ({said!r:.80}); this is a bug in llmc, "
            "please report it"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the engine if it still runs, and give the signals back."""
        try:
            self._end(self._running())
        finally:
            self._release_signals()

    def say(self, line: str) -> None:
        """Write one line to the engine's stdin; it waits while the engine does not read.

        Raises:
            OSError, ValueError: the engine no longer reads; the iteration tells why.
        """
        stdin = self._running().stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        stdin.flush()

    def stop(self) -> None:
        """End the engine at once: SIGTERM, and SIGKILL if it does not obey within seconds.

        The iteration, in whatever thread, then raises Interrupted.
        """
        self._forwarded = signal.SIGTERM  # also for a child that is just being made
        if self._child is not None:
            _end(self._child)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError("the engine runs only inside its with block")
        return self._child

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None and child.stderr is not None
        # A child that blocks on a full pipe would never come to obey; a closed pipe wakes it.
        child.stdout.close()
        _end(child)
        if child.stdin is not None:
            with contextlib.suppress(OSError):  # what it has not taken is lost
                child.stdin.close()
        self._reader.join()
        child.stderr.close()

    def _read_prose(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stderr is not None
        for line in child.stderr:
            self.prose.append(line.decode(errors="replace").rstrip())

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's wish stands
                self._handlers[number] = signal.signal(number, self._forward)

    def _release_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers.clear()

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._forwarded = number
        if self._child is not None:
            _send(self._child, number)

    def _failure(self, code: int) -> LlmcError:
        sentences = [line.removeprefix("error: ") for line in self.prose if line[:7] == "error: "]
        if code < 0:
            return self._death(signal.Signals(-code))
        if code in ERRORS and sentences:
            return ERRORS[code](sentences[-1])
        if code in ERRORS:
            return ERRORS[code]("interrupted" if code == 130 else self._last_words(f"code {code}"))
        if sentences:
            return LlmcError(sentences[-1])
        return LlmcError(self._last_words(f"exit code {code}"))

    def _death(self, number: signal.Signals) -> LlmcError:
        if number == self._forwarded:
            return Interrupted(f"interrupted by {number.name}")
        if number is signal.SIGKILL:
            return LlmcError(
                f"{self.name} was killed (SIGKILL), most likely because memory ran out; "
                "use a smaller --batch-size, --seq-len or model"
            )
        return LlmcError(self._last_words(number.name))

    def _last_words(self, end: str) -> str:
        # A sanitizer's finding comes first and its stack trace after it.
        findings = [line for line in self.prose if "panic: " in line or "runtime error: " in line]
        words = (findings or list(self.prose))[-3:]
        said = f", after saying: {' / '.join(words)}" if words else ""
        return f"{self.name} ended with {end}{said}; this is a bug in llmc, please report it"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child that still runs."""
    if child.poll() is None:
        _send(child, signal.SIGTERM)
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _send(child, signal.SIGKILL)
            child.wait()


def _send(child: subprocess.Popen[bytes], number: int) -> None:
    """Signal a child and its own children (a compiler that PyTorch called), unless it has ended."""
    if child.poll() is None:
        # PermissionError is macOS's word for a group that has just ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
