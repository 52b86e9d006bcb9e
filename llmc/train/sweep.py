"""Short trials of several settings, one after the other, and their losses.

A trial is an ordinary run, named after its settings, so that a sweep that was stopped continues
where it was: trials that have ended are read back, one that was cut off is resumed.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmc.config import MOST_STEPS, TRAIN_SETTINGS, TrainConfig
from llmc.errors import Interrupted, LossNotFinite, Usage
from llmc.paths import CONFIG, Workspace
from llmc.report import SILENT, Report
from llmc.setting import differing, typed_number
from llmc.train import record as records
from llmc.train.dial import ENDS
from llmc.train.engine_run import OnEvent
from llmc.train.folder import read_record
from llmc.train.history import RunHistory, read_run
from llmc.train.loop import train
from llmc.train.metrics import Event, Progress
from llmc.train.plan import Inputs, RunPlan, start
from llmc.train.resume import typed

ENDED = ("finished", "stopped early", "not finite")  # states after which a trial has its result


@dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    run: str  # its name
    values: Mapping[str, Any]  # of the settings that are compared, by name
    settings: Mapping[str, Any]  # all that are given, the seed included


@dataclass(frozen=True)
class Compared:
    """One combination of values, over all seeds."""

    values: Mapping[str, Any]
    runs: tuple[RunHistory, ...]

    @property
    def losses(self) -> list[float]:
        """The last validation loss of each run; infinity where a loss was not finite."""
        found = [run.val_loss if run.state != "not finite" else None for run in self.runs]
        return [math.inf if each is None or not math.isfinite(each) else each for each in found]

    @property
    def loss(self) -> float:
        """The mean of the losses, in nats per token."""
        return statistics.fmean(self.losses)

    @property
    def error(self) -> float | None:
        """The standard error of the loss: over the seeds, or of a single run over its text."""
        if not math.isfinite(self.loss):
            return None
        if len(self.losses) > 1:
            return statistics.stdev(self.losses) / math.sqrt(len(self.losses))
        return self.runs[0].val_errors.get(self.runs[0].val[-1][0])


def trials(name: str, given: Mapping[str, Sequence[Any]], seeds: int) -> list[Trial]:
    """Return the runs of a sweep: every combination of values, each with ``seeds`` seeds.

    Args:
        name: the sweep's, with which the names of the runs begin.
        given: the values of each setting; those with more than one are compared.
        seeds: how many; they count up from the ``seed`` given.

    Raises:
        Usage: nothing is compared, or several seeds are named.
    """
    given = {setting: list(dict.fromkeys(values)) for setting, values in given.items()}
    first, *more = given.pop("seed", [TRAIN_SETTINGS["seed"].default])
    if more:
        raise Usage("--seed takes one value here: --seeds N trains with N seeds from it on")
    compared = [setting for setting, values in given.items() if len(values) > 1]
    if not compared and seeds == 1:
        raise Usage("a sweep compares settings: give one several values, such as --lr 5e-4,1e-3")
    found = []
    for values in itertools.product(*given.values()):
        settings = dict(zip(given, values, strict=True))
        chosen = {setting: settings[setting] for setting in compared}
        words = [f"{setting}{_text(value)}" for setting, value in chosen.items()]
        for seed in range(first, first + seeds):
            run = "-".join([name, *words, f"seed{seed}"])
            found.append(Trial(run, chosen, {**settings, "seed": seed}))
    return found


def timed(budget: str | None, given: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the settings of trials that end with a time; others may be ``given`` too.

    Raises:
        Usage: one of those ends the trials otherwise.
    """
    if budget is None:
        return {}
    for end in ENDS:
        if end in given:
            flag = TRAIN_SETTINGS[end].flag
            raise Usage(f"--for and {flag} both say when a trial ends: give one")
    return {"schedule": ("wsd",), "steps": (MOST_STEPS,), "max_time": (budget,)}


