"""One ``llmc-native generate`` process that many requests share.

The process loads a model once and continues prompts until it is closed, as many at a time as it
has slots. A request is a line on its stdin. Events come back as lines on stdout, those of all
requests mixed; a thread reads them and hands each to its request's callback. ``submit`` and
``cancel`` do not block and may be called from any thread, also from an event loop:
``submit(request, lambda event: loop.call_soon_threadsafe(queue.put_nowait, event))``.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from llmc.engine.process import Engine
from llmc.engine.protocol import LONGEST_LINE, End, Ready, Request, Token, event_of
from llmc.errors import BUG, LlmcError, Usage

Deliver = Callable[[Token | End], object]


class Generator:
    """A ``llmc-native generate`` process; a context manager that threads may share.

    ::

        with Generator(generate_argv(binary, model, slots=8)) as generator:
            generator.submit(Request(prompt), deliver)
            …

    Leaving the block ends the engine at once; open texts end with an error.

    Attributes:
        ready: the engine's first event; set on entering.
        failure: why the engine has ended; None while it runs.
    """

    ready: Ready

    def __init__(self, argv: Sequence[str]) -> None:
        """Prepare an engine with the command line of :func:`generate_argv`."""
        self.failure: LlmcError | None = None
        self._argv = argv
        self._engine = Engine(argv, has_stdin=True)
        self._thread = threading.Thread(target=self._read, name="llmc-generate", daemon=True)
        self._writer = threading.Thread(target=self._send, name="llmc-requests", daemon=True)
        # None ends the writer thread. A SimpleQueue may be filled in a signal handler too.
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._started: SimpleQueue[Ready | LlmcError] = SimpleQueue()
        self._lock = threading.Lock()
        self._open: dict[str, Deliver] = {}
        self._numbers = itertools.count(1)
        self._closing = False

    def __enter__(self) -> Generator:
        """Start the engine and wait until its model is loaded.

        Raises:
            LlmcError: it cannot be started, or refuses the model.
        """
        # In a thread of its own, so that the caller keeps its signal handlers.
        try:
            self._thread.start()
            ready = self._loaded()
        except BaseException:
            self.close()
            raise
        if isinstance(ready, LlmcError):
            self._thread.join()
            raise ready
        self.ready = ready
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loaded(self) -> Ready | LlmcError:
        """Wait for the model, a little at a time: a signal just before a wait does not end it."""
        while True:
            with suppress(Empty):
                return self._started.get(timeout=0.5)

    def again(self) -> Generator:
        """Return an engine with the same command line that is not started yet."""
        return Generator(self._argv)

    def submit(self, request: Request, deliver: Deliver) -> str:
        """Submit a request and return the name for :meth:`cancel`.

        ``deliver`` is called for each event, the last one an :class:`End`, in the thread that reads
        the engine: it must be quick. If it raises, the text is cancelled.

        Raises:
            Usage: the prompt is longer than a line may be.
            LlmcError: the engine has ended.
        """
        identity = f"r{next(self._numbers)}"
        line = request.line(identity)
        if len(line) >= LONGEST_LINE:
            raise Usage(
                f"a prompt of {len(request.prompt):,} tokens is more than the engine reads: "
                "use the end of the text, the model sees no more than that"
            )
        with self._lock:
            if self.failure is not None:
                raise self.failure
            self._open[identity] = deliver
        self._lines.put(line)
        return identity

    def cancel(self, identity: str) -> None:
        """Cancel a text, unless it has ended. Safe in a signal handler."""
        self._lines.put(f"cancel {identity}")

    def close(self) -> None:
        """End the engine at once. A second call does nothing."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self.failure = self.failure or LlmcError("the engine was closed")
        self._lines.put(None)
        self._engine.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _read(self) -> None:
        """Read events until the engine ends; runs in a thread of its own."""
        failure = LlmcError(f"the engine ended unexpectedly; {BUG}")
        try:
            with self._engine as engine:
                self._writer.start()
                for fields in engine.events():
                    self._take(fields)
        except LlmcError as error:
            failure = error
        finally:
            self._lines.put(None)
            if self._writer.is_alive():
                self._writer.join()
            self._started.put(failure)
            with self._lock:
                self.failure = self.failure or failure
                left = list(self._open.values())
                self._open.clear()
            for deliver in left:
                with suppress(Exception):  # the callback's owner is gone
                    deliver(End("error", message=str(self.failure), failure=self.failure))

    def _send(self) -> None:
        """Send lines to the engine, which may be slow to read."""
        while (line := self._lines.get()) is not None:
            try:
                self._engine.send(line)
            except (OSError, ValueError):
                break  # it has ended; the reading thread reports why

    def _take(self, fields: dict[str, Any]) -> None:
        """Hand one event to its request's callback."""
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
        except Exception:  # the callback's owner is gone; the other texts go on
            with self._lock:
                self._open.pop(identity, None)
            self.cancel(identity)


def generate_argv(
    binary: Path,
    model: Path,
    *,
    slots: int = 1,
    positions: int | None = None,
    dtype: str = "fp32",
    threads: int = 1,
    unused: str = "",
) -> list[str]:
    """Return the command line of ``llmc-native generate``.

    Args:
        binary: llmc-native.
        model: the checkpoint.
        slots: texts written at the same time.
        positions: length of the KV cache of each, in tokens. Default: the model's context.
        dtype: type of the weights in memory: fp32, bf16 or int8.
        threads: the tokens do not depend on it.
        unused: ranges of ids that are never drawn, such as ``500-511,600-600``.
    """
    argv = [str(binary), "generate", "--model", str(model), "--slots", str(slots)]
    argv += ["--positions", str(positions)] if positions is not None else []
    argv += ["--unused-ids", unused] if unused else []
    return [*argv, "--dtype", dtype, "--threads", str(threads)]
