"""``llmc bench``: time training steps, single kernels or decoding, alone or against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmc.check.bench import (
    Event,
    Timing,
    Work,
    as_floats,
    attention_of,
    comparison,
    decode_result,
    in_pairs,
    kernels_result,
    step_result,
)
from llmc.cli.context import Context
from llmc.config import load_preset, preset_names
from llmc.engine.build import ensure_native
from llmc.engine.machine import available_cores
from llmc.errors import Usage
from llmc.installation import install_command
from llmc.units import megabytes, milliseconds

if TYPE_CHECKING:
    from rich.table import Table

Pairs = list[tuple[Timing, Timing]]


def bench(
    ctx: typer.Context,
    what: Annotated[
        Literal["step", "kernels", "decode"],
        typer.Argument(
            help="Whole training steps; every kernel call of training steps; or the products "
            "of decoding a token."
        ),
    ] = "step",
    *,
    model: Annotated[
        str, typer.Option(metavar="SIZE|PRESET", help="Shape: 124M … 1558M, or a preset.")
    ] = "124M",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="B, rows in a batch; texts decoded together. Default: 4; decoding, 1."
        ),
    ] = None,
    seq_len: Annotated[int, typer.Option(min=1, help="T, tokens in a row.")] = 64,
    dtype: Annotated[
        Literal["fp32", "bf16", "int8"],
        typer.Option(help="What is computed in; PyTorch by autocast. int8: decoding alone."),
    ] = "fp32",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads. Default: one per core.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps that a process times.")] = 5,
    against: Annotated[
        Literal["torch", "torch-compile"] | None,
        typer.Option(help="Alternate with PyTorch, eager or compiled, in processes of its own."),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of processes, ours and PyTorch's.")] = 7,
) -> None:
    """Benchmark training steps, kernels or decoding.

    A step is forward, backward, gradient norm and AdamW. With --against, processes of both sides
    alternate, and the ratio of their medians is taken pair by pair: of steps, or of attention.
    Decoding is held against the speed at which its weights can be read.
    """
    here: Context = ctx.obj
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
    work = Work(config, rows, seq_len, threads or available_cores(), steps, dtype)
    length = "" if what == "decode" else f" T={work.T},"
    here.ui.note(
        f"{model}, B={work.B},{length} {dtype}, threads: {work.threads}, steps a process: {steps}"
    )
    result = {
        "model": model,
        "batch_size": work.B,
        **({} if what == "decode" else {"seq_len": work.T}),
        "dtype": dtype,
        "threads": work.threads,
    }
    run = {"step": bench_steps, "kernels": bench_kernels, "decode": bench_decode}[what]
    here.ui.result(result | run(here, work, against, pairs))
    if what == "decode":
        here.ui.next(f"llmc bench decode --dtype {'bf16' if dtype == 'int8' else 'int8'}")
    elif against is None:
        here.ui.next(f"llmc bench{' kernels' if what == 'kernels' else ''} --against torch")


def bench_steps(here: Context, work: Work, against: str | None, pairs: int) -> Event:
    """Time whole steps, print what came out unless ``--json`` is asked for, and return it.

    Raises:
        LlmcError: a process failed.
    """
    argv = work.engine_argv(ensure_native(report=here.ui), "bench")
    compared: Pairs = []
    if against is None:
        timings = [Timing.of(argv)]
    else:
        theirs = work.torch_argv("steps", compiled=against == "torch-compile")
        compared = _alternate(here, lambda: Timing.of(argv), theirs, pairs)
        timings = [ours for ours, _ in compared]
    result = step_result(work, timings)
    _say_floats(here, work, result)
    _print(here, _step_table(result))
    _print(
        here,
        f"step {milliseconds(result['step_ms'])}, {result['tokens_per_second']:,.0f} tokens/s, "
        f"{_giga(result['flops_per_second'])} GF/s, {megabytes(result['memory_bytes'])}\n"
        f"{result['share_of_peak']:.0%} of the {_peak(result)}",
    )
    if against is not None:
        result["against"] = other = comparison(compared)
        other["memory_bytes"] = max(theirs.memory for _, theirs in compared)
        other["memory_ratio"] = result["memory_bytes"] / other["memory_bytes"]
        _print(here, _sentence(against, other))
        _print(
            here,
            f"memory: {other['memory_ratio']:.2f} of PyTorch's {megabytes(other['memory_bytes'])}",
        )
    return result


def bench_kernels(here: Context, work: Work, against: str | None, pairs: int) -> Event:
    """Time every kernel call of training steps; ``against`` compares attention with PyTorch.

    Raises:
        LlmcError: a process failed.
    """
    argv = work.engine_argv(ensure_native(report=here.ui), "bench-kernels")
    result = kernels_result(work, Timing.of(argv))
    _say_floats(here, work, result)
    _print(here, _kernels_table(result))
    _print(here, _peak(result))
    if against is not None:
        ours, theirs = [*argv, "--only", "attention"], work.torch_argv("attention")
        compared = _alternate(here, lambda: attention_of(Timing.of(ours)), theirs, pairs)
        result["against"] = other = comparison(compared)
        _print(here, f"attention, forward and backward: {_sentence(against, other)}")
    return result


def bench_decode(here: Context, work: Work, against: str | None, pairs: int) -> Event:
    """Time a token's way through the linear layers, likewise; nothing is compared.

    Raises:
        LlmcError: the process failed.
    """
    argv = work.engine_argv(ensure_native(report=here.ui), "bench-decode")
    result = decode_result(work, Timing.of(argv))
    table = _table("kernel", "M×N×K", "calls", "ms", "best", "GB/s", "of reading")
    for name, row in result["kernels"].items():
        shape = "×".join(str(row[key]) for key in "MNK")
        times = f"{row['calls']}", _ms(row["ms"]), _ms(row["best_ms"])
        rates = _giga(row["bytes_per_second"]), f"{row['share_of_reading']:.0%}"
        table.add_row(name, shape, *times, *rates)
    _print(here, table)
    _print(
        here,
        f"token {milliseconds(result['step_ms'])}, {result['tokens_per_second']:,.0f} tokens/s, "
        f"{_giga(result['bytes_per_second'])} GB/s of {megabytes(result['weight_bytes'])}\n"
        f"{result['share_of_reading']:.0%} of the measured {_giga(result['read_bytes_per_second'])}"
        f" GB/s of reading the weights ({result['isa']})",
    )
    return result


def _say_floats(here: Context, work: Work, result: Event) -> None:
    if as_floats(work, result):
        here.ui.note(f"bf16 was multiplied as floats: {result['isa']} has no instruction for it")


def _alternate(
    here: Context, ours: Callable[[], Timing], theirs: Sequence[str], pairs: int
) -> Pairs:
    compared = []
    for a, b in in_pairs(ours, lambda: Timing.of(theirs, name="PyTorch"), pairs):
        compared.append((a, b))
        here.ui.note(
            f"pair {len(compared)} of {pairs}: {milliseconds(a.median * 1e3)}, PyTorch "
            f"{milliseconds(b.median * 1e3)}: {b.median / a.median:.2f} times"
        )
    return compared


def _sentence(against: str, other: Event) -> str:
    return (
        f"{'torch.compile' if against == 'torch-compile' else 'PyTorch'} "
        f"{milliseconds(other['theirs_ms'])}: llmc is {other['ratio']:.2f} times as fast "
        f"({other['ratio_min']:.2f} to {other['ratio_max']:.2f}, pairs: {other['pairs']})"
    )


def _step_table(result: Event) -> Table:
    table = _table("kernel", "calls", "ms a step", "share", "GF/s", "of peak")
    for name, row in result["kernels"].items():
        times = f"{row['calls']:.0f}", _ms(row["ms"]), f"{row['share']:.1%}"
        table.add_row(name, *times, _giga(row.get("flops_per_second")), _share(row))
    return table


def _kernels_table(result: Event) -> Table:
    table = _table("kernel", "M×N×K", "ms", "best", "GF/s", "of peak", "GB/s")
    for name, row in result["kernels"].items():
        shape = "×".join(str(row[key]) for key in "MNK" if key in row)
        times = _ms(row["ms"]), _ms(row["best_ms"])
        table.add_row(
            name,
            shape,
            *times,
            _giga(row.get("flops_per_second")),
            _share(row),
            _giga(row.get("bytes_per_second")),
        )
    return table


def _table(first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(first, box=None, pad_edge=False)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _giga(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e9:.0f}" if rate >= 1e10 else f"{rate / 1e9:.1f}"


def _ms(count: float) -> str:
    return milliseconds(count).removesuffix(" ms")


def _peak(result: Event) -> str:
    said = (
        f"measured peak of {_giga(result['peak_flops_per_second'])} GF/s "
        f"(at best {_giga(result['best_peak_flops_per_second'])}, {result['isa']})"
    )
    trip = result.get("round_trip_ns")
    return f"{said}\nfrom one thread to another and back: {trip:.0f} ns" if trip else said


def _share(row: Event) -> str:
    return f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""


def _print(here: Context, what: str | Table) -> None:
    """Print on stdout, in a pipe without breaking lines; nothing where JSON is asked for."""
    if here.ui.json:
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(what, soft_wrap=not console.is_terminal)
