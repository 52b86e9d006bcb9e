"""``llmc bench``: time training steps on this machine, alone or against PyTorch."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmc.builder import ensure_native
from llmc.config import ModelConfig, load_preset
from llmc.context import Context
from llmc.errors import Usage
from llmc.machine import available_cores
from llmc.process import Engine
from llmc.units import megabytes

if TYPE_CHECKING:
    from rich.table import Table

Event = dict[str, Any]


def bench(
    ctx: typer.Context,
    *,
    model: Annotated[
        str, typer.Option(metavar="PRESET", help="Shape of the model, by preset.")
    ] = "gpt2-124m",
    batch_size: Annotated[int, typer.Option(min=1, help="B, rows in a batch.")] = 4,
    seq_len: Annotated[int, typer.Option(min=1, help="T, tokens in a row.")] = 64,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads. Default: one per core.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps a process times, after two.")] = 5,
    against: Annotated[
        Literal["torch", "torch-compile"] | None,
        typer.Option(help="Alternate with PyTorch, eager or compiled, in processes of its own."),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of processes, ours and PyTorch's.")] = 7,
) -> None:
    """Time training steps on random tokens: speed, memory, and where the time goes.

    A step is forward, backward, gradient norm and AdamW. With --against, processes of both sides
    alternate, and the ratio of their median steps is taken pair by pair.
    """
    here: Context = ctx.obj
    config = load_preset(model).model
    if seq_len > config.context:
        raise Usage(f"--seq-len {seq_len} is more than the {config.context} positions of {model}")
    if against is not None and find_spec("torch") is None:
        raise Usage("--against needs PyTorch: pip install 'llmc[torch]'")
    work = Work(config, batch_size, seq_len, threads or available_cores(), steps)
    here.ui.note(
        f"{model}, B={work.B}, T={work.T}, fp32, {work.threads} threads, {steps} steps a process"
    )
    engine = [str(ensure_native(here)), "bench", *work.engine_arguments()]
    timings = [Timing.of(engine)]
    theirs = []
    if against is not None:
        theirs.append(Timing.of(work.torch_argv(compiled=against == "torch-compile")))
        for pair in range(1, pairs):
            here.ui.note(f"pair {pair} of {pairs}: {_pair(timings[-1], theirs[-1])}")
            timings.append(Timing.of(engine))
            theirs.append(Timing.of(work.torch_argv(compiled=against == "torch-compile")))
        here.ui.note(f"pair {pairs} of {pairs}: {_pair(timings[-1], theirs[-1])}")
    _report(here, work, timings, theirs)
    if against is None:
        here.ui.next("llmc bench --against torch")


@dataclass(frozen=True)
class Work:
    """What is timed, the same for both sides."""

    config: ModelConfig
    B: int
    T: int
    threads: int
    steps: int

    def engine_arguments(self) -> list[str]:
        """Return what the engine's ``bench`` is told."""
        shape = {
            **asdict(self.config),
            "batch_size": self.B,
            "seq_len": self.T,
            "threads": self.threads,
            "steps": self.steps,
        }
        return [word for k, v in shape.items() for word in (f"--{k.replace('_', '-')}", str(v))]

    def torch_argv(self, *, compiled: bool) -> list[str]:
        """Return the command line of the twin in PyTorch."""
        request = {**asdict(self), "compiled": compiled}
        return [sys.executable, "-m", "llmc.reference", json.dumps(request)]

    def kernel_flops(self) -> dict[str, float]:
        """Return the floating-point operations of a step, by kernel; a multiply-add counts two.

        Attention counts the half below the diagonal; its backward pass is five such products to
        the forward pass's two.
        """
        L, C, BT = self.config.layers, self.config.channels, self.B * self.T
        qkv, attproj, fc = 2.0 * BT * 3 * C * C * L, 2.0 * BT * C * C * L, 2.0 * BT * 4 * C * C * L
        head = 2.0 * BT * C * self.config.padded_vocab_size
        attention = 2.0 * BT * self.T / 2 * C * L
        return {
            "linear_forward": qkv + head,
            "linear_residual": attproj + fc,
            "linear_gelu": fc,
            "linear_backward_input": qkv + attproj + fc + head,
            "linear_backward_gelu": fc,
            "linear_backward_weight": qkv + attproj + 2 * fc + head,
            "attention_forward": 2 * attention,
            "attention_backward": 5 * attention,
        }


