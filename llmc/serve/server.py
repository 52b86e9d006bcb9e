"""Start, run and stop the server."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from llmc.engine.generator import Generator
from llmc.errors import Interrupted, LlmcError, Usage
from llmc.serve.app import Log, make_app
from llmc.serve.batch import EngineBatch
from llmc.serve.chat import ChatCompletions
from llmc.serve.completions import Completions
from llmc.serve.connection import Connection
from llmc.serve.guard import Guard
from llmc.serve.listener import Listener, room
from llmc.serve.metrics import ServerMetrics
from llmc.serve.schema import MAX_CHOICES, RequestLimits
from llmc.serve.served import ServedModel

GRACE_SECONDS = 30.0  # for running completions when the server stops
FORCED_SECONDS = 5.0  # more, for clients to read the answers
ENDING = "the server is shutting down"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, not accepting yet; Usage where that is impossible."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may have addresses of both families; clients try IPv4 at least.
        family, kind, protocol, _, address = min(found, key=lambda each: each[0])
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise Usage(
            f"cannot listen on {host} port {port} ({error.strerror}): choose another --port or "
            "--host"
        ) from error
    return bound


def address_of(bound: socket.socket, host: str) -> str:
    """Return the address for a browser on this machine."""
    port = bound.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def serve(
    bound: socket.socket,
    generator: Generator,
    served: ServedModel,
    guard: Guard,
    *,
    queue: int,
    max_tokens: int,
    ready: Callable[[], object],
    say: Log,
    log: Log,
) -> None:
    """Answer requests until a signal comes, then finish the running completions.

    ``queue`` completions may wait for a slot, each of at most ``max_tokens`` tokens. ``ready`` is
    called once requests are answered; ``say`` takes messages, ``log`` a line for each answer. An
    engine that ends is started again, once.

    Raises:
        LlmcError: the engine ended before the signal, and again after it was started again.
        Interrupted: the signal was Ctrl-C.
    """
    signals: list[int] = []
    failure: LlmcError | None = None
    # asyncio warns about clients that disconnect early; here that is normal.
    logging.getLogger("asyncio").setLevel(logging.ERROR)

    async def run() -> None:
        nonlocal failure
        batch = EngineBatch(generator, queue)
        metrics = ServerMetrics()
        metrics.watch(batch)
        limits = RequestLimits(
            positions=generator.ready.positions,
            vocab_size=min(generator.ready.vocab_size, served.tokenizer.vocab_size),
            max_tokens=max_tokens,
            choices=min(batch.capacity, MAX_CHOICES),
        )
        completions = Completions(served, limits, batch, metrics)
        chats = ChatCompletions(served, limits, batch, metrics)
        app = make_app(served, completions, chats, guard, metrics, log=log)
        try:
            await _Server(_config(app), batch, ready, say, signals).serve(sockets=[bound])
            failure = batch.failure
        finally:
            batch.close()

    asyncio.run(run())
    if failure is not None:
        raise failure
    if signal.SIGINT in signals:
        raise Interrupted("stopped by Ctrl-C")


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(GRACE_SECONDS + FORCED_SECONDS),
    )


class _Server(uvicorn.Server):
    """Uvicorn's server, which also watches the engine and handles signals in its own way."""

    def __init__(
        self,
        config: uvicorn.Config,
        batch: EngineBatch,
        ready: Callable[[], object],
        say: Log,
        signals: list[int],
    ) -> None:
        super().__init__(config)
        self._batch = batch
        self._ready = ready
        self._say = say
        self._signals = signals
        self._restart: asyncio.Future[None] | None = None
        self._reported_failure = False
        self._hurried = False
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self.servers = []  # uvicorn's own would accept whatever comes
        (bound,) = sockets or []
        make = partial(Connection, self.config, self.server_state, self.lifespan.state)
        self._listener = Listener(bound, make, room(), self._say)
        self.started = True
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish on the first signal, cancel on a second Ctrl-C, drop everything on a third."""
        self._signals.append(sig)
        if self.should_exit and not self._hurried:
            if sig == signal.SIGINT:
                self._hurried = True
                self._loop.call_soon_threadsafe(self._batch.cancel_all, ENDING)
            return
        if self._hurried:
            # Uvicorn would report what is dropped now as an error.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # uvicorn would raise them again at the end

    async def on_tick(self, counter: int) -> bool:
        if (dead := self._batch.failure) is not None and not self.should_exit:
            if self._restart is None:
                self._say(f"error: {dead}; the engine is started again")
                self._restart = asyncio.ensure_future(self._start_again())
            elif self._restart.done() and not self._reported_failure:
                self._reported_failure = True
                self._say(f"error: {dead}; restart the server")
        return await super().on_tick(counter)

    async def _start_again(self) -> None:
        await self._batch.restart()
        if self._batch.failure is None:
            self._say("the engine answers again")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        batch = self._batch
        batch.draining = True
        self._listener.close()
        if batch.open:
            self._say(
                f"finishing open completions ({batch.open}), at most {GRACE_SECONDS:g} seconds; "
                "Ctrl-C ends at once"
            )
        late = self._loop.call_later(GRACE_SECONDS, batch.cancel_all, ENDING)
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()
