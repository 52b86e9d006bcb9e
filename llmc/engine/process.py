"""Start processes: compilers, which run to their end, and the engine, which is read as it works.

The engine runs in a process group of its own. A terminal's Ctrl-C therefore reaches Python alone,
which forwards it and keeps reading, so that the engine can finish its step and save. Ctrl-Z
(SIGTSTP) stops both, and the shell's ``fg`` lets both go on. No child process is ever left behind.

Several ranks are asked to stop by SIGUSR1: most launchers kill them on any other signal. One that
joins the ranks of this process' own launcher stays in its group, which the launcher ends. It writes
to stderr itself: where it fails, the launcher may have killed this process before it could.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

from llmc.engine import endings
from llmc.engine.launcher import ALONE, Launch
from llmc.errors import (
    BUG,
    BadData,
    CompileFailed,
    ExitCode,
    Interrupted,
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
LAUNCHER_SECONDS = 5.0  # for a launcher to end its ranks
WISH = signal.SIGUSR1  # to stop: the one that every launcher hands on
KEPT_LINES = 50

_JOINED: list[int] = []  # the engines that have joined the ranks of this process' launcher


def has_joined() -> bool:
    """Return whether an engine of this process has joined the ranks of its launcher."""
    return bool(_JOINED)


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
        launch: Launch = ALONE,
    ) -> None:
        """Prepare a run of ``argv`` with more environment variables; nothing is started yet.

        Error messages call the program ``name``. With ``has_stdin``, :meth:`send` can be used;
        otherwise stdin is empty. ``launch`` says how it is started, and whether it sees the
        variables of the launcher that started this process.
        """
        self._argv = [*launch.command, *argv]
        self._program = argv[0]
        self._env = {**launch.environment(), **(env or {})}
        self._name = name
        self._has_stdin = has_stdin
        self._launch = launch
        self._reason: str | None = None  # the engine's own, of the run's end
        self._sentences: deque[str] = deque(maxlen=KEPT_LINES)  # of errors
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
                stderr=None if self._launch.joins else subprocess.PIPE,
                pass_fds=self._launch.descriptors,
                # Without a terminal ssh asks for no password, but fails and says so.
                start_new_session=bool(self._launch.command),
                process_group=None if self._launch.several else 0,
            )
        except OSError as error:
            self._release_signals()
            raise endings.not_started(self._argv[0], error, self._launch.command) from error
        if self._forwarded is not None:  # it came while the child was being started
            self._send(self._wish(self._forwarded))
        if self._launch.joins:
            _JOINED.append(self._child.pid)
        self._reader = threading.Thread(target=self._read_stderr, args=(self._child,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the engine if it still runs."""
        try:
            child = self._running()
            assert child.stdout is not None
            # A child that blocks on a full pipe would not handle the signal; closing it wakes it.
            child.stdout.close()
            self._end()
            if child.stdin is not None:
                with contextlib.suppress(OSError):  # what it has not read is lost
                    child.stdin.close()
            self._reader.join(LAUNCHER_SECONDS)
            if child.stderr is not None and not self._reader.is_alive():
                child.stderr.close()
        finally:
            self._release_signals()

    def __iter__(self) -> Iterator[str]:
        """Yield each line of stdout as it comes, without its newline.

        Raises:
            LlmcError: the engine failed; the class is that of its exit code, the message the last
                line of stderr that begins with "error: ".
        """
        return (line for line in self._lines() if line is not None)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON object of each line of stdout as it comes.

        Raises:
            LlmcError: the engine failed, or printed a line that is not a JSON object.
        """
        return (event for event in self.watched_events() if event is not None)

    def watched_events(self, seconds: float | None = None) -> Iterator[dict[str, Any] | None]:
        """Yield events as :meth:`events` does, and None after every so many seconds without one.

        What a launcher prints on stdout is not an event: it counts as a line of stderr.

        Raises:
            LlmcError: the engine or its launcher failed.
        """
        for line in self._lines(seconds):
            if line is None:
                yield None
                continue
            # A launcher may put the rank in front of a line.
            found = line[max(line.find("{"), 0) :] if self._launch.several else line
            try:
                event = from_json(found)
            except ValueError:
                event = None
            if isinstance(event, dict):
                if event.get("event") == "end":
                    self._reason = event.get("reason")
                yield event
            elif self._launch.several:
                self.stderr.append(line)
            else:
                raise self.not_an_event(line)

    def _lines(self, seconds: float | None = None) -> Iterator[str | None]:
        """Yield lines of stdout as they come, and None after so many seconds without one."""
        child, rest = self._running(), b""
        assert child.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            while True:
                if not ready.select(seconds):
                    if child.poll() is not None:  # what it started holds its stdout, and is stuck
                        break
                    yield None
                    continue
                if not (chunk := os.read(child.stdout.fileno(), 1 << 16)):
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        if rest:
            yield rest.decode(errors="replace")
        code = child.wait()
        self._reader.join(LAUNCHER_SECONDS)
        if code != 0:
            raise self._failure(code)

    def not_an_event(self, line: object) -> LlmcError:
        """Return the error for a line that is not an event."""
        return LlmcError(f"{self._name} printed a line that is not an event ({line!r:.80}); {BUG}")

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
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused engine go on."""
        self._send(signal.SIGCONT)

    def stop(self, seconds: float | None = None) -> None:
        """End the engine: SIGTERM, then SIGKILL where it has not ended after so many seconds.

        Without ``seconds`` that is :data:`GRACE_SECONDS`. The iteration then raises
        Interrupted, in whatever thread it runs.
        """
        self._forwarded = signal.SIGTERM  # also for a child that is being started
        if self._child is not None:
            self._end(seconds)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError("the engine runs only inside its with block")
        return self._child

    def _read_stderr(self, child: subprocess.Popen[bytes]) -> None:
        for line in child.stderr or ():
            words = line.decode(errors="replace").rstrip()
            self.stderr.append(words)
            if (sentence := endings.sentence_of(words)) is not None:
                self._sentences.append(sentence)

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
        again, self._forwarded = self._forwarded is not None, number
        if again and self._launch.command:
            self._send(signal.SIGTERM)
            # Ranks that wait for a machine that is gone end with their launcher only.
            killer = threading.Timer(LAUNCHER_SECONDS, self._send, (signal.SIGKILL,))
            killer.daemon = True
            killer.start()
        else:
            self._send(number if again else self._wish(number))

    def _wish(self, number: int) -> int:
        """Return the signal that asks the engine to stop as ``number`` does."""
        return WISH if self._launch.several else number

    def _stand_still(self, number: int, frame: FrameType | None) -> None:
        """Stop the engine and this process, as the signal would; go on when SIGCONT comes."""
        self._send(signal.SIGTSTP)  # a trainer stops its clock too
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)

    def _end(self, grace: float | None = None) -> None:
        """End a child that still runs: ask it, and kill it where that does not help."""
        child = self._running()
        steps = [(self._wish(signal.SIGTERM), GRACE_SECONDS if grace is None else grace)]
        if self._launch.command:
            steps.append((signal.SIGTERM, LAUNCHER_SECONDS))
        for number, seconds in steps:
            if child.poll() is not None:
                return
            self._send(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
        if child.poll() is None:
            self._send(signal.SIGKILL)
            child.wait()

    def _send(self, number: int) -> None:
        """Signal a child and its own children (a compiler that PyTorch called) while it runs.

        A launcher gets it alone, since it hands signals on; so does what is in this process' group.
        """
        child = self._child
        if child is None or child.poll() is not None:
            return
        # macOS raises PermissionError for a group that has just ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._launch.several:
                child.send_signal(number)
            else:
                os.killpg(child.pid, number)

    def _failure(self, code: int) -> LlmcError:
        """Return the error of a run that ended with a code, or with minus a signal's number."""
        launcher = self._launch.name if self._launch.command else None
        asked = self._forwarded
        if code < 0 and asked and (launcher is not None or -code == asked):
            return Interrupted(f"interrupted by {signal.Signals(asked).name}")
        known = endings.Ended(code, self._sentences, self.stderr, ERRORS.get(code, LlmcError))
        if self._launch.joins and code in ERRORS and code != ExitCode.INTERRUPTED:
            return ERRORS[code]()  # it has said why
        if launcher is None:
            return endings.of_engine(self._name, known)
        return endings.of_launcher(
            launcher, known, self._program, reason=self._reason, asked=asked is not None
        )
