"""A run of training, from what it begins with to what is said at its end."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmc.cli.context import Context
from llmc.cli.views.training import History, PlainView, choose_view, precision
from llmc.config import Preset, TrainConfig, flags_of, load_preset, settings_of
from llmc.engine.process import Engine
from llmc.errors import BadData, Interrupted, LlmcError, Usage
from llmc.paths import CHECKPOINT, METRICS, RECORD
from llmc.tokens.tokenizer import record_tokenizer
from llmc.train.endings import ending, further
from llmc.train.folder import claim_run, discard_run, new_run, newest_run, newest_step, write_config
from llmc.train.metrics import Event, Metrics, read_metrics
from llmc.train.record import (
    Record,
    Setup,
    new_record,
    recorded_data,
    resumable,
    resumed_record,
    resumed_settings,
    weights_checksum,
    write_record,
)
from llmc.train.start import Data, find_data, find_model
from llmc.units import duration, megabytes
from llmc.weights.checkpoint import read_header

SAMPLE_TOKENS = 64
RUN_AGAIN = "run it again"  # the advice of who found the disk full and knows nothing of the run


@dataclass(frozen=True)
class Beginning:
    """What a run begins with: all that the flags, a preset or the run's own record say.

    Attributes:
        folder: the run's; that of a new run is its own once it is claimed.
        preset: the recipe.
        settings: of training, flags included.
        data: what it trains on.
        model: what it starts from, or started from.
        record: what ``run.json`` says of a run that goes on; None: the run is new.
        step: the one it goes on from; None: nothing was saved.
    """

    folder: Path
    preset: Preset
    settings: TrainConfig
    data: Data
    model: Path
    record: Record | None = None
    step: int | None = None


def begin_anew(
    here: Context,
    run: str | None,
    given: Mapping[str, Any],
    *,
    config: str | None,
    model: Path | None,
    data: tuple[Path | None, Path | None],
) -> Beginning:
    """Begin a new run.

    Raises:
        LlmcError: data or model are missing or broken, or the run exists.
    """
    preset = load_preset(config) if config is not None else Preset()
    settings = settings_of(preset, given)
    dataset = find_data(here.workspace, *data)
    start = find_model(here, model, dataset)
    folder = new_run(here.workspace, run, dataset.name)
    return Beginning(folder, preset, settings, dataset, start)


def begin_resumed(
    here: Context,
    run: str | None,
    given: Mapping[str, Any],
    *,
    config: str | None,
    model: Path | None,
    data: tuple[Path | None, Path | None],
) -> Beginning:
    """Go on with a run, whose data may have been moved to ``data``.

    Raises:
        Usage: a flag would make it another run.
        LlmcError: there is none, or its data is not there any more.
    """
    moved, moved_val = data
    inputs = {"config": config, "model": model, "val-data": None if moved else moved_val}
    for name, value in inputs.items():
        if value is not None:
            raise Usage(
                "--resume goes on with the run's own data, model and settings: leave out "
                f"--{name}, or start a new run from its weights with --model"
            )
    folder, preset, record = resumable(here.workspace, run)
    settings = resumed_settings(preset.train, given)
    step, steps = newest_step(folder), given["steps"]
    if step is not None and steps is not None and steps <= step:
        raise Usage(
            f"the run {here.workspace.shown(folder)} has made {step:,} steps, which --steps counts "
            "too: ask for more of them, or leave out --steps"
        )
    dataset, record = recorded_data(here, folder, record, data)
    start = _recorded_model(here, folder, record, step)
    return Beginning(folder, preset, settings, dataset, start, record, step)


def _recorded_model(here: Context, folder: Path, record: Record, step: int | None) -> Path:
    """Return what a run started from; where that has gone, what it goes on from.

    Raises:
        LlmcError: the run has to start from it again, and it is not there any more.
    """
    start: Path = here.workspace.root / record["model"]
    if step is not None:
        return start if start.is_file() else folder / CHECKPOINT
    if record.get("weights_crc32") not in (None, weights_checksum(start)):
        shown = here.workspace.shown
        raise BadData(
            f"{shown(start)} is not what {shown(folder)} started from, and of that nothing was "
            "saved: make it again, or delete that folder and start a new run"
        )
    return start


class JsonView(PlainView):
    """The engine's events, an object a line as they come, for ``--json``; the result follows."""

    def update(self, event: Event, history: History) -> None:
        """Print an event as the engine tells it."""
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def engine_arguments(
    data: Data, model: Path, folder: Path | None, settings: TrainConfig, threads: int
) -> list[str]:
    """Return what the engine's ``train`` is told: every setting under its own name."""
    argv = ["--data", str(data.train), "--model", str(model)]
    argv += ["--val-data", str(data.val)] if data.val is not None else []
    argv += ["--out", str(folder)] if folder is not None else []
    argv += ["--threads", str(threads), "--events", "json"]
    argv += ["--sample-tokens", str(SAMPLE_TOKENS)]
    if data.tokenizer is not None and data.tokenizer.eot != data.tokenizer.vocab_size - 1:
        argv += ["--eot", str(data.tokenizer.eot)]
    return argv + flags_of(settings)


