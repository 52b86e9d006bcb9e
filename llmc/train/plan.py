"""A run before it starts or resumes: its inputs, found and checked, and its disk space."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmc.config import TrainConfig
from llmc.errors import BadData, LlmcError, Usage
from llmc.model import ModelConfig, flops_per_token, muon_flops
from llmc.paths import (
    BEST,
    CHECKPOINT,
    CHECKPOINTS,
    RECORD,
    Workspace,
    free_bytes,
)
from llmc.preset import Preset, in_val_tokens, load_preset, settings_of
from llmc.report import SILENT, Report
from llmc.setting import differing, every_seconds
from llmc.train import mixture as mixing
from llmc.train import recipe
from llmc.train import record as records
from llmc.train import resume as resuming
from llmc.train.folder import new_run, newest_step, saved_weights
from llmc.train.match import check_match, find_model
from llmc.train.metrics import Progress
from llmc.train.mixture import Spec
from llmc.train.record import Record, Setup, Texts
from llmc.train.resume import Changes
from llmc.train.start import Data, find_data
from llmc.units import megabytes, seconds_of
from llmc.weights.checkpoint import checkpoint_bytes, read_header
from llmc.weights.state import training_state_bytes

MUON_MOST = 0.25  # the part of a step's operations beyond which Muon is said to cost much


@dataclass(frozen=True)
class Inputs:
    """What the caller names; None: the default, or with ``resume`` the run's own."""

    run: str | None = None  # the run's name
    config: str | Preset | None = None  # a preset, by name or path, or as it is
    # Datasets, token files or patterns to train on, ``NAME`` or ``NAME:WEIGHT`` each.
    data: Spec | Sequence[Spec] | None = None
    val_data: Spec | Sequence[Spec] | None = None  # those to validate on, likewise
    model: Path | None = None  # the checkpoint to start from
    # The step of the checkpoint to resume from, or ``best``. Default: the newest.
    resume_from: str | None = None

    @property
    def preset(self) -> Preset:
        """The preset, or the defaults.

        Raises:
            Usage: there is no such preset.
        """
        if isinstance(self.config, Preset):
            return self.config
        return load_preset(self.config) if self.config is not None else Preset()


@dataclass(frozen=True)
class Storage:
    """Disk space in bytes."""

    needed: int  # the most that the run's files take at a time
    free: int  # free space; files that the run stored before it was resumed count as free

    @property
    def warning(self) -> str | None:
        """What to say of checkpoints on the way that do not fit, or None."""
        if self.needed <= self.free:
            return None
        return (
            f"the run's checkpoints take up to {megabytes(self.needed)} of the disk, but only "
            f"{megabytes(self.free)} are free: free some before it saves on the way"
        )


def stored_bytes(
    config: ModelConfig, settings: TrainConfig, *, validates: bool, seconds: float = 0.0
) -> int:
    """Return the bytes that a run keeps while one more checkpoint is being written.

    A run of so many ``seconds`` that saves by time saves on the way if it is longer than that time.
    One that saves by steps or has ``patience`` keeps the best checkpoint besides the newest ones.
    Others store one checkpoint in all. The engine refuses a run by the same rule, without seconds.
    """
    state = training_state_bytes(config, settings.optimizer_state, settings.optimizer)
    each = checkpoint_bytes(config, "fp32") + state
    by_steps = not isinstance(settings.save_every, str) and settings.save_every > 0
    if by_steps or (validates and settings.patience):
        return (settings.keep + 1 + validates) * each
    on_the_way = 0 < every_seconds(settings.save_every) < seconds
    return (settings.keep + 1) * each if on_the_way else each


def muon_cost(config: ModelConfig, settings: TrainConfig) -> str | None:
    """Return what to say where Muon makes a step longer by more than ``MUON_MOST``, or None."""
    tokens, most = settings.tokens_per_step, MUON_MOST
    rest = flops_per_token(config, settings.seq_len)
    share = muon_flops(config) / (tokens * rest)
    if settings.optimizer != "muon" or share <= most:
        return None
    batch = max(settings.shares, 1) * settings.batch_size * settings.seq_len
    enough = math.ceil(muon_flops(config) / (most * rest * batch)) * batch
    return (
        f"--optimizer muon takes {share:.0%} more operations for an update of {tokens:,} tokens: "
        f"with --total-batch-size {enough} it is at most {most:.0%}, in longer steps"
    )


