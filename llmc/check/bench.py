"""What the benchmarks measure: the work, the processes that do it, the arithmetic on their times.

The engine and PyTorch run in processes of their own, in turn: PyTorch's idle threads spin, and
would take a core from whatever runs next in the same process.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmc.engine.process import Engine
from llmc.model import ModelConfig, attention_flops, gemm_flops, step_flops

Event = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What is timed, the same for both sides: B rows of T tokens, ``steps`` times."""

    config: ModelConfig
    B: int
    T: int
    threads: int
    steps: int
    dtype: str = "fp32"

    def engine_argv(self, binary: Path, subcommand: str) -> list[str]:
        """Return the engine's command line."""
        flags = {
            **asdict(self.config),
            "batch_size": self.B,
            "seq_len": self.T,
            "threads": self.threads,
            "steps": self.steps,
            "dtype": self.dtype,
        }
        words = [word for k, v in flags.items() for word in (f"--{k.replace('_', '-')}", str(v))]
        return [str(binary), subcommand, *words]

    def torch_argv(self, what: str, *, compiled: bool = False) -> list[str]:
        """Return PyTorch's command line: ``what`` is "steps" or "attention"."""
        request = {"what": what, "compiled": compiled, **asdict(self)}
        return [sys.executable, "-m", "llmc.check.torch_bench", json.dumps(request)]

    def step_flops(self) -> dict[str, float]:
        """Return the operations of a training step, by the engine's kernel names."""
        return step_flops(self.config, self.B, self.T)


@dataclass(frozen=True)
class Timing:
    """One process's measurements: each step in seconds, and the other events it told."""

    seconds: tuple[float, ...]
    events: tuple[Event, ...]

    @classmethod
    def of(cls, argv: Sequence[str], name: str = "the engine") -> Timing:
        """Run a process to its end and read its events; ``name`` is what errors call it.

        Raises:
            LlmcError: it failed.
        """
        with Engine(argv, name=name) as engine:
            events = list(engine.events())
        steps = tuple(event["seconds"] for event in events if event["event"] == "step")
        return cls(steps, tuple(event for event in events if event["event"] != "step"))

    def told(self, kind: str) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def start(self) -> Event:
        """What the process said of itself before it began."""
        return self.told("start")[0]

    @property
    def median(self) -> float:
        """The median step in seconds."""
        return statistics.median(self.seconds)

    @property
    def memory(self) -> int:
        """The largest resident set in bytes."""
        return int(self.told("end")[0]["peak_memory_bytes"])


def attention_of(timing: Timing) -> Timing:
    """Return attention's share of ``bench-kernels`` as steps: forward and backward together."""
    forward, backward = (
        [event["seconds"] for event in timing.told("call") if event["name"] == name]
        for name in ("attention_forward", "attention_backward")
    )
    sums = tuple(a + b for a, b in zip(forward, backward, strict=True))
    return Timing(sums, timing.events)


def in_pairs(
    ours: Callable[[], Timing], theirs: Callable[[], Timing], pairs: int
) -> Iterator[tuple[Timing, Timing]]:
    """Run both sides in turn, and yield each pair; who begins changes from pair to pair."""
    for pair in range(pairs):
        if pair % 2 == 0:
            first, second = ours(), theirs()
            yield first, second
        else:
            second, first = theirs(), ours()
            yield first, second


def step_result(work: Work, timings: Sequence[Timing]) -> Event:
    """Return what processes of ``bench`` measured, as numbers.

    docs/reference/bench.md says what each is. Shares are of the median of the peaks that were
    measured in between: what slows the machine down for a while slows down both.
    """
    flops = work.step_flops()
    seconds = statistics.median(timing.median for timing in timings)
    machine = _machine([event for timing in timings for event in timing.told("peak")])
    peak = machine["peak_flops_per_second"]
    steps = sum(len(timing.seconds) for timing in timings)
    mean = sum(sum(timing.seconds) for timing in timings) / steps
    booked: dict[str, tuple[float, float]] = {}
    for event in (event for timing in timings for event in timing.told("kernel")):
        calls, spent = booked.get(event["name"], (0, 0))
        booked[event["name"]] = calls + event["calls"], spent + event["seconds"]
    kernels = {}
    for name, (calls, spent) in sorted(booked.items(), key=lambda item: -item[1][1]):
        row = {"calls": calls / steps, "ms": spent / steps * 1e3, "share": spent / steps / mean}
        kernels[name] = row | _rates(flops.get(name), None, spent / steps, peak)
    total = sum(flops.values())
    return {
        "isa": timings[0].start["isa"],
        "multiplies_bf16": timings[0].start["multiplies_bf16"],
        "step_ms": seconds * 1e3,
        "tokens_per_second": work.B * work.T / seconds,
        "flops_per_second": total / seconds,
        "share_of_peak": total / seconds / peak,
        **machine,
        "memory_bytes": max(timing.memory for timing in timings),
        "kernels": kernels,
    }


