"""Benchmarks: what is timed, and the results as numbers.

docs/reference/bench.md explains every number.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from llmc.check.timing import Event, Timing, TorchProcess, attention_of, comparison, in_pairs
from llmc.engine.build import ensure_native
from llmc.engine.machine import default_threads, instruction_sets
from llmc.errors import Usage
from llmc.installation import install_command
from llmc.model import ModelConfig, attention_flops, gemm_flops, step_flops
from llmc.preset import load_preset, preset_names
from llmc.report import SILENT, Report
from llmc.units import milliseconds

MEASURED = ("fp32", "bf16")  # the types that training multiplies


@dataclass(frozen=True)
class Work:
    """What is timed, for the engine and for PyTorch: B rows of T tokens, ``steps`` times."""

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

    def torch_request(self, what: str, *, compiled: bool = False) -> str:
        """Return the line that asks PyTorch for this; ``what`` is "steps" or "attention"."""
        return json.dumps({"what": what, "compiled": compiled, **asdict(self)})

    def step_flops(self) -> dict[str, float]:
        """Return the operations of a training step, by the engine's kernel names."""
        return step_flops(self.config, self.B, self.T)


def step_result(work: Work, timings: Sequence[Timing]) -> Event:
    """Return what processes of ``llmc-native bench`` measured.

    Shares are of the median peak, measured between the steps, so that a slow phase of the machine
    affects both.
    """
    flops = work.step_flops()
    seconds = statistics.median(timing.median for timing in timings)
    machine = _machine([event for timing in timings for event in timing.of_kind("peak")])
    peak = machine["peak_flops_per_second"]
    steps = sum(len(timing.seconds) for timing in timings)
    mean = sum(sum(timing.seconds) for timing in timings) / steps
    booked: dict[str, tuple[float, float]] = {}
    for event in (event for timing in timings for event in timing.of_kind("kernel")):
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
    """Return what a process of ``llmc-native bench-kernels`` measured, in the order of a step."""
    calls = timing.calls
    machine = _machine(timing.of_kind("peak"))
    peak = machine["peak_flops_per_second"]
    attention = attention_flops(work.B, work.T, work.config.channels)
    kernels = {}
    for event in timing.of_kind("kernel"):
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
    """Return what a process of ``llmc-native bench-decode`` measured.

    Shares are of the speed at which a plain loop reads the same weights, measured at every step.
    """
    total, seconds = timing.start["bytes"], timing.median
    reading = statistics.median(event["seconds"] for event in timing.of_kind("read"))
    calls = timing.calls
    read_rate = total / reading
    kernels = {}
    for event in timing.of_kind("kernel"):
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


def _machine(events: Sequence[Event]) -> Event:
    """Return the peak speed of the machine, measured between the steps."""
    peaks = [event["flops"] for event in events]
    trip = statistics.median(event["round_trip"] for event in events)
    return {
        "peak_flops_per_second": statistics.median(peaks),
        "best_peak_flops_per_second": max(peaks),
        **({"round_trip_ns": trip * 1e9} if trip else {}),  # a single thread has none
    }


def _rates(flops: float | None, moved: int | None, seconds: float, peak: float) -> dict[str, float]:
    """Return the operations or the bytes a second of a kernel."""
    if flops:
        return {"flops_per_second": flops / seconds, "share_of_peak": flops / seconds / peak}
    return {"bytes_per_second": moved / seconds} if moved else {}


def work_of(
    what: str,
    model: str,
    *,
    batch_size: int | None,
    seq_len: int,
    dtype: str,
    threads: int | None,
    steps: int,
    against: str | None,
) -> Work:
    """Return the work that the options of ``llmc bench`` ask for.

    Raises:
        Usage: the options do not fit each other, or PyTorch is not installed.
    """
    size = f"gpt2-{model.lower()}"
    config = load_preset(size if size in preset_names() else model).model
    if seq_len > config.context:
        raise Usage(f"--seq-len {seq_len} is more than the {config.context} positions of {model}")
    if against == "torch-compile" and what == "kernels":
        raise Usage("kernels are compared with --against torch: it compiles nothing to compare")
    if what == "decode" and against is not None:
        raise Usage("decoding is measured against reading its weights: leave out --against")
    if what != "decode" and dtype == "int8":
        raise Usage("int8 is for decoding alone: llmc bench decode --dtype int8")
    if against is not None and find_spec("torch") is None:
        raise Usage(f"--against needs PyTorch: {install_command('torch')}")
    rows = batch_size or (1 if what == "decode" else 4)
    return Work(config, rows, seq_len, threads or default_threads(), steps, dtype)


