"""What a run will take, told before it is taken: the view of ``llmc train --dry-run``."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmc.cli.views.training import History, PlainView
from llmc.config import MOST_STEPS, TrainConfig
from llmc.train.metrics import Event
from llmc.train.storage import Storage
from llmc.units import clock, megabytes, seconds_of

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Work:
    """One kind of work in a run: ``count`` pieces of ``ms`` milliseconds each."""

    name: str
    count: int
    ms: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.count * self.ms / 1e3


def planned_work(settings: TrainConfig, steps: int | None, measured: Event) -> list[Work]:
    """Return all that a run will do, except reading the model and saving it.

    As in the engine's loop, a validation comes before the first step, at every due one and at the
    end, a sample at every due step but the first.

    Args:
        settings: the run's.
        steps: that it will make unless its time ends it before; None: only its time does.
        measured: the engine's event about its rehearsal: milliseconds of a step, a validation batch
            and a sampled token, and how many of the latter make a validation and a sample.
    """
    limit = seconds_of(settings.max_time)
    most = MOST_STEPS if steps is None else steps
    if limit and sum(work.seconds for work in _work(settings, most, measured)) > limit:

        def too_long(steps: int) -> bool:
            return sum(work.seconds for work in _work(settings, steps, measured)) > limit

        most = max(bisect_left(range(most), True, key=too_long) - 1, 0)
    return _work(settings, most, measured)


def _work(settings: TrainConfig, steps: int, measured: Event) -> list[Work]:
    every = settings.val_every
    validations = 1 + steps // every + (steps % every > 0) if every else 0
    samples = steps // settings.sample_every if settings.sample_every else 0
    batches, tokens = validations * measured["val_batches"], samples * measured["sample_tokens"]
    return [
        Work("steps", steps, measured["step_ms"]),
        Work("validation batches", batches, measured["val_batch_ms"]),
        Work("sampled tokens", tokens, measured["token_ms"]),
    ]


class PlanView(PlainView):
    """The plan of the memory as soon as the engine knows it, then time and disk."""

    def __init__(
        self, settings: TrainConfig, *, silent: bool, storage: Storage | None = None
    ) -> None:
        """Begin a view of a run with ``settings``; a silent one only collects the result."""
        self.settings = settings
        self.storage = storage
        self.silent = silent
        self.start: Event = {}
        self.measured: Event = {}

    def update(self, event: Event, history: History) -> None:
        """Take in an event and print what it tells."""
        if event["event"] == "start":
            self.start = event
            self._print(memory_table(event), recompute_sentence(event))
        elif event["event"] == "measured":
            self.measured = event
            disk = [self.storage.sentence()] if self.storage is not None else []
            self._print("", time_table(self.work), *disk, self.basis)

    def _print(self, *parts: Table | str) -> None:
        if self.silent:
            return
        from rich.console import Console

        console = Console(highlight=False)
        for part in parts:
            console.print(part)

    @property
    def work(self) -> list[Work]:
        """What the run will do."""
        return planned_work(self.settings, self.start["steps"], self.measured)

    @property
    def tokens_per_second(self) -> float:
        """Of a training step."""
        settings = self.settings
        tokens = settings.total_batch_size or settings.batch_size * settings.seq_len
        return float(1e3 * tokens / self.measured["step_ms"])

    @property
    def basis(self) -> str:
        """What the estimate rests on, and what is not in it."""
        steps = self.measured["steps"]
        return (
            f"an estimate from {steps} measured step{'s' if steps > 1 else ''} "
            f"({self.tokens_per_second:,.0f} tokens/s); saving is not in it"
        )

    def result(self) -> dict[str, Any]:
        """Return all of it, for ``--json``."""
        return {
            "dry_run": True,
            "parameters": self.start["parameters"],
            "isa": self.start["isa"],
            "dtype": self.start["dtype"],
            "recompute": self.start["recompute"],
            "recompute_saves_bytes": self.start["recompute_saves"],
            "optimizer_state": self.start["optimizer_state"],
            "threads": self.start["threads"],
            "memory_bytes": self.start["memory"],
            "memory_parts": self.start["memory_parts"],
            "memory_available": self.start["memory_available"],
            "disk_bytes": self.storage.needed if self.storage is not None else None,
            "disk_free": self.storage.free if self.storage is not None else None,
            "measured_steps": self.measured["steps"],
            "step_ms": self.measured["step_ms"],
            "tokens_per_second": self.tokens_per_second,
            "work": {
                work.name.replace(" ", "_"): {
                    "count": work.count,
                    "ms": work.ms,
                    "seconds": work.seconds,
                }
                for work in self.work
            },
            "seconds": sum(work.seconds for work in self.work),
        }


def memory_table(start: Event) -> Table:
    """Return the parts of the memory, their sum, and what it is taken from."""
    from rich.table import Table

    table = Table("memory", box=None, pad_edge=False)
    table.add_column("bytes", justify="right")
    table.add_column(justify="right")
    for part, count in start["memory_parts"].items():
        table.add_row(part, f"{count:,}", megabytes(count))
    table.add_row("total", f"{start['memory']:,}", megabytes(start["memory"]), style="bold")
    available = start["memory_available"]
    if available is not None:
        table.add_row("available", f"{available:,}", megabytes(available))
    return table


def recompute_sentence(start: Event) -> str:
    """Return what keeping one layer's activations saves, or would."""
    saves = start["recompute_saves"]
    verb = "saves" if start["recompute"] else "would save"
    return f"--recompute {verb} {saves:,} bytes ({megabytes(saves)})"


def time_table(works: list[Work]) -> Table:
    """Return what each kind of work takes, and the whole run."""
    from rich.table import Table

    table = Table("time", box=None, pad_edge=False)
    for name in ("count", "ms each", "total"):
        table.add_column(name, justify="right")
    for work in works:
        if work.count:
            table.add_row(work.name, f"{work.count:,}", f"{work.ms:,.1f}", clock(work.seconds))
    table.add_row("the run", "", "", clock(sum(work.seconds for work in works)), style="bold")
    return table
