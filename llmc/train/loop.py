"""A training run from start to end: find its inputs, run the engine, return what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from llmc.config import TrainConfig
from llmc.engine.build import ensure_native
from llmc.engine.launcher import ALONE, Launch
from llmc.engine.machine import chosen_isa, training_threads
from llmc.errors import Interrupted, Killed, LlmcError, LossNotFinite
from llmc.paths import CHECKPOINT, METRICS, Workspace
from llmc.report import SILENT, Report
from llmc.train import folder as folders
from llmc.train import record as records
from llmc.train import resume as resuming
from llmc.train.engine_run import OnEvent, ignore
from llmc.train.follow import Followed
from llmc.train.metrics import Point, Progress, further
from llmc.train.plan import Inputs, RunPlan, start
from llmc.train.ranks import counted
from llmc.train.record import Setup
from llmc.train.resume import resume_command
from llmc.train.start import Data
from llmc.weights.checkpoint import read_header
from llmc.weights.sources import run_weights


@dataclass(frozen=True)
class TrainResult:
    """How a training run ended."""

    folder: Path  # the run's
    settings: TrainConfig  # the training settings
    progress: Progress  # the numbers of all steps, those before a resume included
    resumed: bool = False  # the run existed before
    interrupted: bool = False  # a signal ended it
    data: Data | None = None  # what it was trained and validated on

    @property
    def steps(self) -> int:
        """The number of training steps made."""
        return len(self.progress.train)

    @property
    def reason(self) -> str | None:
        """Why the run ended: a key of ``metrics.STATES``; None if the engine did not say."""
        return self.progress.end.get("reason")

    @property
    def train_loss(self) -> float | None:
        """The training loss of the last step, in nats per token."""
        return self.progress.train[-1][1] if self.progress.train else None

    @property
    def val_loss(self) -> float | None:
        """The last validation loss, in nats per token."""
        return self.progress.val[-1][1] if self.progress.val else None

    @property
    def val_error(self) -> float | None:
        """The standard error of the last validation loss; None of a single window."""
        val = self.progress.val
        return self.progress.val_errors.get(int(val[-1][0])) if val else None

    @property
    def val_parts(self) -> dict[str, float]:
        """The last validation loss of each text of a mixture, by name; empty for a single text."""
        texts = [text.name for text in self.data.val] if self.data is not None else []
        return dict(zip(texts, self.progress.val_parts, strict=False))

    @property
    def bits_per_byte(self) -> float | None:
        """The last validation loss in bits per byte of text; None where the bytes are not known."""
        return self.data.bits_per_byte(self.val_loss) if self.data is not None else None

    @property
    def bits_error(self) -> float | None:
        """The standard error of ``bits_per_byte``, from that of the loss."""
        return self.data.bits_per_byte(self.val_error) if self.data is not None else None

    @property
    def checkpoint(self) -> Path | None:
        """The newest weights; None if none were saved."""
        return self.folder / CHECKPOINT if self.progress.saved_step is not None else None

    @cached_property
    def offered(self) -> Path | None:
        """The weights that ``sample``, ``serve``, ``eval`` and ``export-weights`` use."""
        return run_weights(self.folder) if self.checkpoint is not None else None

    @cached_property
    def offered_step(self) -> int | None:
        """The step of the offered weights. None: the run has no weights yet."""
        return read_header(self.offered).step if self.offered is not None else None

    @property
    def best_val(self) -> Point | None:
        """The step with the lowest validation loss, saved or not, and that loss."""
        return self.progress.best_val

    @property
    def metrics(self) -> Path:
        """The file with the numbers of every step."""
        return self.folder / METRICS

    @property
    def longer(self) -> list[str]:
        """Flags with which a resume would go on; empty unless a resume had nothing to do."""
        idle = self.resumed and len(self.progress.train) == self.progress.before
        return further(self.progress.end, self.settings) if idle and self.progress.end else []


def train(
    workspace: Workspace,
    settings: Mapping[str, Any] | None = None,
    inputs: Inputs | None = None,
    *,
    resume: bool = False,
    threads: int | None = None,
    launch: Launch = ALONE,
    report: Report = SILENT,
    on_event: OnEvent = ignore,
) -> TrainResult:
    """Train a model in a new run, or resume one.

    Args:
        workspace: where data, models and runs lie.
        settings: training settings by name (see ``TrainConfig``), put over the preset's.
        inputs: the run's name, preset, data and model, where the defaults are not meant.
        resume: continue a run, from its newest checkpoint or ``inputs.resume_from``.
        threads: threads; the result does not depend on it. Default: one per physical core, and
            fewer where the first steps are no slower with them; with a launcher, as many as each
            machine has cores, divided by its ranks. 0: the default.
        launch: how the engine is started: alone, or as several ranks by a launcher.
        report: takes notes about what was chosen.
        on_event: takes every event of the engine, and the numbers so far.

    Raises:
        LlmcError: an input is missing or damaged, a setting makes no sense, or the engine failed.
    """
    chosen = training_threads(threads, several=launch.several)
    build = partial(ensure_native, report=report)
    plan = start(
        workspace,
        settings or {},
        inputs or Inputs(),
        resume=resume,
        ranks=lambda: counted(build, launch),
        report=report,
    )
    binary = build()
    isa = chosen_isa(binary, plan.settings.dtype, plan.began_with)
    setup = Setup(binary, isa, chosen, launch)
    name = inputs.run if inputs is not None else None
    return run_training(workspace, plan, setup, run=name, report=report, on_event=on_event)


def run_training(
    workspace: Workspace,
    plan: RunPlan,
    setup: Setup,
    *,
    run: str | None = None,
    report: Report = SILENT,
    on_event: OnEvent = ignore,
) -> TrainResult:
    """Run the engine in the run's folder, which is made for a new run, named ``run`` or numbered.

    A new run that ends before its first step leaves no folder. An error of a run that can be
    resumed carries the command for that.

    Raises:
        LlmcError: the engine failed, or another process took the run's name.
    """
    resumed = plan.record is not None
    if plan.record is None:
        record = records.new_record(workspace, plan.data, plan.model, setup, plan.preset)
        plan = replace(plan, folder=folders.claim_run(workspace, run, plan.data.name))
    else:
        record = records.resumed_record(plan.record, plan.step, setup, plan.preset, plan.changes)
    progress = plan.progress()
    followed = Followed(workspace, plan, record, setup, progress, report, on_event)
    result = TrainResult(plan.folder, plan.settings, progress, resumed, data=plan.data)
    try:
        plan.note_choices(workspace, setup, report)
        if resumed:
            plan.note_differences(workspace, setup, report)
        followed.run()
    except (LlmcError, KeyboardInterrupt) as error:
        made = progress.train or progress.val
        if not resumed and not made and folders.newest_step(plan.folder) is None:
            folders.discard_run(plan.folder)
            raise
        if isinstance(error, Interrupted):
            return replace(result, interrupted=True, settings=followed.plan.settings)
        if made and isinstance(error, LlmcError):
            raise _with_way_out(workspace, followed.plan, setup, progress, error) from error
        raise
    return replace(result, settings=followed.plan.settings)


def _with_way_out(
    workspace: Workspace, plan: RunPlan, setup: Setup, progress: Progress, error: LlmcError
) -> LlmcError:
    """Return the error that ends a run, with the commands that continue the run."""
    ways: list[list[str]] = [[]]
    if isinstance(error, LossNotFinite):
        ways = resuming.calmer(plan.settings)
    elif isinstance(error, Killed):
        ways += resuming.less_memory(plan.settings, progress.start)
        step = folders.newest_step(plan.folder)
        saved = f"step {step:,} is saved" if step is not None else "no checkpoint was saved yet"
        what = "the engine was killed (SIGKILL)"
        why = ", most likely because memory ran out"
        if setup.launch.command:  # it names the machine
            what, why = str(error), ""
        error = Killed(
            f"{what} after {progress.done:,} steps{why}; {saved}. Close other programs and "
            "resume, or resume with less memory"
        )
    error.commands = tuple(
        resume_command(workspace, plan.folder, *flags, launch=setup.launch) for flags in ways
    )
    return error
