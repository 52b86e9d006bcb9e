"""The server's life: it listens, says so, answers, and ends in peace."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from llmc.engine.generator import Generator
from llmc.errors import Interrupted, Usage
from llmc.serve.app import Log, make_app
from llmc.serve.batch import EngineBatch
from llmc.serve.completions import Completions
from llmc.serve.connection import Connection
from llmc.serve.guard import Guard
from llmc.serve.metrics import ServerMetrics
from llmc.serve.schema import MAX_CHOICES, RequestLimits
from llmc.serve.served import ServedModel

GRACE_SECONDS = 30.0  # for what is being written when the server is told to end
FORCED_SECONDS = 5.0  # more, for the answers to be read
MOST_CONNECTIONS = 512
ENDING = "the server is shutting down"


@dataclass(frozen=True)
class Settings:
    """How much the server takes on.

    Attributes:
        queue: completions that may wait beyond the engine's slots.
        max_tokens: that a completion may ask for.
    """

    queue: int
    max_tokens: int


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; it does not accept yet.

    Raises:
        Usage: it is no address of this machine, or somebody else has the port.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may be an address of both kinds; whoever types it tries the older kind at least.
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
    """Return the address to type into a browser on this machine."""
    port = bound.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def serve(
    bound: socket.socket,
    generator: Generator,
    served: ServedModel,
    guard: Guard,
    settings: Settings,
    *,
    ready: Callable[[], object],
    say: Log,
    log: Log,
) -> None:
    """Answer requests until a signal comes; then finish what is being written, and return.

    Args:
        bound: where to listen.
        generator: the engine, started.
        served: what is served.
        guard: who may ask.
        settings: how much is taken on.
        ready: called once requests are answered.
        say: told what the person at the terminal should know.
        log: told of every answer.

    Raises:
        LlmcError: the engine died; requests were refused until the signal came.
        Interrupted: the signal was Ctrl-C's.
    """
    signals: list[int] = []
    # Of clients that leave while they are answered, asyncio warns; here that is no news.
    logging.getLogger("asyncio").setLevel(logging.ERROR)

    async def run() -> None:
        batch = EngineBatch(generator, settings.queue)
        app = _app(batch, served, guard, settings, log)
        await _Server(_config(app), batch, ready, say, signals).serve(sockets=[bound])

    asyncio.run(run())
    if generator.failure is not None:
        raise generator.failure
    if signal.SIGINT in signals:
        raise Interrupted("stopped by Ctrl-C")


def _app(
    batch: EngineBatch, served: ServedModel, guard: Guard, settings: Settings, log: Log
) -> ASGIApp:
    metrics = ServerMetrics()
    metrics.watch(batch)
    ready = batch.generator.ready
    limits = RequestLimits(
        positions=ready.positions,
        vocab_size=ready.vocab_size,
        max_tokens=settings.max_tokens,
        choices=min(batch.capacity, MAX_CHOICES),
    )
    completions = Completions(served.name, served.tokenizer, limits, batch, metrics)
    return make_app(served, completions, guard, metrics, log)


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=int(GRACE_SECONDS + FORCED_SECONDS),
    )


class _Server(uvicorn.Server):
    """Uvicorn's, which also minds the engine, and leaves the signals' meaning to the caller."""

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
        self._told_of_death = False
        self._hurried = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the first to finish, a second Ctrl-C to cut short, a third to drop all."""
        self._signals.append(sig)
        if self._loop is not None and self.should_exit and not self._hurried:
            if sig == signal.SIGINT:
                self._hurried = True
                self._loop.call_soon_threadsafe(self._batch.cancel_all, ENDING)
            return
        if self._hurried:
            # What is dropped now would be told as a failure.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # they would be raised again in the end

    async def on_tick(self, counter: int) -> bool:
        if (dead := self._batch.failure) is not None and not self._told_of_death:
            self._told_of_death = True
            self._say(f"error: {dead}; requests are refused until this server is started again")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        batch = self._batch
        batch.draining = True
        if batch.open:
            self._say(
                f"finishing what is being written (completions: {batch.open}), "
                f"{GRACE_SECONDS:g} seconds at most; Ctrl-C ends at once"
            )
        late = asyncio.get_running_loop().call_later(GRACE_SECONDS, batch.cancel_all, ENDING)
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()
