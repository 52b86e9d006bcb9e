"""One ``llmc-native generate`` process that many requests share.

The process loads a model once and continues prompts until it is closed, as many at a time as it
has slots. A request is a line on its stdin; the events of all requests come back mixed on its
stdout. A thread reads them and delivers each to its request. Submitting and cancelling never
block, so they can be called from any thread, also from an event loop:
``submit(request, lambda event: loop.call_soon_threadsafe(queue.put_nowait, event))``.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from llmc.engine.process import Engine
from llmc.engine.protocol import (
    LONGEST_LINE,
    End,
    Ready,
    Request,
    Token,
    event_of,
    raise_failure,
)
from llmc.errors import LlmcError, Usage

Deliver = Callable[[Token | End], object]


class Generator:
    """One ``llmc-native generate``: a context manager that many threads may share.

    ::

        with Generator(generate_argv(binary, model, slots=8)) as generator:
            for event in generator.write(Request(prompt)):
                …

    Leaving the block ends the engine at once; unfinished texts end with an error.

    Attributes:
        ready: the event of the loaded model; set on entering.
    """

    ready: Ready

    def __init__(self, argv: Sequence[str]) -> None:
        """Prepare an engine; :func:`generate_argv` makes its command line."""
        self._engine = Engine(argv, has_stdin=True)
        self._thread = threading.Thread(target=self._read, name="llmc-generate", daemon=True)
        self._sender = threading.Thread(target=self._send, name="llmc-requests", daemon=True)
        # None ends the sending thread. A signal handler may put into a SimpleQueue too.
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._started: SimpleQueue[Ready | LlmcError] = SimpleQueue()
        self._lock = threading.Lock()
        self._open: dict[str, Deliver] = {}
        self._numbers = itertools.count(1)
        self._failure: LlmcError | None = None
        self._closing = False

    def __enter__(self) -> Generator:
        """Start the engine and wait until its model is loaded.

        Raises:
            LlmcError: it cannot be started, or refuses the model.
        """
        # The engine starts in a thread of its own, so that the caller keeps its signal handlers.
        try:
            self._thread.start()
            ready = self._started.get()
        except BaseException:
            self.close()
            raise
        if isinstance(ready, LlmcError):
            self._thread.join()
            raise ready
        self.ready = ready
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the engine."""
        self.close()

    @property
    def failure(self) -> LlmcError | None:
        """Why the engine has ended; None while it runs."""
        return self._failure

    def submit(self, request: Request, deliver: Deliver) -> str:
        """Send a request and return the name under which it can be cancelled.

        ``deliver`` is called for each event, the last one an :class:`End`, in the reading thread:
        it must be quick, and hand the event over. If it raises, the request is cancelled.

        Raises:
            Usage: the prompt is longer than the engine reads.
            LlmcError: the engine has ended; the message gives the reason.
        """
        identity = f"r{next(self._numbers)}"
        line = request.line(identity)
        if len(line) >= LONGEST_LINE:
            raise Usage(
                f"a prompt of {len(request.prompt):,} tokens is more than the engine reads: "
                "send only its end, which is all that the model sees"
            )
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._open[identity] = deliver
        self._lines.put(line)
        return identity

    def cancel(self, identity: str) -> None:
        """Cancel a request, unless it has ended. A signal handler may call this."""
        self._lines.put(f"cancel {identity}")

    def write(self, request: Request) -> Writing:
        """Send a request; the text is generated from now on, whether or not it is read.

        Raises:
            LlmcError: the engine has ended; the message gives the reason.
        """
        return Writing(self, request)

    def close(self) -> None:
        """End the engine at once; a second call does nothing."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._failure = self._failure or LlmcError("the engine was closed")
        self._lines.put(None)
        self._engine.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _read(self) -> None:
        """Read the engine's events until it ends; runs in a thread of its own."""
        failure: LlmcError | None = None
        try:
            with self._engine as engine:
                self._sender.start()
                for fields in engine.events():
                    self._take(fields)
        except LlmcError as error:
            failure = error
        finally:
            self._lines.put(None)
            if self._sender.is_alive():
                self._sender.join()
            failure = failure or LlmcError(
                "the engine ended before it was asked to; this is a bug in llmc, please report it"
            )
            self._started.put(failure)
            with self._lock:
                self._failure = self._failure or failure
                left = list(self._open.values())
                self._open.clear()
            for deliver in left:
                with suppress(Exception):  # the receiver has gone
                    deliver(End("error", message=str(self._failure), failure=self._failure))

    def _send(self) -> None:
        """Write requests to the engine, which may be slow to read."""
        while (line := self._lines.get()) is not None:
            try:
                self._engine.send(line)
            except (OSError, ValueError):
                break  # it has ended; the reading thread reports the reason

    def _take(self, fields: dict[str, Any]) -> None:
        """Deliver one event to its request.

        Raises:
            LlmcError: the fields are not an event.
        """
        try:
            event = event_of(fields)
            if isinstance(event, Ready):
                self._started.put(event)
                return
            identity = fields["id"]
            if not identity:
                raise ValueError("the engine did not understand a request")
        except (ValueError, KeyError, TypeError) as error:
            raise self._engine.not_an_event(fields) from error
        with self._lock:
            deliver = self._open.get(identity)
            if isinstance(event, End):
                self._open.pop(identity, None)
        if deliver is None:
            return
        try:
            deliver(event)
        except Exception:  # the receiver has gone; the other requests go on
            with self._lock:
                self._open.pop(identity, None)
            self.cancel(identity)


class Writing:
    """One text being generated: an iterator over its events, the last one an :class:`End`.

    Attributes:
        identity: its name in the engine.
    """

    def __init__(self, generator: Generator, request: Request) -> None:
        """Send the request to ``generator``.

        Raises:
            LlmcError: the engine has ended; the message gives the reason.
        """
        self._generator = generator
        self._events: SimpleQueue[Token | End] = SimpleQueue()
        self.identity = generator.submit(request, self._events.put)

    def __iter__(self) -> Iterator[Token | End]:
        """Yield each event as it comes.

        Raises:
            LlmcError: the engine ended or refused the request.
        """
        while True:
            event = self._events.get()
            if isinstance(event, End):
                raise_failure(event)
                yield event
                return
            yield event

    def cancel(self) -> None:
        """Cancel the request; an :class:`End` still follows. A signal handler may call this."""
        self._generator.cancel(self.identity)


def generate_argv(
    binary: Path,
    model: Path,
    *,
    slots: int = 1,
    positions: int | None = None,
    dtype: str = "fp32",
    threads: int = 1,
) -> list[str]:
    """Return the command line of ``llmc-native generate``.

    Args:
        binary: llmc-native.
        model: the checkpoint.
        slots: texts at the same time.
        positions: tokens in memory for each text; None for the model's context.
        dtype: how the weights are stored: fp32, bf16 or int8.
        threads: number of threads; the tokens do not depend on it.
    """
    argv = [str(binary), "generate", "--model", str(model), "--slots", str(slots)]
    argv += ["--positions", str(positions)] if positions is not None else []
    return [*argv, "--dtype", dtype, "--threads", str(threads)]
