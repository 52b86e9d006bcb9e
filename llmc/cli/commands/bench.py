"""``llmc bench``: time training steps, kernels, decoding or instruction sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmc.check.bench import (
    bench_decode,
    bench_kernels,
    bench_steps,
    bench_tables,
    work_of,
)
from llmc.check.timing import Event
from llmc.cli.context import Context
from llmc.cli.options import argument, in_group
from llmc.errors import Usage
from llmc.units import megabytes, milliseconds

if TYPE_CHECKING:
    from rich.table import Table

of_work = in_group("What is computed")
of_timing = in_group("Timing")

What = Annotated[
    Literal["step", "kernels", "decode", "isa"],
    argument(
        None,
        "Whole training steps; every kernel call of training steps; the products of decoding "
        "a token; or what one thread multiplies with each instruction set.",
    ),
]
Model = Annotated[str, of_work("Shape: 124M … 1558M, or a preset.", "SIZE|PRESET")]
BatchSize = Annotated[
    int | None,
    of_work("B, rows in a batch; texts decoded together. Default: 4; decoding, 1.", "N", 1),
]
SeqLen = Annotated[int, of_work("T, tokens in a row.", "N", 1)]
Dtype = Annotated[
    Literal["fp32", "bf16", "int8"],
    of_work("What is computed in; PyTorch by autocast. int8: decoding alone."),
]
Threads = Annotated[int | None, of_timing("Threads. Default: one per physical core.", "N", 1)]
Steps = Annotated[int, of_timing("Steps that a process times.", "N", 1)]
Against = Annotated[
    Literal["torch", "torch-compile"] | None,
    of_timing("Alternate with PyTorch, eager or compiled, in processes of its own."),
]
Pairs = Annotated[int, of_timing("Pairs of processes, ours and PyTorch's.", "N", 1)]


def bench(
    context: typer.Context,
    what: What = "step",
    *,
    model: Model = "124M",
    batch_size: BatchSize = None,
    seq_len: SeqLen = 64,
    dtype: Dtype = "fp32",
    threads: Threads = None,
    steps: Steps = 5,
    against: Against = None,
    pairs: Pairs = 7,
) -> None:
    """Benchmark training steps, kernels, decoding or instruction sets.

    A step is forward, backward, gradient norm and AdamW. With --against, processes of both sides
    alternate, and the ratio of their medians is taken pair by pair: of steps, or of attention.
    Decoding is compared with the speed at which the weights can be read.
    """
    ctx: Context = context.obj
    if what == "isa":
        _instruction_sets(context, ctx)
        return
    work = work_of(
        what,
        model,
        batch_size=batch_size,
        seq_len=seq_len,
        dtype=dtype,
        threads=threads,
        steps=steps,
        against=against,
    )
    length = {} if what == "decode" else {"seq_len": work.T}
    ctx.ui.note(
        f"{model}, B={work.B},{f' T={work.T},' if length else ''} {dtype}, threads: "
        f"{work.threads}, steps a process: {steps}"
    )
    measure = {"step": bench_steps, "kernels": bench_kernels, "decode": bench_decode}[what]
    result = measure(work, against, pairs, report=ctx.ui)
    if not ctx.ui.json:
        show(what, result, against)
    settings = {"model": model, "batch_size": work.B, **length, "dtype": dtype}
    ctx.ui.result({**settings, "threads": work.threads, **result})
    if what == "decode":
        ctx.ui.next(f"llmc bench decode --dtype {'bf16' if dtype == 'int8' else 'int8'}")
    elif against is None:
        ctx.ui.next(f"llmc bench{' kernels' if what == 'kernels' else ''} --against torch")


def _instruction_sets(context: typer.Context, ctx: Context) -> None:
    """Time each table of kernels; no option of the others applies."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name != "what" and source is not None and source.name != "DEFAULT":
            flag = f"--{name.replace('_', '-')}"
            raise Usage(f"{flag} does not apply to llmc bench isa, which measures one thread")
    result = bench_tables(report=ctx.ui)
    if not ctx.ui.json:
        show("isa", result, None)
    ctx.ui.result(result)


