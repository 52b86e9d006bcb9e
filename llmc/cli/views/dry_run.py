"""How the estimate of a run is shown: ``llmc train --dry-run``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmc.train.dial import Candidate, Choice
from llmc.train.dry_run import Estimate, PlannedWork, total_seconds
from llmc.train.metrics import Event, Progress
from llmc.train.mixture import seen
from llmc.train.ranks import ranks_in
from llmc.units import clock, megabytes, short

if TYPE_CHECKING:
    from rich.table import Table


def print_memory(event: Event, progress: Progress) -> None:
    """Print the plan of the memory as soon as the engine knows it; it may refuse the run next."""
    if event["event"] == "start":
        saves, verb = event["recompute_saves"], "saves" if event["recompute"] else "would save"
        sentence = f"--recompute {verb} {saves:,} bytes ({megabytes(saves)})"
        _print(_memory_table(event), sentence)
        if ranks := ranks_in(event):
            _print("", _ranks_table(ranks))


def print_estimate(estimate: Estimate) -> None:
    """Print the time and the disk space, and what the estimate rests on."""
    storage, steps = estimate.storage, estimate.measured["steps"]
    disk = f"disk: up to {storage.needed:,} bytes ({megabytes(storage.needed)})"
    _print(
        "",
        _time_table(estimate.work),
        f"{disk}; {megabytes(storage.free)} are free",
        f"an estimate from {steps} measured step{'s' if steps > 1 else ''} "
        f"({estimate.tokens_per_second:,.0f} tokens/s); saving is not included",
        *_messages(estimate),
        *filter(None, [storage.warning, estimate.warning]),
    )


def _messages(estimate: Estimate) -> Iterator[str]:
    """Yield what several ranks spend in messages, and with which updates it would be a tenth."""
    exchange, enough = estimate.exchange_ms, estimate.tokens_for_tenth
    if exchange is None or enough is None:
        return
    step_ms, tokens = estimate.measured["step_ms"], estimate.settings.tokens_per_step
    yield f"messages take {exchange:,.1f} ms of a step ({exchange / step_ms:.0%})"
    if enough > tokens:
        yield (
            f"with updates of {enough:,} tokens instead of {tokens:,} they would take a tenth: "
            f"--total-batch-size {enough}"
        )


def print_choice(choice: Choice) -> None:
    """Print the models that the time was thought to be enough for."""
    from rich.table import Table

    if not choice.others:
        return
    table = Table(f"for {choice.budget}", box=None, pad_edge=False)
    for name in ("parameters", "tokens/s", "tokens", "passes", "expected loss"):
        table.add_column(name, justify="right")
    best = choice.chosen.loss if choice.chosen is not None else 0.0
    for each in choice.others:
        chosen = choice.chosen is not None and each.shape == choice.chosen.shape
        cells = _cells(each, "chosen" if chosen else f"{each.loss - best:+.2f}")
        table.add_row(*cells, style="bold" if chosen else None)
    if choice.doubled is not None:
        shape, *cells = _cells(choice.doubled, f"{choice.doubled.loss - best:+.2f}")
        table.add_section()
        table.add_row(f"2 × {choice.budget}: {shape}", *cells)
    _print(table, "")


def _cells(each: Candidate, loss: str) -> list[str]:
    """Return the row of a candidate."""
    about = "" if each.measured else "about "
    return [
        f"{each.shape.layers} layers of {each.shape.channels}",
        short(each.parameters),
        f"{about}{each.rate:,.0f}",
        short(each.tokens),
        f"{each.passes:.2g}",
        loss,
    ]


def choice_fields(choice: Choice) -> dict[str, Any]:
    """Return what was compared, for ``--json``."""
    compared = [_candidate_fields(each) for each in choice.others]
    doubled = _candidate_fields(choice.doubled) if choice.doubled is not None else None
    return {"for": choice.budget, "compared": compared, "in_twice_the_time": doubled}


def _candidate_fields(each: Candidate) -> dict[str, Any]:
    return {
        **vars(each.shape),
        "parameters": each.parameters,
        "tokens_per_second": each.rate,
        "measured": each.measured,
        "tokens": each.tokens,
        "passes": each.passes,
        "expected_loss": each.loss,
    }


def _print(*parts: Table | str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for part in parts:
        console.print(part)


def estimate_fields(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate, for ``--json``."""
    start = estimate.start
    texts = [each.fields for each in seen(estimate.texts, estimate.settings)]
    return {
        "dry_run": True,
        **({"texts": texts} if len(texts) > 1 else {}),
        **{name: start[name] for name in ("parameters", "isa", "dtype", "recompute")},
        "recompute_saves_bytes": start["recompute_saves"],
        **{name: start[name] for name in ("optimizer_state", "threads")},
        "memory_bytes": start["memory"],
        "memory_parts": start["memory_parts"],
        "memory_available": start["memory_available"],
        "disk_bytes": estimate.storage.needed,
        "disk_free": estimate.storage.free,
        "measured_steps": estimate.measured["steps"],
        "step_ms": estimate.measured["step_ms"],
        "tokens_per_second": estimate.tokens_per_second,
        "work": {
            part.name.replace(" ", "_"): {
                "count": part.count,
                "ms": part.ms,
                "seconds": part.seconds,
            }
            for part in estimate.work
        },
        "seconds": estimate.seconds,
        **_rank_fields(estimate),
    }


def _rank_fields(estimate: Estimate) -> dict[str, Any]:
    """Return what is known of several ranks; nothing of one process."""
    start = estimate.start
    if not ranks_in(start):
        return {}
    return {
        "ranks": ranks_in(start),
        "mpi": start["mpi"],
        "shares": start["shares"],
        "update_tokens": estimate.settings.tokens_per_step,
        "exchange_ms": estimate.exchange_ms,
        "tokens_for_tenth_in_messages": estimate.tokens_for_tenth,
    }


def _ranks_table(ranks: list[dict[str, Any]]) -> Table:
    """Return where each rank is, and its memory."""
    from rich.table import Table

    table = Table("rank", "machine", box=None, pad_edge=False)
    for name in ("threads", "isa", "memory", "available"):
        table.add_column(name, justify="right")
    for number, rank in enumerate(ranks):
        sizes = (rank["memory"], rank["memory_available"])
        shown = ["–" if size is None else megabytes(size) for size in sizes]
        table.add_row(str(number), rank["machine"], str(rank["threads"]), rank["isa"], *shown)
    return table


def _memory_table(start: Event) -> Table:
    """Return the parts of the memory, their sum, and the memory available."""
    from rich.table import Table

    table = Table("memory", box=None, pad_edge=False)
    table.add_column("bytes", justify="right")
    table.add_column(justify="right")
    total, available = {"total": start["memory"]}, {"available": start["memory_available"]}
    for part, count in (start["memory_parts"] | total | available).items():
        if count is not None:
            style = "bold" if part == "total" else None
            table.add_row(part, f"{count:,}", megabytes(count), style=style)
    return table


def _time_table(works: list[PlannedWork]) -> Table:
    """Return the time of each kind of work, and of the whole run."""
    from rich.table import Table

    table = Table("time", box=None, pad_edge=False)
    for name in ("count", "ms each", "total"):
        table.add_column(name, justify="right")
    for work in works:
        if work.count:
            table.add_row(work.name, f"{work.count:,}", f"{work.ms:,.1f}", clock(work.seconds))
    table.add_row("the run", "", "", clock(total_seconds(works)), style="bold")
    return table