@dataclass(frozen=True)
class Timing:
    """One process's measurements: each step in seconds, and the other events it told."""

    seconds: tuple[float, ...]
    events: tuple[Event, ...]

    @classmethod
    def of(cls, argv: Sequence[str]) -> Timing:
        """Run a process and read its events.

        Raises:
            LlmcError: it failed.
        """
        with Engine(argv) as engine:
            events = [json.loads(line) for line in engine]
        steps = tuple(event["seconds"] for event in events if event["event"] == "step")
        return cls(steps, tuple(event for event in events if event["event"] != "step"))

    @property
    def median(self) -> float:
        """The median step in seconds."""
        return statistics.median(self.seconds)

    @property
    def memory(self) -> int:
        """The largest resident set in bytes."""
        return int(self.events[-1]["peak_memory_bytes"])


def _pair(ours: Timing, theirs: Timing) -> str:
    ratio = theirs.median / ours.median
    return f"{ours.median * 1e3:.0f} ms, PyTorch {theirs.median * 1e3:.0f} ms: {ratio:.2f} times"


def _report(here: Context, work: Work, ours: list[Timing], theirs: list[Timing]) -> None:
    """Print the tables, or the result as JSON."""
    flops = work.kernel_flops()
    total = sum(flops.values())
    seconds = statistics.median(timing.median for timing in ours)
    peak = max(timing.events[0]["peak_flops"] for timing in ours)
    kernels = [event for event in ours[-1].events if event["event"] == "kernel"]
    ratios = [b.median / a.median for a, b in zip(ours, theirs, strict=False)]
    result: Event = {
        "isa": ours[0].events[0]["isa"],
        "threads": work.threads,
        "step_ms": seconds * 1e3,
        "tokens_per_second": work.B * work.T / seconds,
        "flops_per_second": total / seconds,
        "peak_flops_per_second": peak,
        "memory_bytes": max(timing.memory for timing in ours),
        "kernels": {event["name"]: event["seconds"] / work.steps for event in kernels},
    }
    if theirs:
        result["against"] = {
            "step_ms": statistics.median(timing.median for timing in theirs) * 1e3,
            "memory_bytes": max(timing.memory for timing in theirs),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "pairs": len(ratios),
        }
    here.ui.result(result)
    if here.ui.json:
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_kernel_table(work, kernels, flops, ours[-1], peak))
    console.print(
        f"step {result['step_ms']:.0f} ms, {result['tokens_per_second']:,.0f} tokens/s, "
        f"{total / seconds / 1e9:.0f} GF/s, {total / seconds / peak:.0%} of the measured peak "
        f"({peak / 1e9:.0f} GF/s, {result['isa']}), {megabytes(result['memory_bytes'])}"
    )
    if theirs:
        other = result["against"]
        console.print(
            f"PyTorch {other['step_ms']:.0f} ms, {megabytes(other['memory_bytes'])}: llmc is "
            f"{other['ratio']:.2f} times as fast ({other['ratio_min']:.2f} to "
            f"{other['ratio_max']:.2f} in {other['pairs']} pairs), in "
            f"{result['memory_bytes'] / other['memory_bytes']:.2f} of its memory"
        )


def _kernel_table(
    work: Work, kernels: list[Event], flops: dict[str, float], timing: Timing, peak: float
) -> Table:
    from rich.table import Table

    table = Table("kernel", box=None, pad_edge=False)
    for name in ("calls", "ms a step", "share", "GF/s", "of peak"):
        table.add_column(name, justify="right")
    step = sum(timing.seconds) / work.steps
    for event in sorted(kernels, key=lambda event: -event["seconds"]):
        seconds = event["seconds"] / work.steps
        rate = flops[event["name"]] / seconds if event["name"] in flops else None
        table.add_row(
            event["name"],
            f"{event['calls'] / work.steps:.0f}",
            f"{seconds * 1e3:.1f}",
            f"{seconds / step:.1%}",
            f"{rate / 1e9:.0f}" if rate else "",
            f"{rate / peak:.0%}" if rate else "",
        )
    return table