def run_engine(
    argv: Sequence[str],
    view: PlainView,
    history: History,
    decode: Callable[[Sequence[int]], str],
    earlier: Metrics | None = None,
    *,
    goes_on: Callable[[], None] | None = None,
) -> None:
    """Run the engine to its end, showing each event as it comes.

    ``earlier`` is what a resumed run told before; what belongs to its steps so far counts.
    ``goes_on`` is called once, when the first new number is there: nothing can refuse the run then.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    with Engine(argv) as engine, view:
        for event in engine.events():
            if event.get("event") == "start" and earlier is not None:
                history.resume(earlier, event["step"])
            if goes_on is not None and ("train_loss" in event or "val_loss" in event):
                goes_on()
                goes_on = None
            history.add(event, decode)
            view.update(event, history)


def say_choices(here: Context, begun: Beginning, threads: int) -> None:
    """Say what the run is made of, by choice or by default."""
    where, data = here.workspace.shown, begun.data
    here.ui.note(f"data: {where(data.train)}")
    here.ui.note(f"validation: {where(data.val) if data.val else 'none'}")
    here.ui.note(f"model: {where(begun.model)}")
    here.ui.note(f"settings: {begun.preset.name}; threads: {threads}; run: {where(begun.folder)}")


def _say_differences(here: Context, begun: Beginning, setup: Setup) -> None:
    """Say where a run does not go on as a person would think."""
    if begun.step is None:
        shown = here.workspace.shown(begun.folder)
        here.ui.note(f"no checkpoint of {shown} had been saved: it begins anew")
    before = begun.record.get("isa") if begun.record is not None else None
    if begun.step is not None and before not in (None, setup.isa):
        here.ui.note(
            f"the run began with the instruction set {before} and goes on with {setup.isa}: its "
            "numbers will not be bit for bit those of a run that never stopped"
        )


def train_in_earnest(
    here: Context, begun: Beginning, setup: Setup, history: History, *, run: str | None
) -> None:
    """Train, and say how it ended.

    ``run`` is the name that a new run is given; None: the next number.

    Raises:
        LlmcError: the engine failed or was interrupted, or another process took the run's name.
    """
    settings, dataset = begun.settings, begun.data
    if begun.record is None:
        names = {"recipe": begun.preset.name, "dtype": settings.dtype}
        record = new_record(here.workspace, dataset, begun.model, setup, **names)
        begun = replace(begun, folder=claim_run(here.workspace, run, dataset.name))
    else:
        record = resumed_record(begun.record, begun.step, setup)
    folder = begun.folder
    try:
        _train(here, begun, record, setup, history)
    except (LlmcError, KeyboardInterrupt) as error:
        new, made = begun.record is None, history.train or history.val
        if new and not made and newest_step(folder) is None:
            discard_run(folder)
            raise
        if isinstance(error, Interrupted):
            report(here, folder, history, settings, stopped=True)
            raise _stopped(here, folder, history) from error
        if RUN_AGAIN in str(error):
            raise BadData(str(error).replace(RUN_AGAIN, _way_on(folder))) from error
        raise
    report(here, folder, history, settings)
    commands = ["llmc sample --decode"]
    flags = further(history.end, settings) if history.end else []
    if begun.record is not None and flags and len(history.train) == history.before:
        here.ui.note("there was nothing to do: the run had ended before")
        commands.append(shlex.join(["llmc", "train", "--resume", "--run", folder.name, *flags]))
    else:
        commands.append(f"llmc sample --decode --run {folder.name} --temperature 0.8")
    here.ui.next(*commands)


def _stopped(here: Context, folder: Path, history: History) -> Interrupted:
    """Return what an interrupted run ends with: how far it is, and how to go on."""
    shown = here.workspace.shown(folder / CHECKPOINT)
    saved = f"saved {shown}" if newest_step(folder) is not None else "not saved"
    done = f"{len(history.train):,}"
    done += f" of {history.steps:,}" if history.steps is not None else ""
    command = ["llmc", "train", "--resume"]
    if newest_run(here.workspace, RECORD) != folder:
        command += ["--run", folder.name]
    commands = [] if here.ui.quiet else [here.ui.spelled(shlex.join(command))]
    return Interrupted(f"interrupted after {done} steps; {saved}", *commands)


def _way_on(folder: Path) -> str:
    """Return how to go on with a run that found the disk full."""
    step = newest_step(folder)
    safe = f"step {step:,} is safe" if step is not None else "no checkpoint was saved yet"
    command = shlex.join(["llmc", "train", "--resume", "--run", folder.name])
    return f"go on with '{command}' ({safe})"


def _train(here: Context, begun: Beginning, record: Record, setup: Setup, history: History) -> None:
    """Run the engine in the run's folder; ``record`` is what that says of the run from now on."""
    folder, dataset, settings = begun.folder, begun.data, begun.settings
    new = begun.record is None
    shape = read_header(begun.model).config if new else begun.preset.model

    def write() -> None:
        write_config(folder, shape, settings, begun.preset.sample)
        write_record(folder, record)
        if dataset.tokenizer is not None:
            record_tokenizer(dataset.tokenizer, folder)

    say_choices(here, begun, setup.threads)
    title = f"llmc train · {folder.name}"
    view = JsonView() if here.ui.json else choose_view(silent=here.ui.quiet, title=title)
    argv = [str(setup.binary), "train"]
    argv += engine_arguments(dataset, begun.model, folder, settings, setup.threads)
    if new:
        write()
        run_engine(argv, view, history, dataset.decode)
        return
    _say_differences(here, begun, setup)
    told = folder / METRICS
    earlier = read_metrics(told) if told.is_file() else Metrics()
    # Until it goes on, it may be refused, or be another process's: the folder stays as it is.
    run_engine([*argv, "--resume", "1"], view, history, dataset.decode, earlier, goes_on=write)


