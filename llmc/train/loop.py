"""A training run from start to end: find its inputs, run the engine, return what happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llmc.config import TrainConfig
from llmc.engine.build import ensure_native
from llmc.engine.machine import Threads, chosen_isa, training_threads
from llmc.engine.process import Engine
from llmc.errors import Interrupted, Killed, LlmcError, LossNotFinite
from llmc.paths import CHECKPOINT, METRICS, Workspace
from llmc.report import SILENT, Report
from llmc.setting import flags_of
from llmc.tokens.recorded import record_tokenizer
from llmc.train import folder as folders
from llmc.train import record as records
from llmc.train import resume as resuming
from llmc.train.arrival import TRIAL_SECONDS, Watch
from llmc.train.metrics import Event, Metrics, Point, Progress, further
from llmc.train.mixture import whole_weights
from llmc.train.plan import Inputs, RunPlan, start
from llmc.train.record import Setup
from llmc.train.resume import resume_command
from llmc.train.start import Data
from llmc.weights.checkpoint import read_header
from llmc.weights.sources import run_weights

SAMPLE_TOKENS = 64

OnEvent = Callable[[Event, Progress], None]


def ignore(event: Event, progress: Progress) -> None:
    """Show nothing of an event."""


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
            fewer where the first steps are no slower with them.
        report: takes notes about what was chosen.
        on_event: takes every event of the engine, and the numbers so far.

    Raises:
        LlmcError: an input is missing or damaged, a setting makes no sense, or the engine failed.
    """
    chosen = training_threads(threads)
    plan = start(workspace, settings or {}, inputs or Inputs(), resume=resume, report=report)
    binary = ensure_native(report=report)
    setup = Setup(binary, chosen_isa(binary, plan.settings.dtype), chosen)
    name = inputs.run if inputs is not None else None
    return run_training(workspace, plan, setup, run=name, report=report, on_event=on_event)


def engine_arguments(
    data: Data,
    model: Path,
    folder: Path,
    settings: TrainConfig,
    threads: Threads,
    *,
    rows: int = 0,
) -> list[str]:
    """Return the flags of the engine's ``train``: every setting under its own name.

    ``rows`` are the model's: ids that no token of the data's tokenizer has are never sampled.
    """
    argv = ["--model", str(model)]
    for flag, weights, texts in (
        ("--data", "--weights", data.train),
        ("--val-data", "--val-weights", data.val),
    ):
        argv += [word for text in texts for word in (flag, str(text.path))]
        if len(texts) > 1:
            argv += [weights, ",".join(map(str, whole_weights(texts)))]
    argv += ["--out", str(folder)]
    argv += [*threads.flags(), "--events", "json"]
    argv += ["--sample-tokens", str(SAMPLE_TOKENS)]
    if data.tokenizer is not None:
        unused = data.tokenizer.ids_without_token(rows)
        argv += ["--eot", str(data.tokenizer.eot)]
        argv += ["--unused-ids", unused] if unused else []
    if data.sample_prompt:
        argv += ["--sample-prompt", ",".join(map(str, data.sample_prompt))]
    if data.sample_stop is not None:
        argv += ["--sample-stop", str(data.sample_stop)]
    return argv + flags_of(settings)


