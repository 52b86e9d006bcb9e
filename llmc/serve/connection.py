"""An HTTP connection with timeouts: for a request's head, and for a client that does not read."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
STALLED_SECONDS = 30.0


class Connection(H11Protocol):
    """Uvicorn's connection, with a timeout for every wait that a client can prolong."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for a request's head."""
        super().connection_made(transport)
        # Data that is not sent at once counts as unread.
        transport.set_write_buffer_limits(high=0)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop("head")
        self._stop("stall")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; a head that has begun must be completed in time."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop("head")
        elif "head" not in self._timers and self.conn.trailing_data[0]:
            self._expect_head()

    def pause_writing(self) -> None:
        """Start the timer for a client that does not read."""
        super().pause_writing()
        if "stall" not in self._timers:
            abort = self.loop.call_later(STALLED_SECONDS, self.transport.abort)
            self._timers["stall"] = abort

    def resume_writing(self) -> None:
        """Stop the timer: everything was read."""
        self._stop("stall")
        super().resume_writing()

    def _expect_head(self) -> None:
        self._timers["head"] = self.loop.call_later(HEAD_SECONDS, self._headless)

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
