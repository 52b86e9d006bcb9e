"""A run before it starts or resumes: its inputs, found and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.config import Preset, TrainConfig, load_preset, settings_of
from llmc.errors import BadData, Usage
from llmc.model import ModelConfig, flops_per_token
from llmc.paths import CHECKPOINT, Workspace
from llmc.report import SILENT, Report
from llmc.train.folder import new_run, newest_step
from llmc.train.progress import Progress
from llmc.train.record import (
    Record,
    Setup,
    recorded_data,
    resumable,
    resumed_settings,
    weights_checksum,
)
from llmc.train.start import Data, check_match, find_data, find_model
from llmc.train.storage import Storage
from llmc.units import seconds_of
from llmc.weights.checkpoint import read_header


@dataclass(frozen=True)
class Inputs:
    """What the caller names; None: the default, or with ``resume`` the run's own.

    Attributes:
        run: the run's name.
        config: a preset, by name or path.
        data: dataset folder, token file or glob pattern to train on.
        val_data: token file or pattern to validate on.
        model: the checkpoint to start from.
    """

    run: str | None = None
    config: str | None = None
    data: Path | None = None
    val_data: Path | None = None
    model: Path | None = None


@dataclass(frozen=True)
class RunPlan:
    """A run before it is started or resumed.

    Attributes:
        folder: the run's; that of a new run is reserved by :func:`run_training`.
        preset: the recipe.
        settings: the training settings.
        data: the tokens to train and to validate on.
        model: the checkpoint that the run starts, or started, from.
        shape: the model's shape.
        record: what ``run.json`` says of a resumed run; None: the run is new.
        step: the step it is resumed from; None: no checkpoint was saved.
    """

    folder: Path
    preset: Preset
    settings: TrainConfig
    data: Data
    model: Path
    shape: ModelConfig
    record: Record | None = None
    step: int | None = None

    @property
    def storage(self) -> Storage:
        """The disk space that the run takes."""
        validates = self.data.val is not None and self.settings.val_every > 0
        return Storage.of(self.shape, self.settings, self.folder, validates=validates)


def start(
    workspace: Workspace,
    given: Mapping[str, Any],
    inputs: Inputs,
    *,
    resume: bool = False,
    report: Report = SILENT,
) -> RunPlan:
    """Find and check all that a run starts from; nothing is written.

    Raises:
        LlmcError: an input is missing or damaged, or a setting makes no sense.
    """
    begin = start_resumed if resume else start_new
    plan = begin(workspace, given, inputs, report)
    if plan.settings.seq_len > plan.shape.context:
        raise Usage(
            f"--seq-len {plan.settings.seq_len} is more than the {plan.shape.context} positions "
            f"of {workspace.shown(plan.model)}: use at most that"
        )
    return plan


def start_new(
    workspace: Workspace, given: Mapping[str, Any], inputs: Inputs, report: Report = SILENT
) -> RunPlan:
    """Plan a new run.

    Raises:
        LlmcError: data or model are missing or damaged, or the run exists.
    """
    preset = load_preset(inputs.config) if inputs.config is not None else Preset()
    settings = settings_of(preset, given)
    data = find_data(workspace, inputs.data, inputs.val_data)
    model = find_model(workspace, inputs.model, data)
    folder = new_run(workspace, inputs.run, data.name)
    return RunPlan(folder, preset, settings, data, model, _shape(workspace, data, model))


def start_resumed(
    workspace: Workspace, given: Mapping[str, Any], inputs: Inputs, report: Report = SILENT
) -> RunPlan:
    """Plan to resume a run, whose data may have been moved to ``inputs.data``.

    Raises:
        Usage: a setting would change that a resume must not change.
        LlmcError: there is no such run, or its data is gone.
    """
    val_data = None if inputs.data else inputs.val_data
    for name, value in (("config", inputs.config), ("model", inputs.model), ("val-data", val_data)):
        if value is not None:
            raise Usage(
                f"--resume uses the run's own data, model and settings: leave out --{name}, or "
                "start a new run from its weights with --model"
            )
    folder, preset, record = resumable(workspace, inputs.run)
    settings = resumed_settings(preset.train, given)
    step, steps = newest_step(folder), given.get("steps")
    if step is not None and steps is not None and steps <= step:
        raise Usage(
            f"the run {workspace.shown(folder)} has made {step:,} steps already, and --steps "
            "includes them: use a larger number, or leave out --steps"
        )
    data, record = recorded_data(workspace, folder, record, (inputs.data, inputs.val_data), report)
    model = _recorded_model(workspace, folder, record, step)
    shape = _shape(workspace, data, model)
    return RunPlan(folder, preset, settings, data, model, shape, record, step)


def _shape(workspace: Workspace, data: Data, model: Path) -> ModelConfig:
    header = read_header(model)
    check_match(workspace, data, model, header)
    return header.config


def _recorded_model(workspace: Workspace, folder: Path, record: Record, step: int | None) -> Path:
    """Return the checkpoint that a run started from, or its own if that one is gone.

    Raises:
        LlmcError: the run has to start from it again, and it is gone or another file.
    """
    model: Path = workspace.root / record["model"]
    if step is not None:
        return model if model.is_file() else folder / CHECKPOINT
    if record.get("weights_crc32") not in (None, weights_checksum(model)):
        raise BadData(
            f"{workspace.shown(model)} is not what {workspace.shown(folder)} started from, and no "
            "checkpoint of the run was saved: make that model again, or delete the run's folder "
            "and start a new run"
        )
    return model


def note_choices(workspace: Workspace, plan: RunPlan, threads: int, report: Report) -> None:
    """Report what the run uses, chosen or by default."""
    shown, data = workspace.shown, plan.data
    report.note(f"data: {shown(data.train)}")
    report.note(f"validation: {shown(data.val) if data.val else 'none'}")
    report.note(f"model: {shown(plan.model)}")
    report.note(f"settings: {plan.preset.name}; threads: {threads}; run: {shown(plan.folder)}")


def note_differences(workspace: Workspace, plan: RunPlan, setup: Setup, report: Report) -> None:
    """Report where a resumed run does not continue as expected."""
    if plan.step is None:
        report.note(f"{workspace.shown(plan.folder)} has no checkpoint: it starts from step 0")
    before = plan.record.get("isa") if plan.record is not None else None
    if plan.step is not None and before not in (None, setup.isa):
        report.note(
            f"the run began with the instruction set {before} and continues with {setup.isa}: its "
            "numbers will not be bit for bit those of an uninterrupted run"
        )


def new_progress(plan: RunPlan) -> Progress:
    """Return the empty progress of a planned run."""
    return Progress(
        plan.settings.steps,
        run=plan.folder.name,
        tokens_per_step=plan.settings.tokens_per_step,
        flops_per_token=flops_per_token(plan.shape, plan.settings.seq_len),
        max_seconds=seconds_of(plan.settings.max_time),
    )
