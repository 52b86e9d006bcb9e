"""Start processes: compilers, which run to their end, and the engine, which is read as it works.

The engine runs in a process group of its own. A terminal's Ctrl-C therefore reaches Python alone,
which forwards it and keeps reading, so that the engine can finish its step and save. Ctrl-Z
(SIGTSTP) stops both, and the shell's ``fg`` lets both go on. No child process is ever left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

from llmc.errors import (
    BadData,
    CompileFailed,
    Interrupted,
    Killed,
    LlmcError,
    LossNotFinite,
    MissingOutput,
    Usage,
)
from llmc.parsing import from_json

ERRORS: dict[int, type[LlmcError]] = {
    kind.exit_code: kind
    for kind in (BadData, Usage, MissingOutput, CompileFailed, LossNotFinite, Interrupted)
}
# Batch systems announce the end of a job by the last two.
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
GRACE_SECONDS = 30.0  # a step to finish and a checkpoint to write
KEPT_LINES = 50


class Finished(NamedTuple):
    """A finished process: its exit code (127 if it could not start) and all of its output."""

    code: int
    output: str


def run_quietly(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Finished:
    """Run a program to its end; return its exit code and its stdout and stderr together.

    ``env`` holds environment variables to add.
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

    The iteration ends when the engine does, and raises if it failed; :meth:`events` parses every
    line as JSON. Leaving the block earlier (a ``break``, a closed pipe, any exception) ends the
    engine with SIGTERM, and with SIGKILL if it has not ended within :data:`GRACE_SECONDS`.

    :meth:`send` and :meth:`stop` may be called from other threads than the one that iterates.

    Attributes:
        stderr: the last lines of its stderr, complete once the iteration has ended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        name: str = "the engine",
        has_stdin: bool = False,
    ) -> None:
        """Prepare a run of ``argv`` with more environment variables; nothing is started yet.

        Error messages call the program ``name``. With ``has_stdin``, :meth:`send` can be used;
        otherwise stdin is empty.
        """
        self._argv = list(argv)
        self._env = {**os.environ, **(env or {})}
        self._name = name
        self._has_stdin = has_stdin
        self.stderr: deque[str] = deque(maxlen=KEPT_LINES)
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
                self._argv,
                env=self._env,
                stdin=subprocess.PIPE if self._has_stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        except OSError as error:
            self._release_signals()
            raise LlmcError(
                f"cannot start {self._argv[0]}: {error.strerror}; run 'llmc build --force'"
            ) from error
        if self._forwarded is not None:  # it came while the child was being started
            _send(self._child, self._forwarded)
        self._reader = threading.Thread(target=self._read_stderr, args=(self._child,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the engine if it still runs."""
        try:
            child = self._running()
            assert child.stdout is not None and child.stderr is not None
            # A child that blocks on a full pipe would not handle the signal; closing it wakes it.
            child.stdout.close()
            _end(child)
            if child.stdin is not None:
                with contextlib.suppress(OSError):  # what it has not read is lost
                    child.stdin.close()
            self._reader.join()
            child.stderr.close()
        finally:
            self._release_signals()

    def __iter__(self) -> Iterator[str]:
        """Yield each line of stdout as it comes, without its newline.

        Raises:
            LlmcError: the engine failed; the class is that of its exit code, the message the last
                line of stderr that begins with "error: ".
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
        """Yield the JSON object of each line of stdout as it comes.

        Raises:
            LlmcError: the engine failed, or printed a line that is not a JSON object.
        """
        for line in self:
            try:
                event = from_json(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise self.not_an_event(line)
            yield event

    def not_an_event(self, line: object) -> LlmcError:
        """Return the error for a line that is not an event."""
        return LlmcError(
            f"{self._name} printed a line that is not an event ({line!r:.80}); this is a bug in "
            "llmc, please report it"
        )

    def send(self, line: str) -> None:
        """Write one line to the engine's stdin; blocks while the engine does not read.

        Raises:
            OSError, ValueError: the engine no longer reads; the iteration raises the reason.
        """
        stdin = self._running().stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        stdin.flush()

    def pause(self) -> None:
        """Take the processor from the engine and its own children, until :meth:`resume`."""
        _send(self._running(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused engine go on."""
        _send(self._running(), signal.SIGCONT)

    def stop(self) -> None:
        """End the engine: SIGTERM, then SIGKILL after :data:`GRACE_SECONDS`.

        The iteration then raises Interrupted, in whatever thread it runs.
        """
        self._forwarded = signal.SIGTERM  # also for a child that is being started
        if self._child is not None:
            _end(self._child)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError("the engine runs only inside its with block")
        return self._child

    def _read_stderr(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stderr is not None
        for line in child.stderr:
            self.stderr.append(line.decode(errors="replace").rstrip())

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        for number in FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # set by nohup
                self._handlers[number] = signal.signal(number, self._forward)
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stand_still)

    def _release_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers.clear()

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._forwarded = number
        if self._child is not None:
            _send(self._child, number)

    def _stand_still(self, number: int, frame: FrameType | None) -> None:
        """Stop the engine and this process, as the signal would; go on when SIGCONT comes."""
        if self._child is not None:
            _send(self._child, signal.SIGTSTP)  # a trainer stops its clock too
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._child is not None:
            _send(self._child, signal.SIGCONT)

    def _failure(self, code: int) -> LlmcError:
        """Return the error of a run that ended with a code, or with minus a signal's number."""
        kind = ERRORS.get(code, LlmcError)
        sentences = [line.removeprefix("error: ") for line in self.stderr if line[:7] == "error: "]
        if code < 0:
            end = signal.Signals(-code).name
            if -code == self._forwarded:
                return Interrupted(f"interrupted by {end}")
            if -code == signal.SIGKILL:
                return Killed(
                    f"{self._name} was killed (SIGKILL), most likely because memory ran out: "
                    "close other programs, or use a smaller model or batch"
                )
        elif sentences:
            return kind(sentences[-1])
        elif kind is Interrupted:
            return Interrupted("interrupted")
        else:
            end = f"exit code {code}"
        # A sanitizer's finding comes first and its stack trace after it.
        findings = [line for line in self.stderr if "panic: " in line or "runtime error: " in line]
        words = (findings or list(self.stderr))[-3:]
        output = f", after printing: {' / '.join(words)}" if words else ""
        return kind(
            f"{self._name} ended with {end}{output}; this is a bug in llmc, please report it"
        )


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
        # macOS raises PermissionError for a group that has just ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