def run_engine(
    argv: Sequence[str],
    progress: Progress,
    detokenize: Callable[[Sequence[int]], str],
    on_event: OnEvent = ignore,
    *,
    earlier: Metrics | None = None,
    on_first: Callable[[], None] | None = None,
) -> None:
    """Run the engine to its end; ``progress`` and ``on_event`` take each event as it comes.

    Args:
        argv: the engine's command line.
        progress: collects the numbers.
        detokenize: turns the ids of a sample into text.
        on_event: takes each event and the numbers so far.
        earlier: what a resumed run recorded before; what belongs to the steps kept is counted.
        on_first: called once, at the first loss: nothing can refuse the run after that.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    with Engine(argv) as engine:
        for event in engine.events():
            if event.get("event") == "start" and earlier is not None:
                progress.resume(earlier, event["step"])
            if on_first is not None and ("train_loss" in event or "val_loss" in event):
                on_first()
                on_first = None
            progress.add(event, detokenize)
            on_event(event, progress)


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
    result = TrainResult(plan.folder, plan.settings, progress, resumed, data=plan.data)
    try:
        plan.note_choices(workspace, setup.threads.most, report)
        if resumed:
            plan.note_differences(workspace, setup, report)
        _follow(workspace, plan, record, setup, progress, report=report, on_event=on_event)
    except (LlmcError, KeyboardInterrupt) as error:
        made = progress.train or progress.val
        if not resumed and not made and folders.newest_step(plan.folder) is None:
            folders.discard_run(plan.folder)
            raise
        if isinstance(error, Interrupted):
            return replace(result, interrupted=True)
        if made:
            raise _with_way_out(workspace, plan, progress, error) from error
        raise
    return result


def _with_way_out(
    workspace: Workspace, plan: RunPlan, progress: Progress, error: BaseException
) -> BaseException:
    """Return the error that ends a run, with the commands that continue the run."""
    if not isinstance(error, LlmcError):
        return error
    ways: list[list[str]] = [[]]
    if isinstance(error, LossNotFinite):
        ways = resuming.calmer(plan.settings)
    elif isinstance(error, Killed):
        ways += resuming.less_memory(plan.settings, progress.start)
        step = folders.newest_step(plan.folder)
        saved = f"step {step:,} is saved" if step is not None else "no checkpoint was saved yet"
        error = Killed(
            f"the engine was killed (SIGKILL) after {progress.done:,} steps, most likely because "
            f"memory ran out; {saved}. Close other programs and resume, or resume with less memory"
        )
    error.commands = tuple(resume_command(workspace, plan.folder, *flags) for flags in ways)
    return error


def _follow(
    workspace: Workspace,
    plan: RunPlan,
    record: records.Record,
    setup: Setup,
    progress: Progress,
    *,
    report: Report,
    on_event: OnEvent,
) -> None:
    """Write the run's files and run the engine; ``record`` is the content of ``run.json``."""
    folder, data = plan.folder, plan.data

    def write() -> None:
        records.write_record(folder, record)  # first: config.toml is compared with it
        folders.write_config(folder, plan.preset)
        if data.tokenizer is not None:
            record_tokenizer(data.tokenizer, folder)

    settings = plan.settings
    watch = Watch(settings, wait=TRIAL_SECONDS if setup.threads.fewer else 0.0)
    earlier = Metrics()

    def said(event: Event, progress: Progress) -> str | None:
        if event.get("event") == "note":
            return str(event["text"])
        if event.get("event") != "start" or plan.record is None:
            return watch.take(event, progress)
        parts: dict[str, Any] = {"changes": plan.changes, "earlier": earlier, "start": event}
        return resuming.rate_jump(workspace, folder, settings, **parts)

    def heard(event: Event, progress: Progress) -> None:
        if (sentence := said(event, progress)) is not None:
            report.note(sentence)
        on_event(event, progress)

    if plan.record is not None:  # an update keeps its tokens, whatever the engine proposes
        settings = replace(settings, total_batch_size=settings.tokens_per_step)
    argv = [str(setup.binary), "train"]
    argv += engine_arguments(data, plan.model, folder, settings, setup.threads, rows=plan.rows)
    if plan.record is None:
        write()
        run_engine(argv, progress, data.detokenize, heard)
        return
    if (folder / METRICS).is_file():
        earlier.read(folder / METRICS)
    # The engine may still refuse the run, or another process hold it: its folder stays as it is.
    argv += ["--resume", "1"]
    argv += ["--resume-from", str(plan.step)] if plan.back else []
    argv += ["--new-schedule", "1"] if resuming.plans_anew(plan.changes, settings) else []
    argv += ["--forget-best", "1"] if resuming.validates_otherwise(plan.changes) else []
    run_engine(argv, progress, data.detokenize, heard, earlier=earlier, on_first=write)
