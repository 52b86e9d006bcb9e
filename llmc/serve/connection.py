"""An HTTP connection with timeouts for every wait that a client can prolong.

They are for a request's head, for a body that nobody waits for, and for a client that does not
read. The guard has the one for a body that is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
STALLED_SECONDS = 30.0
UNREAD_SECONDS = 5.0  # for the rest of a body whose answer is sent


class Connection(H11Protocol):
    """Uvicorn's connection with these timeouts.

    Attributes:
        when_closed: called once, with the connection, when it is closed.
        idle_since: when it began to wait for a request, by the loop's clock; None once the whole
            request is there and until it is answered.
    """

    when_closed: Callable[[Connection], object] | None = None
    idle_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for a request's head."""
        super().connection_made(transport)
        # Data that is not sent at once counts as unread.
        transport.set_write_buffer_limits(high=0)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._start("head", HEAD_SECONDS, self._headless)
        self.idle_since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        for name in tuple(self._timers):
            self._stop(name)
        super().connection_lost(exc)
        if self.when_closed is not None:
            self.when_closed(self)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; a head that has begun must be completed in time."""
        super().data_received(data)
        if self.conn.their_state is not h11.SEND_BODY:
            self._stop("unread")
        if self.conn.their_state is not h11.IDLE:
            self._stop("head")
            if self.conn.their_state is not h11.SEND_BODY:
                self.idle_since = None
        elif self.conn.trailing_data[0]:
            self._start("head", HEAD_SECONDS, self._headless)

    def on_response_complete(self) -> None:
        """Start the timer for the rest of a body: its bytes would keep the connection open."""
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE:
            self.idle_since = self.loop.time()
        if self.conn.their_state is h11.SEND_BODY:
            self._start("unread", UNREAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read."""
        super().pause_writing()
        self._start("stall", STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer: everything was read."""
        self._stop("stall")
        super().resume_writing()

    def _start(self, name: str, seconds: float, then: Callable[[], object]) -> None:
        if name not in self._timers:
            self._timers[name] = self.loop.call_later(seconds, then)

    def _stop(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

    def _headless(self) -> None:
        """Close the connection; answer 408 if a head has begun."""
        self._stop("head")
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
        self.transport.close()
