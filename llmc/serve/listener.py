"""Accept connections, no more at a time than the server and the system have room for."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable
from contextlib import suppress

from llmc.serve.connection import Connection

MOST_CONNECTIONS = 512
OTHER_FILES = 48  # that the server and a second engine open
BACKLOG = 2048  # connections that the system holds until they are accepted
FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
FULL_SECONDS = 1.0  # before the next try
IDLE_SECONDS = 1.0  # before an idle connection has to make room for another one


def room() -> int:
    """Return how many connections may be open; raise this process's limit of files for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MOST_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    files = needed if soft == resource.RLIM_INFINITY else min(soft, needed)
    return max(1, files - OTHER_FILES)


class Listener:
    """Accepts the connections of a socket. Where ``most`` are open, further ones wait.

    Those that wait are in the system's queue and cost this process nothing. The connection that has
    been idle for the longest time makes room for the next.
    """

    def __init__(
        self,
        bound: socket.socket,
        make: Callable[[], Connection],
        most: int,
        say: Callable[[str], object],
    ) -> None:
        """Listen; ``make`` returns a connection, ``say`` takes a message when all are taken."""
        self._bound = bound
        self._make = make
        self._most = most
        self._say = say
        self._open: set[Connection] = set()
        self._closed = asyncio.Event()
        bound.setblocking(False)
        bound.listen(BACKLOG)
        self._task = asyncio.ensure_future(self._accept_all())

    def close(self) -> None:
        """Accept no more. The socket stays open."""
        self._task.cancel()

    async def _accept_all(self) -> None:
        said = False
        while True:
            if len(self._open) >= self._most and not said:
                said = True
                self._say(
                    f"all {self._most} connections are in use: idle ones are closed, and further "
                    "clients wait"
                )
            while len(self._open) >= self._most:
                await self._make_room()
            await self._accept()

    async def _make_room(self) -> None:
        """Close the connection that is idle for the longest time, or wait a moment for one."""
        now = asyncio.get_running_loop().time()
        idle = [each for each in self._open if each.idle_since is not None]
        oldest = min(idle, key=lambda each: each.idle_since or 0, default=None)
        self._closed.clear()
        seconds = IDLE_SECONDS
        if oldest is not None and oldest.idle_since is not None:
            seconds = oldest.idle_since + IDLE_SECONDS - now
            if seconds <= 0:
                oldest.transport.abort()
                seconds = IDLE_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                link, _ = await loop.sock_accept(self._bound)
                break
            except OSError as error:  # the client has left already, or the system has no room
                await asyncio.sleep(FULL_SECONDS if error.errno in FULL else 0)
        connection = self._make()
        connection.when_closed = self._forget
        self._open.add(connection)
        try:
            await loop.connect_accepted_socket(lambda: connection, link)
        except OSError:
            link.close()
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._closed.set()