@dataclass(frozen=True)
class RunPlan:
    """A run before it is started or resumed."""

    folder: Path  # the run's; that of a new run is reserved by :func:`llmc.train.loop.run_training`
    preset: Preset  # the model's shape and all settings
    data: Data  # the tokens to train and to validate on
    model: Path  # the checkpoint that the run starts, or started, from
    record: Record | None = None  # what ``run.json`` says of a resumed run; None: the run is new
    step: int | None = None  # the step it is resumed from; None: no checkpoint was saved
    back: bool = False  # this is not its newest checkpoint
    # What a resumed run continues with, by name, and what it had before.
    changes: Changes = field(default_factory=dict)

    @property
    def settings(self) -> TrainConfig:
        """The training settings."""
        return self.preset.train

    @property
    def rows(self) -> int:
        """The rows of the model's embedding; its tokenizer may have fewer tokens."""
        return self.preset.model.vocab_size

    def storage(self, seconds: float) -> Storage:
        """Return the disk space of a run of so many seconds; its folder need not exist yet."""
        sizes = {}  # by inode: a file may have several names
        for path in (*self.folder.glob(f"{CHECKPOINTS}/*/*"), *self.folder.glob(BEST)):
            with suppress(OSError):  # removed by a trainer that still runs
                about = path.stat()
                sizes[about.st_ino] = about.st_size
        validates = bool(self.data.val) and self.settings.val_every > 0
        needed = stored_bytes(
            self.preset.model, self.settings, validates=validates, seconds=seconds
        )
        return Storage(needed, free_bytes(self.folder) + sum(sizes.values()))

    def progress(self) -> Progress:
        """Return the empty progress of the run."""
        since = resuming.val_since(self.record or {})
        if resuming.validates_otherwise(self.changes):
            since = self.step if self.step is not None else -1
        return Progress(
            self.settings.steps,
            val_since=since,
            run=self.folder.name,
            tokens_per_step=self.settings.tokens_per_step,
            flops_per_token=flops_per_token(self.preset.model, self.settings.seq_len),
            max_seconds=seconds_of(self.settings.max_time),
        )

    def note_choices(self, workspace: Workspace, setup: Setup, report: Report) -> None:
        """Report what the run uses, chosen or by default."""
        shown, data = workspace.shown, self.data
        lines = mixing.said(workspace, data.train, self.settings)
        for line in (*lines, *mixing.validation_said(workspace, data.train, data.val)):
            report.note(line)
        report.note(f"model: {shown(self.model)}")
        windows = data.train[0].windows(self.settings)
        rows = self.settings.rows_per_step
        if rows > windows and len(data.train) == 1:
            have = f"{windows:,} window{'s' if windows > 1 else ''}"
            report.note(
                f"the text has {have} of {self.settings.seq_len:,} tokens: an update "
                f"of {rows:,} rows repeats them"
            )
        costs = muon_cost(self.preset.model, self.settings)
        if self.record is None and costs and self.preset.name != recipe.NAME:  # it knows
            report.note(costs)
        threads = setup.threads.shown
        report.note(f"settings: {self.preset.name}; threads: {threads}; run: {shown(self.folder)}")
        if setup.launch.command:
            report.note(f"launch: {shlex.join(setup.launch.command)}")

    def note_differences(self, workspace: Workspace, setup: Setup, report: Report) -> None:
        """Report where a resumed run does not continue as expected."""
        if (words := resuming.announced(self.changes)) is not None:
            report.note(
                f"from step {self.step or 0:,} on, {words}: the numbers are not, bit for bit, "
                f"those of an undisturbed run; {RECORD} records the change"
            )
        if self.back:
            report.note(
                f"what {workspace.shown(self.folder)} saved and measured after step {self.step:,} "
                "is removed when training starts"
            )
        if self.step is None:
            report.note(f"{workspace.shown(self.folder)} has no checkpoint: it starts from step 0")
        if not setup.launch.several:  # several ranks agree on one
            self.note_isa(setup.isa, report)

    @property
    def began_with(self) -> str | None:
        """The instruction set of a run that is resumed, if it is known."""
        return self.record.get("isa") if self.record is not None and self.step is not None else None

    def note_isa(self, isa: str, report: Report) -> None:
        """Report that a resumed run continues with another instruction set than it began with."""
        if self.began_with not in (None, isa):
            report.note(
                f"the run began with the instruction set {self.began_with} and continues with "
                f"{isa}: its numbers will not be bit for bit those of an uninterrupted run"
            )