def bench_steps(work: Work, against: str | None, pairs: int, *, report: Report = SILENT) -> Event:
    """Time whole training steps, and those of PyTorch in turn if ``against`` names it.

    Raises:
        LlmcError: a process failed.
    """
    argv = work.engine_argv(ensure_native(report=report), "bench")
    compared = []
    if against is not None:
        theirs = work.torch_request("steps", compiled=against == "torch-compile")
        compared = _alternate(lambda: Timing.of(argv), theirs, pairs, report)
    result = step_result(work, [ours for ours, _ in compared] or [Timing.of(argv)])
    _note_floats(work, result, report)
    if compared:
        result["against"] = other = comparison(compared)
        other["memory_bytes"] = max(theirs.memory for _, theirs in compared)
        other["memory_ratio"] = result["memory_bytes"] / other["memory_bytes"]
    return result


def bench_kernels(work: Work, against: str | None, pairs: int, *, report: Report = SILENT) -> Event:
    """Time each kernel alone; ``against`` compares attention, forward and backward together.

    Raises:
        LlmcError: a process failed.
    """
    argv = work.engine_argv(ensure_native(report=report), "bench-kernels")
    result = kernels_result(work, Timing.of(argv))
    _note_floats(work, result, report)
    if against is not None:
        ours, theirs = [*argv, "--only", "attention"], work.torch_request("attention")
        compared = _alternate(lambda: attention_of(Timing.of(ours)), theirs, pairs, report)
        result["against"] = comparison(compared)
    return result


def bench_decode(work: Work, against: str | None, pairs: int, *, report: Report = SILENT) -> Event:
    """Time the linear layers for one token; nothing is compared.

    Raises:
        LlmcError: the process failed.
    """
    del against, pairs
    return decode_result(
        work, Timing.of(work.engine_argv(ensure_native(report=report), "bench-decode"))
    )


def bench_tables(*, report: Report = SILENT) -> Event:
    """Measure how fast one thread of each table of kernels multiplies, in fp32 and in bf16.

    Returns:
        ``tables``: by name, slowest first, ``runnable`` and the rates ``fp32_flops`` and
        ``bf16_flops`` per second where it runs; ``chosen``: the table that each type trains with.

    Raises:
        LlmcError: a process failed, or LLMC_ISA names a table that cannot run.
    """
    binary = ensure_native(report=report)
    events = [list(instruction_sets(binary, dtype, rates=dtype == "fp32")) for dtype in MEASURED]
    tables = {event.pop("isa"): event for event in events[0][:-1]}
    for row in tables.values():
        del row["event"]
    chosen = {dtype: found[-1]["isa"] for dtype, found in zip(MEASURED, events, strict=True)}
    return {"tables": tables, "chosen": chosen}


def _note_floats(work: Work, result: Event, report: Report) -> None:
    if work.dtype == "bf16" and not result["multiplies_bf16"]:
        report.note(f"bf16 was multiplied as floats: {result['isa']} has no instruction for it")


def _alternate(
    ours: Callable[[], Timing], request: str, pairs: int, report: Report
) -> list[tuple[Timing, Timing]]:
    compared = []
    with TorchProcess() as torch:
        for a, b in in_pairs(ours, lambda: torch.time(request), pairs):
            compared.append((a, b))
            report.note(
                f"pair {len(compared)} of {pairs}: {milliseconds(a.median * 1e3)}, PyTorch "
                f"{milliseconds(b.median * 1e3)}: {b.median / a.median:.2f} times"
            )
    return compared