def show(what: str, result: Event, against: str | None) -> None:
    """Print a result on stdout: a table and the totals; lines are not broken in a pipe."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    parts = {"step": _step, "kernels": _kernels, "decode": _decode, "isa": _isa}[what](result)
    if against is not None:
        other = result["against"]
        part = "attention, forward and backward: " if what == "kernels" else ""
        parts.append(part + _sentence(against, other))
        if "memory_ratio" in other:
            theirs = megabytes(other["memory_bytes"])
            parts.append(f"memory: {other['memory_ratio']:.2f} of PyTorch's {theirs}")
    for each in parts:
        console.print(each, soft_wrap=not console.is_terminal)


def _step(result: Event) -> list[Table | str]:
    table = _table("kernel", "calls", "ms a step", "share", "GF/s", "of peak")
    for name, row in result["kernels"].items():
        times = f"{row['calls']:.0f}", _ms(row["ms"]), f"{row['share']:.1%}"
        table.add_row(name, *times, _giga(row.get("flops_per_second")), _share(row))
    return [
        table,
        f"step {milliseconds(result['step_ms'])}, {result['tokens_per_second']:,.0f} tokens/s, "
        f"{_giga(result['flops_per_second'])} GF/s, {megabytes(result['memory_bytes'])}\n"
        f"{result['share_of_peak']:.0%} of the {_peak(result)}",
    ]


def _kernels(result: Event) -> list[Table | str]:
    table = _table("kernel", "M×N×K", "ms", "best", "GF/s", "of peak", "GB/s")
    for name, row in result["kernels"].items():
        shape = "×".join(str(row[key]) for key in "MNK" if key in row)
        rates = _giga(row.get("flops_per_second")), _share(row), _giga(row.get("bytes_per_second"))
        table.add_row(name, shape, _ms(row["ms"]), _ms(row["best_ms"]), *rates)
    return [table, _peak(result)]


def _decode(result: Event) -> list[Table | str]:
    table = _table("kernel", "M×N×K", "calls", "ms", "best", "GB/s", "of reading")
    for name, row in result["kernels"].items():
        shape = "×".join(str(row[key]) for key in "MNK")
        times = f"{row['calls']}", _ms(row["ms"]), _ms(row["best_ms"])
        rates = _giga(row["bytes_per_second"]), f"{row['share_of_reading']:.0%}"
        table.add_row(name, shape, *times, *rates)
    return [
        table,
        f"token {milliseconds(result['step_ms'])}, {result['tokens_per_second']:,.0f} tokens/s, "
        f"{_giga(result['bytes_per_second'])} GB/s of {megabytes(result['weight_bytes'])}\n"
        f"{result['share_of_reading']:.0%} of the measured {_giga(result['read_bytes_per_second'])}"
        f" GB/s of reading the weights ({result['isa']})",
    ]


def _isa(result: Event) -> list[Table | str]:
    table = _table("instruction set", "fp32, GF/s", "bf16, GF/s", "training takes it for")
    for name, row in result["tables"].items():
        takes = ", ".join(dtype for dtype, chosen in result["chosen"].items() if chosen == name)
        rates = [_giga(row.get(f"{dtype}_flops")) for dtype in result["chosen"]]
        table.add_row(name, *(rates if row["runnable"] else ["", "cannot run here"]), takes)
    return [table]


def _sentence(against: str, other: Event) -> str:
    return (
        f"{'torch.compile' if against == 'torch-compile' else 'PyTorch'} "
        f"{milliseconds(other['theirs_ms'])}: llmc is {other['ratio']:.2f} times as fast "
        f"({other['ratio_min']:.2f} to {other['ratio_max']:.2f}, pairs: {other['pairs']})"
    )


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
    line = (
        f"measured peak of {_giga(result['peak_flops_per_second'])} GF/s "
        f"(at best {_giga(result['best_peak_flops_per_second'])}, {result['isa']})"
    )
    trip = result.get("round_trip_ns")
    return f"{line}\nfrom one thread to another and back: {trip:.0f} ns" if trip else line


def _share(row: Event) -> str:
    return f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
