"""The engine writing: one ``llmc-native generate`` that many requests share.

The process loads a model once and continues prompts until it is closed, as many at a time as it
has slots. Here a request is a line on its stdin, and its events come back as lines on stdout,
mixed with those of others; a thread reads them and hands each to whoever asked. Asking and
cancelling wait for nothing, so that they may be called from any thread, and from an event loop:
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

    Leaving the block ends the engine at once; whatever was being written ends with an error.

    Attributes:
        ready: what it said when its model was loaded; set on entering.
    """

    ready: Ready

    def __init__(self, argv: Sequence[str]) -> None:
        """Prepare an engine; :func:`generate_argv` makes its command line."""
        self._engine = Engine(argv, talks=True)
        self._thread = threading.Thread(target=self._read, name="llmc-generate", daemon=True)
        self._speaker = threading.Thread(target=self._speak, name="llmc-requests", daemon=True)
        # None ends the thread that speaks. A SimpleQueue may be filled by a signal's handler too.
        self._said: SimpleQueue[str | None] = SimpleQueue()
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
        # In a thread of its own, so that no signal's handler is taken from the caller.
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
        """Why the engine has ended; None while it lives."""
        return self._failure

    def submit(self, request: Request, deliver: Deliver) -> str:
        """Ask for a text and return the name under which it can be cancelled.

        ``deliver`` is called for each event, the last one an :class:`End`, in the thread that reads
        the engine: it must be quick, and hand the event over. If it fails, the text is cancelled.

        Raises:
            Usage: the prompt is longer than the engine reads.
            LlmcError: the engine has ended, and why.
        """
        identity = f"r{next(self._numbers)}"
        line = request.line(identity)
        if len(line) >= LONGEST_LINE:
            raise Usage(
                f"a prompt of {len(request.prompt):,} tokens is more than the engine reads: "
                "give it the end of the text, of which alone the model sees anything"
            )
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._open[identity] = deliver
        self._said.put(line)
        return identity

    def cancel(self, identity: str) -> None:
        """Ask for the end of a text; one that has ended is none to end. Signals may do so too."""
        self._said.put(f"cancel {identity}")

    def write(self, request: Request) -> Writing:
        """Ask for a text; it is written from now on, whether or not somebody reads along.

        Raises:
            LlmcError: the engine has ended, and why.
        """
        return Writing(self, request)

    def close(self) -> None:
        """End the engine at once; a second time does nothing."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._failure = self._failure or LlmcError("the engine was closed")
        self._said.put(None)
        self._engine.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _read(self) -> None:
        """Read the engine's events to its end; runs in a thread of its own."""
        failure: LlmcError | None = None
        try:
            with self._engine as engine:
                self._speaker.start()
                for fields in engine.events():
                    self._take(fields)
        except LlmcError as error:
            failure = error
        finally:
            self._said.put(None)
            if self._speaker.is_alive():
                self._speaker.join()
            failure = failure or LlmcError(
                "the engine ended before it was asked to; this is a bug in llmc, please report it"
            )
            self._started.put(failure)
            with self._lock:
                self._failure = self._failure or failure
                left = list(self._open.values())
                self._open.clear()
            for deliver in left:
                with suppress(Exception):  # whoever asked has gone
                    deliver(End("error", message=str(self._failure), failure=self._failure))

    def _speak(self) -> None:
        """Write what was asked to the engine, which may be slow to read."""
        while (line := self._said.get()) is not None:
            try:
                self._engine.say(line)
            except (OSError, ValueError):
                break  # it has ended; the thread that reads tells why

    def _take(self, fields: dict[str, Any]) -> None:
        """Hand one event to whoever asked for it.

        Raises:
            LlmcError: it is none that there are.
        """
        try:
            event = event_of(fields)
            if isinstance(event, Ready):
                self._started.put(event)
                return
            identity = fields["id"]
            if not identity:
                raise ValueError("it did not understand what was asked")
        except (ValueError, KeyError, TypeError) as error:
            raise self._engine.no_event(fields) from error
        with self._lock:
            deliver = self._open.get(identity)
            if isinstance(event, End):
                self._open.pop(identity, None)
        if deliver is None:
            return
        try:
            deliver(event)
        except Exception:  # whoever asked has gone; the other texts go on
            with self._lock:
                self._open.pop(identity, None)
            self.cancel(identity)


class Writing:
    """One text on its way: an iterator over its events, the last one an :class:`End`.

    Attributes:
        identity: its name in the engine.
    """

    def __init__(self, generator: Generator, request: Request) -> None:
        """Ask ``generator`` for it.

        Raises:
            LlmcError: the engine has ended, and why.
        """
        self._generator = generator
        self._events: SimpleQueue[Token | End] = SimpleQueue()
        self.identity = generator.submit(request, self._events.put)

    def __iter__(self) -> Iterator[Token | End]:
        """Yield each event as it comes.

        Raises:
            LlmcError: the engine ended, and why, or refused the request.
        """
        while True:
            event = self._events.get()
            if isinstance(event, End):
                raise_failure(event)
                yield event
                return
            yield event

    def cancel(self) -> None:
        """End the text early: its events go on to an :class:`End`. A signal's handler may do so."""
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
    """Return the command line of an engine that writes.

    Args:
        binary: llmc-native.
        model: the checkpoint.
        slots: texts at the same time.
        positions: tokens in memory for each; None for the model's context.
        dtype: what the weights are stored as: fp32, bf16 or int8.
        threads: to compute with; the tokens are the same for any number.
    """
    argv = [str(binary), "generate", "--model", str(model), "--slots", str(slots)]
    argv += ["--positions", str(positions)] if positions is not None else []
    return [*argv, "--dtype", dtype, "--threads", str(threads)]