def start(
    workspace: Workspace,
    given: Mapping[str, Any],
    inputs: Inputs,
    *,
    resume: bool = False,
    ranks: Callable[[], int] = lambda: 1,
    report: Report = SILENT,
) -> RunPlan:
    """Find and check all that a run starts from; nothing is written.

    ``ranks`` counts the ranks of a new run; it is called where its settings depend on that.

    Raises:
        LlmcError: an input is missing or damaged, or a setting makes no sense.
    """
    if resume or inputs.resume_from is not None:
        plan = _start_resumed(workspace, given, inputs, report)
    else:
        plan = _start_new(workspace, given, inputs, ranks)
    weights = _weights(plan.folder, plan.model, plan.step)
    header = read_header(weights)
    check_match(workspace, plan.data, weights, header)
    if plan.record is None:
        mixing.check_windows(plan.data.train, plan.settings)
        _check_shape(workspace, plan, inputs, header.config)
        plan = _with_shape(plan, header.config, given, report)
        plan = _with_warmup(plan, inputs, given, report)
    if plan.settings.seq_len > header.config.context:
        raise Usage(
            f"--seq-len {plan.settings.seq_len} is more than the {header.config.context} positions "
            f"of {workspace.shown(weights)}: use at most that"
        )
    mixing.check_rows(plan.data.train, plan.settings.seq_len)
    return plan


def _with_shape(
    plan: RunPlan, shape: ModelConfig, given: Mapping[str, Any], report: Report
) -> RunPlan:
    """Return the plan with the model's shape; T is no longer than it unless T was asked for."""
    preset = replace(plan.preset, model=shape)
    asked = given.get("seq_len") is not None or preset.names_seq_len
    if not asked and preset.train.seq_len > shape.context:
        report.note(f"--seq-len {shape.context}: the model has no more positions")
        preset = replace(preset, train=replace(preset.train, seq_len=shape.context))
    return replace(plan, preset=preset)


def _with_warmup(
    plan: RunPlan, inputs: Inputs, given: Mapping[str, Any], report: Report
) -> RunPlan:
    """Return the plan with a preset's warmup shortened as its steps are, if it does not fit.

    A warmup that was asked for is left to the engine, which refuses it.
    """
    settings, steps = plan.settings, mixing.planned_steps(plan.data.train, plan.settings)
    needed = {"wsd": round(settings.decay * steps), "constant": 0}  # updates after the warmup
    decay = needed.get(settings.schedule, 1)
    if inputs.config is None or given.get("warmup") is not None:
        return plan
    if not steps or settings.warmup + decay <= steps:
        return plan
    usual = inputs.preset.train
    share = usual.warmup / usual.steps if usual.warmup < usual.steps else 0.1
    warmup = min(round(share * steps), max(steps - decay, 0))
    report.note(
        f"--warmup {warmup}: the preset's {settings.warmup:,} are for {usual.steps:,} steps, and "
        f"this run has {steps:,}"
    )
    return replace(plan, preset=replace(plan.preset, train=replace(settings, warmup=warmup)))