def sweep(
    workspace: Workspace,
    given: Mapping[str, Sequence[Any]],
    inputs: Inputs,
    *,
    name: str = "sweep",
    seeds: int = 1,
    budget: str | None = None,
    threads: int | None = None,
    report: Report = SILENT,
) -> list[Compared]:
    """Run the trials that have not ended yet; return all combinations, the lowest loss first.

    ``given`` are the values of each training setting, ``inputs`` the preset, data and model of all
    trials; the other arguments are those of ``llmc.sweep``.

    Raises:
        Interrupted: a signal stopped a trial; the same sweep continues.
        Usage: nothing is compared, there is no validation, a setting ends the trials besides the
            budget, or a run of that name is another one.
        LlmcError: as of :func:`llmc.train.loop.train`, except that a loss that is not finite is a
            result.
    """
    planned = trials(name, {**timed(budget, given), **given}, seeds)
    plan = start(workspace, planned[0].settings, inputs, report=report)
    if not plan.data.val or not plan.settings.val_every:
        raise Usage(
            "a sweep compares validation losses, and these runs measure none: use a dataset with a "
            "validation split, and --val-every above 0"
        )
    runner = _Runner(workspace, inputs, plan, threads, report)
    found: dict[tuple[Any, ...], list[RunHistory]] = {}
    for index, trial in enumerate(planned):
        label = f"trial {index + 1} of {len(planned)}: {' '.join(typed(trial.settings))}"
        found.setdefault(tuple(trial.values.items()), []).append(runner.run(trial, label))
    rows = [Compared(dict(values), tuple(runs)) for values, runs in found.items()]
    return sorted(rows, key=lambda row: row.loss)


@dataclass(frozen=True)
class _Runner:
    """What all trials of a sweep share."""

    workspace: Workspace
    inputs: Inputs
    plan: RunPlan  # of the first trial; all have its data and model
    threads: int | None
    report: Report

    def run(self, trial: Trial, label: str) -> RunHistory:
        """Run a trial, or what is left of it; return what its folder then tells."""
        folder = self.workspace.runs / trial.run
        exists = (folder / CONFIG).is_file()
        if exists:
            self._check_same(folder, start(self.workspace, trial.settings, self.inputs).settings)
        if exists and read_run(folder).state in ENDED:
            self.report.note(f"{label}: {self.workspace.shown(folder)} has it")
            return read_run(folder)
        with self.report.bar(label, None, "steps") as advance:

            def step(event: Event, progress: Progress) -> None:
                if "train_loss" in event:
                    advance(1, progress.steps)

            with suppress(LossNotFinite):
                self._train(trial, label, step, resume=exists)
        run = read_run(folder)
        loss = shown_loss(Compared(trial.values, (run,)).loss)
        self.report.note(f"{label}: val loss {loss} after {run.done:,} steps")
        return run

    def _train(self, trial: Trial, label: str, on_event: OnEvent, *, resume: bool) -> None:
        inputs = Inputs(run=trial.run) if resume else replace(self.inputs, run=trial.run)
        settings = {} if resume else trial.settings
        done = train(
            self.workspace,
            settings,
            inputs,
            resume=resume,
            threads=self.threads,
            on_event=on_event,
        )
        if done.interrupted:
            raise Interrupted(f"interrupted in {label}; what it has done is saved")

    def _check_same(self, folder: Path, settings: TrainConfig) -> None:
        """Refuse to take another run for the trial."""
        other = differing(records.run_settings(folder)[0].train, settings)
        words = [f"{name} {was}, not {now}" for name, (was, now) in other.items()]
        record = read_record(folder)
        if record.get("files") != records.fingerprints(self.plan.data):
            words.append("other data")
        if record.get("weights_crc32") != records.weights_checksum(self.plan.model):
            words.append("another model")
        if words:
            raise Usage(
                f"{self.workspace.shown(folder)} is another run ({', '.join(words)}): give this "
                "sweep another name with --name, or delete that folder"
            )


def shown_loss(loss: float) -> str:
    """Return a loss with four digits, or that it is not finite."""
    return f"{loss:.4f}" if math.isfinite(loss) else "not finite"


def _text(value: Any) -> str:
    return typed_number(value) if isinstance(value, (int, float)) else str(value)
