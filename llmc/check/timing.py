"""What a benchmark measures: the processes that are timed, in turn, and the ratio of their times.

The engine and PyTorch run in separate processes that take turns. PyTorch's idle threads spin, so
its process is stopped while the engine works.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmc.engine.process import Engine
from llmc.errors import LlmcError

Event = dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """One process's measurements: the seconds of each step, and its other events."""

    seconds: tuple[float, ...]
    events: tuple[Event, ...]

    @classmethod
    def of(cls, argv: Sequence[str], name: str = "the engine") -> Timing:
        """Run a process to its end and read its events; error messages call it ``name``.

        Raises:
            LlmcError: it failed.
        """
        with Engine(argv, name=name) as engine:
            return cls.of_events(engine.events())

    @classmethod
    def of_events(cls, events: Iterable[Event]) -> Timing:
        """Return what the events of one run say."""
        kept = list(events)
        steps = tuple(event["seconds"] for event in kept if event["event"] == "step")
        return cls(steps, tuple(event for event in kept if event["event"] != "step"))

    def of_kind(self, kind: str) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def start(self) -> Event:
        """The event before the first step."""
        return self.of_kind("start")[0]

    @property
    def calls(self) -> dict[str, list[float]]:
        """The seconds of every single call, by kernel."""
        found: dict[str, list[float]] = {}
        for event in self.of_kind("call"):
            found.setdefault(event["name"], []).append(event["seconds"])
        return found

    @property
    def median(self) -> float:
        """The median step in seconds."""
        return statistics.median(self.seconds)

    @property
    def memory(self) -> int:
        """The largest resident set in bytes."""
        return int(self.of_kind("end")[0]["peak_memory_bytes"])


class TorchProcess:
    """PyTorch in a process of its own, stopped unless it is being timed: a context manager."""

    def __init__(self) -> None:
        # -P: no module of the folder in which it runs is imported.
        argv = [sys.executable, "-P", "-m", "llmc.check.torch_bench"]
        self._process = Engine(argv, name="PyTorch", has_stdin=True)

    def __enter__(self) -> TorchProcess:
        """Start Python; PyTorch is imported by the first request."""
        self._process.__enter__()
        self._events = self._process.events()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.resume()
        self._process.__exit__(*error)

    def time(self, request: str) -> Timing:
        """Run a request of :meth:`Work.torch_request` to its end.

        Raises:
            LlmcError: it failed.
        """
        self._process.resume()
        with contextlib.suppress(OSError):  # it has ended; the reason is among its events
            self._process.send(request)
        timing = Timing.of_events(self._until_the_end())
        self._process.pause()
        return timing

    def _until_the_end(self) -> Iterator[Event]:
        for event in self._events:
            yield event
            if event["event"] == "end":
                return
        raise LlmcError("PyTorch's process ended before it had run its steps")


def attention_of(timing: Timing) -> Timing:
    """Return attention's share of ``bench-kernels`` as steps: forward and backward together."""
    calls = timing.calls
    both = zip(calls["attention_forward"], calls["attention_backward"], strict=True)
    sums = tuple(forward + backward for forward, backward in both)
    return Timing(sums, timing.events)


def in_pairs(
    ours: Callable[[], Timing], theirs: Callable[[], Timing], pairs: int
) -> Iterator[tuple[Timing, Timing]]:
    """Run both sides in turn and yield each pair; the side that starts alternates."""
    for pair in range(pairs):
        if pair % 2:
            second, first = theirs(), ours()
        else:
            first, second = ours(), theirs()
        yield first, second


def comparison(pairs: Sequence[tuple[Timing, Timing]]) -> Event:
    """Return how many times as fast the engine is as PyTorch.

    The ratio is taken pair by pair, because a slow phase of the machine affects neighbours alike.
    """
    ratios = [theirs.median / ours.median for ours, theirs in pairs]
    return {
        "torch": pairs[0][1].start["torch"],
        "threads": pairs[0][1].start["threads"],
        "ours_ms": statistics.median(ours.median for ours, _ in pairs) * 1e3,
        "theirs_ms": statistics.median(theirs.median for _, theirs in pairs) * 1e3,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "pairs": len(ratios),
    }