def _check_shape(workspace: Workspace, plan: RunPlan, inputs: Inputs, shape: ModelConfig) -> None:
    """Refuse a preset of another shape than the weights'; the vocabulary is the data's."""
    wanted = plan.preset.model
    names = [name for name in plan.preset.named_shape if name != "vocab_size"]
    other = [name for name in names if getattr(wanted, name) != getattr(shape, name)]
    if not other:
        return
    pairs = [f"{name} {getattr(wanted, name)}, not {getattr(shape, name)}" for name in other]
    error = Usage(
        f"--config {inputs.config} describes another model than {workspace.shown(plan.model)} "
        f"({', '.join(pairs)}): make weights of its shape, or choose another preset"
    )
    config = str(inputs.config)
    out = workspace.shown(workspace.models / f"{plan.preset.name}-{plan.data.name}.bin")
    sizes = [made.tokenizer.vocab_size for made in plan.data.manifests]
    words = ["--vocab-size", str(max(sizes, default=shape.vocab_size)), "--out", out]
    specs = (inputs.data,) if isinstance(inputs.data, Spec) else inputs.data or ()
    data = [word for spec in specs for word in ("--data", str(spec))]
    error.commands = (
        shlex.join(["llmc", "export-weights", f"random:{config}", *words]),
        shlex.join(["llmc", "train", "--config", config, *data, "--model", out]),
    )
    raise error


def _named(workspace: Workspace, inputs: Inputs, preset: Preset) -> tuple[Texts, Texts]:
    """Return the texts that the caller or else the preset names."""
    return (
        mixing.named(workspace, inputs.data or preset.data),
        mixing.named(workspace, inputs.val_data or preset.val_data),
    )


def _start_new(
    workspace: Workspace, given: Mapping[str, Any], inputs: Inputs, ranks: Callable[[], int]
) -> RunPlan:
    preset = inputs.preset
    settings = settings_of(preset, given)
    if not settings.total_batch_size and not settings.shares and (count := ranks()) > 1:
        settings = replace(settings, shares=count)  # an update has a batch of each
    preset = replace(preset, train=settings)
    data = find_data(workspace, *_named(workspace, inputs, preset))
    named = inputs.config if preset.named_shape and isinstance(inputs.config, str) else None
    model = find_model(workspace, inputs.model, data, named)
    return RunPlan(new_run(workspace, inputs.run, data.name), preset, data, model)


def _start_resumed(
    workspace: Workspace, given: Mapping[str, Any], inputs: Inputs, report: Report
) -> RunPlan:
    """Plan to resume a run; ``inputs.data`` is where its data was moved to, or other data.

    Raises:
        Usage: a setting would change that a resume must not change.
        LlmcError: there is no such run, or its data is gone.
    """
    for name, value in (("config", inputs.config), ("model", inputs.model)):
        if value is not None:
            raise Usage(
                f"--resume uses the run's own model and settings: leave out --{name}, or start a "
                "new run from its weights with --model"
            )
    folder, record = records.resumable(workspace, inputs.run)
    preset, told = records.run_settings(folder, record)
    settings = resuming.resumed_settings(preset.train, given)
    step = resuming.chosen_step(workspace, folder, inputs.resume_from)
    resuming.check_steps(workspace, folder, step, given)
    moved = _named(workspace, inputs, Preset())
    data, record, other = records.recorded_data(workspace, folder, record, moved, report)
    model = _recorded_model(workspace, folder, record, step)
    preset = replace(preset, model=read_header(_weights(folder, model, step)).config)
    if (words := resuming.edited(workspace, folder, preset, told or preset, given)) is not None:
        report.note(words)
    if len(data.val) > 1:
        settings = in_val_tokens(settings, {})
    changes = {**differing(preset.train, settings), **other}
    preset = replace(preset, name=str(record.get("recipe", preset.name)), train=settings)
    back = step != newest_step(folder)
    return RunPlan(folder, preset, data, model, record, step, back, changes)


def _weights(folder: Path, model: Path, step: int | None) -> Path:
    """Return the weights that a run starts or continues from; ``model`` is what it started from."""
    if step is not None:
        with suppress(LlmcError):  # the engine says what is wrong with the checkpoint
            read_header(file := saved_weights(folder)[step])
            return file
    return model


def _recorded_model(workspace: Workspace, folder: Path, record: Record, step: int | None) -> Path:
    """Return the checkpoint that a run started from, or its own if that one is gone."""
    model: Path = workspace.root / record["model"]
    if step is not None:
        return model if model.is_file() else folder / CHECKPOINT
    if record.get("weights_crc32") not in (None, records.weights_checksum(model)):
        raise BadData(
            f"{workspace.shown(model)} is not what {workspace.shown(folder)} started from, and no "
            "checkpoint of the run was saved: make that model again, or delete the run's folder "
            "and start a new run"
        )
    return model
