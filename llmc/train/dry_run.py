"""Estimate the memory, time and disk of a run without starting it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmc.config import MOST_STEPS, TrainConfig
from llmc.engine.build import ensure_native
from llmc.engine.launcher import ALONE, Launch
from llmc.engine.machine import training_threads
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.train.arrival import late
from llmc.train.engine_run import OnEvent, engine_arguments, ignore, run_engine
from llmc.train.metrics import Event, Progress
from llmc.train.mixture import Portion
from llmc.train.plan import Inputs, Storage, start
from llmc.train.ranks import counted, ranks_in, tokens_for_tenth, with_shares
from llmc.train.record import Setup
from llmc.units import seconds_of


@dataclass(frozen=True)
class PlannedWork:
    """One kind of work in a run: ``count`` pieces of ``ms`` milliseconds each."""

    name: str
    count: int
    ms: float

    @property
    def seconds(self) -> float:
        """The time of all pieces, in seconds."""
        return self.count * self.ms / 1e3


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    settings: TrainConfig
    start: Event  # the engine's ``start`` event: the memory and its parts
    measured: Event  # the engine's ``measured`` event: times of a few steps
    storage: Storage
    texts: tuple[Portion, ...] = ()  # that it trains on

    @property
    def work(self) -> list[PlannedWork]:
        """What the run will do."""
        return planned_work(self.settings, self.start["steps"], self.measured)

    @property
    def seconds(self) -> float:
        """The time of the whole run, without loading and saving."""
        return total_seconds(self.work)

    @property
    def warning(self) -> str | None:
        """What to say of a schedule that ``--max-time`` cuts off, or None."""
        return late(self.settings, self.start["steps"], self.work[0].count)

    @property
    def exchange_ms(self) -> float | None:
        """The part of a step in messages, in milliseconds; None of one process."""
        return self.measured.get("exchange_ms") if ranks_in(self.start) else None

    @property
    def tokens_for_tenth(self) -> int | None:
        """The tokens in an update with which messages take a tenth; None of one process."""
        if self.exchange_ms is None:
            return None
        return tokens_for_tenth(self.settings, self.measured["step_ms"], self.exchange_ms)

    @property
    def tokens_per_second(self) -> float:
        """The speed of the measured training steps."""
        return float(1e3 * self.settings.tokens_per_step / self.measured["step_ms"])


def dry_run(
    workspace: Workspace,
    settings: Mapping[str, Any] | None = None,
    inputs: Inputs | None = None,
    *,
    threads: int | None = None,
    launch: Launch = ALONE,
    report: Report = SILENT,
    on_event: OnEvent = ignore,
) -> Estimate:
    """Measure a few steps of a new run and estimate its memory, time and disk; write nothing.

    The arguments are those of :func:`llmc.train.loop.train`.

    Raises:
        LlmcError: an input is missing or damaged, a setting makes no sense, or the engine failed.
    """
    build = partial(ensure_native, report=report)
    plan = start(
        workspace, settings or {}, inputs or Inputs(), ranks=lambda: counted(build, launch)
    )
    setup = Setup(build(), "", training_threads(threads, several=launch.several), launch)
    plan.note_choices(workspace, setup, report)
    argv = engine_arguments(
        plan.data, plan.model, plan.folder, plan.settings, setup.threads, rows=plan.rows
    )
    events: dict[str, Event] = {}

    def keep(event: Event, progress: Progress) -> None:
        events[event["event"]] = event
        if event["event"] == "note":
            report.note(str(event["text"]))
        on_event(event, progress)

    argv = [str(setup.binary), "train", *argv, "--dry-run", "1"]
    how: dict[str, Any] = {"launch": launch, "on_silence": report.note}
    run_engine(argv, plan.progress(), plan.data.detokenize, keep, **how)
    found = events["start"], events["measured"]
    known = with_shares(plan.settings, found[0])
    seconds = total_seconds(planned_work(known, found[0]["steps"], found[1]))
    return Estimate(known, *found, plan.storage(seconds), plan.data.train)


def planned_work(settings: TrainConfig, steps: int | None, measured: Event) -> list[PlannedWork]:
    """Return all that a run will do, except loading and saving.

    As in the engine's loop, a validation comes before the first step, after every ``val_every``
    steps and at the end; a sample comes after every ``sample_every`` steps.

    Args:
        settings: the training settings.
        steps: the number of steps unless the time limit ends the run; None: only the limit does.
        measured: the engine's ``measured`` event: milliseconds of a step, a validation batch and a
            sampled token, and the numbers of batches in a validation and of tokens in a sample.
    """
    limit = seconds_of(settings.max_time)
    most = MOST_STEPS if steps is None else steps

    def too_long(steps: int) -> bool:
        return total_seconds(_work(settings, steps, measured)) > limit

    if limit and too_long(most):
        most = max(bisect_left(range(most), True, key=too_long) - 1, 0)
    return _work(settings, most, measured)


def total_seconds(works: Sequence[PlannedWork]) -> float:
    """Return the time of all works, in seconds."""
    return sum(work.seconds for work in works)


def _work(settings: TrainConfig, steps: int, measured: Event) -> list[PlannedWork]:
    every = settings.val_every
    validations = 1 + steps // every + (steps % every > 0) if every else 0
    samples = steps // settings.sample_every if settings.sample_every else 0
    batches, tokens = validations * measured["val_batches"], samples * measured["sample_tokens"]
    return [
        PlannedWork("steps", steps, measured["step_ms"]),
        PlannedWork("validation batches", batches, measured["val_batch_ms"]),
        PlannedWork("sampled tokens", tokens, measured["token_ms"]),
    ]
