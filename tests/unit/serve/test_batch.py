"""Requests together in one engine, counted: over a stand-in that says what a test has it say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from llmc.engine.generator import Deliver, Generator
from llmc.engine.protocol import End, Ready, Request, Token
from llmc.errors import LlmcError, Usage
from llmc.serve.batch import EngineBatch
from llmc.serve.refusals import Refused

REQUEST = Request([1])


class Silent:
    """An engine with one slot that takes requests, and refuses one of them, once.

    Attributes:
        asked: who waits for events, by name.
        cancelled: the names that were cancelled.
    """

    ready = Ready(1, 64, 257, "fp32", "none", 1)
    failure = None

    def __init__(self, refuses: int = 0, why: LlmcError | None = None) -> None:
        self.asked: dict[str, Deliver] = {}
        self.cancelled: list[str] = []
        self._refuses = refuses
        self._why = why

    def submit(self, request: Request, deliver: Deliver) -> str:
        if len(self.asked) + 1 == self._refuses and self._why is not None:
            why, self._why = self._why, None
            raise why
        name = f"r{len(self.asked) + 1}"
        self.asked[name] = deliver
        return name

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)


def in_a_loop(engine: Silent, hold: Callable[[EngineBatch], None]) -> None:
    """Call ``hold`` with a batch that has two places to wait."""

    async def run() -> None:
        hold(EngineBatch(cast(Generator, engine), 2))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("why", "status", "said"),
    [
        (Usage("a prompt of 600,000 tokens is more than the engine reads"), 400, "600,000 tokens"),
        (LlmcError("the engine was closed"), 503, "The engine has ended .the engine was closed"),
    ],
)
def test_what_fails_halfway_leaves_nothing_open(why: LlmcError, status: int, said: str) -> None:
    engine = Silent(refuses=3, why=why)

    def hold(batch: EngineBatch) -> None:
        with pytest.raises(Refused, match=said) as caught:
            batch.submit([REQUEST] * 3)
        assert caught.value.status_code == status
        assert engine.cancelled == ["r1", "r2"]
        assert batch.open == 2  # until the engine says that it has let go of them
        for deliver in engine.asked.values():
            deliver(End("cancelled"))
        batch._sort()
        assert (batch.open, batch.running) == (0, 0)
        batch.submit([REQUEST])
        assert batch.open == 1

    in_a_loop(engine, hold)


def test_the_wait_in_the_queue_is_no_part_of_what_a_completion_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is what was cancelled in the queue; the wait for a slot is told by rounds of these."""
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("llmc.serve.batch.time", clock)
    engine = Silent()

    def hold(batch: EngineBatch) -> None:
        nonlocal now
        batch.submit([REQUEST] * 3)
        first, second, third = engine.asked.values()
        for begins, deliver in ((0.0, first), (100.0, second)):
            now = begins
            deliver(Token(1, 0.0))
            batch._sort()
            now = begins + 1
            deliver(End("length"))
            batch._sort()
        now = 1000
        third(End("cancelled"))
        batch._sort()
        assert batch.seconds_to_wait() == 1
        batch.submit([REQUEST] * 3)
        assert batch.seconds_to_wait() == 3

    in_a_loop(engine, hold)