def report(
    here: Context, folder: Path, history: History, settings: TrainConfig, *, stopped: bool = False
) -> None:
    """Say how the run ended: the curve, the numbers, where things are.

    Where the weights of one that was ``stopped`` are is said with how to go on.
    """
    where = here.workspace.shown
    if len(history.train) > 1 and not here.ui.quiet and not history.drawn:
        here.ui.note("\nloss over steps (● validation)")
        here.ui.note(history.curve() + "\n")
    seconds = sum(step_ms for step_ms in history.step_ms) / 1e3
    val = history.val[-1][1] if history.val else None
    train_loss = history.train[-1][1] if history.train else None
    losses = [f"train loss {train_loss:.4f}"] if train_loss is not None else []
    losses += [f"val loss {val:.4f}"] if val is not None else []
    speed = f"{history.tokens_per_second:,.0f} tokens/s"
    here.ui.note(
        f"{len(history.train):,} steps in {duration(seconds)}: "
        f"{', '.join([*losses, speed, megabytes(history.start.get('memory', 0))])}"
    )
    anew = len(history.train) > history.before
    expected = anew and not settings.bounded and not settings.patience
    silent = ("interrupted", "steps") if expected else ("interrupted",)
    if history.end and history.end["reason"] not in silent:
        here.ui.note(f"ended: {ending(history.end, settings)}")
    if history.skipped:
        here.ui.note(f"updates skipped: {history.skipped:,}")
    if history.start.get("dtype") == "bf16":
        here.ui.note(precision(history.start))
    saved = history.saved_step is not None
    if saved:
        weights = "" if stopped else f"saved {where(folder / CHECKPOINT)}; "
        here.ui.note(f"{weights}metrics in {where(folder / METRICS)}")
    here.ui.result(
        {
            "run": folder.name,
            "folder": str(folder),
            "steps": len(history.train),
            "ended": history.end.get("reason"),
            "skipped_updates": history.skipped,
            "seconds": history.end.get("seconds"),
            "train_loss": train_loss,
            "val_loss": val,
            "tokens_per_second": history.tokens_per_second,
            "memory_bytes": history.start.get("memory"),
            "isa": history.start.get("isa"),
            "dtype": history.start.get("dtype"),
            "threads": history.start.get("threads"),
            "checkpoint": str(folder / CHECKPOINT) if saved else None,
            "metrics": str(folder / METRICS),
        }
    )