def kernels_result(work: Work, timing: Timing) -> Event:
    """Return what a process of ``bench-kernels`` measured, likewise; in the order of a step."""
    calls: dict[str, list[float]] = {}
    for event in timing.told("call"):
        calls.setdefault(event["name"], []).append(event["seconds"])
    machine = _machine(timing.told("peak"))
    peak = machine["peak_flops_per_second"]
    attention = attention_flops(work.B, work.T, work.config.channels)
    kernels = {}
    for event in timing.told("kernel"):
        name, shape = event["name"], {key: event[key] for key in "MNK" if event["M"]}
        seconds = statistics.median(calls[name])
        row = {"calls": len(calls[name]), "ms": seconds * 1e3, "best_ms": min(calls[name]) * 1e3}
        flops = gemm_flops(**shape) if shape else attention.get(name)
        kernels[name] = shape | row | _rates(flops, event["bytes"], seconds, peak)
    return {
        "isa": timing.start["isa"],
        "multiplies_bf16": timing.start["multiplies_bf16"],
        **machine,
        "memory_bytes": timing.memory,
        "kernels": kernels,
    }


def decode_result(work: Work, timing: Timing) -> Event:
    """Return what a process of ``bench-decode`` measured, likewise.

    Shares are of the speed at which a plain loop read the same weights, next to every step.
    """
    total, seconds = timing.start["bytes"], timing.median
    reading = statistics.median(event["seconds"] for event in timing.told("read"))
    calls: dict[str, list[float]] = {}
    for event in timing.told("call"):
        calls.setdefault(event["name"], []).append(event["seconds"])
    read_rate = total / reading
    kernels = {}
    for event in timing.told("kernel"):
        spent, shape = calls[event["name"]], {key: event[key] for key in "MNK"}
        rate = event["bytes"] / (median := statistics.median(spent))
        kernels[event["name"]] = shape | {
            "calls": len(spent),
            "ms": median * 1e3,
            "best_ms": min(spent) * 1e3,
            "bytes_per_second": rate,
            "share_of_reading": rate / read_rate,
        }
    return {
        "isa": timing.start["isa"],
        "step_ms": seconds * 1e3,
        "tokens_per_second": work.B / seconds,
        "weight_bytes": total,
        "bytes_per_second": total / seconds,
        "read_bytes_per_second": read_rate,
        "share_of_reading": reading / seconds,
        "memory_bytes": timing.memory,
        "kernels": kernels,
    }


def as_floats(work: Work, result: Event) -> bool:
    """Say whether bf16 was multiplied as floats: the instruction set has nothing for it."""
    return work.dtype == "bf16" and not result["multiplies_bf16"]


def _machine(events: Sequence[Event]) -> Event:
    """Return what the machine could do at most, measured between what was timed."""
    peaks = [event["flops"] for event in events]
    trip = statistics.median(event["round_trip"] for event in events)
    return {
        "peak_flops_per_second": statistics.median(peaks),
        "best_peak_flops_per_second": max(peaks),
        **({"round_trip_ns": trip * 1e9} if trip else {}),  # there is none with a single thread
    }


def _rates(flops: float | None, moved: int | None, seconds: float, peak: float) -> dict[str, float]:
    """Return operations or bytes a second, whichever a kernel is measured by."""
    if flops:
        return {"flops_per_second": flops / seconds, "share_of_peak": flops / seconds / peak}
    return {"bytes_per_second": moved / seconds} if moved else {}


def comparison(pairs: Sequence[tuple[Timing, Timing]]) -> Event:
    """Return how many times as fast ours is as theirs, likewise.

    The ratio is taken pair by pair: what slows the machine down slows down neighbours alike.
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
