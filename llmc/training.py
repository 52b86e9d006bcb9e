"""A run of training, from what it begins with to what is said at its end."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.config import ModelConfig, Preset, TrainConfig, flags_of, load_preset, settings_of
from llmc.context import Context
from llmc.endings import ending, further
from llmc.errors import Interrupted, LlmcError, Usage
from llmc.inputs import Data, find_data, find_model
from llmc.metrics import Metrics, read_metrics
from llmc.process import Engine
from llmc.run_record import recorded_inputs, resumable, resumed_settings, write_record
from llmc.runs import CHECKPOINT, CONFIG, METRICS, discard_run, new_run, write_config
from llmc.tokenizers import record_tokenizer
from llmc.training_view import History, PlainView, choose_view, precision
from llmc.units import duration, megabytes

SAMPLE_TOKENS = 64


@dataclass(frozen=True)
class Beginning:
    """What a run begins with: all that the flags, a preset or the run's own record say."""

    folder: Path
    preset: Preset
    settings: TrainConfig
    data: Data
    model: Path


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
    dataset = find_data(here, *data)
    start = find_model(here, model, dataset)
    folder = new_run(here.workspace, run, dataset.name)
    return Beginning(folder, preset, settings, dataset, start)


def begin_resumed(
    here: Context, run: str | None, given: Mapping[str, Any], inputs: Mapping[str, object]
) -> Beginning:
    """Go on with a run.

    Raises:
        Usage: a flag would make it another run.
        LlmcError: there is none, or its data is not there any more.
    """
    for name, value in inputs.items():
        if value is not None:
            raise Usage(
                "--resume goes on with the run's own data, model and settings: leave out "
                f"--{name}, or start a new run from its weights with --model"
            )
    folder, preset, record = resumable(here.workspace, run)
    settings = resumed_settings(preset.train, given)
    return Beginning(folder, preset, settings, *recorded_inputs(here, folder, record))


def _take_back(folder: Path, before: bytes | None, history: History) -> None:
    """Leave the folder of a run that ended in failure before it began as it was.

    ``before`` is the config of a run that was to be resumed; None: the run is new.
    """
    if before is None:
        if not (history.train or history.val):
            discard_run(folder)
    elif not history.start:
        (folder / CONFIG).write_bytes(before)


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
) -> None:
    """Run the engine to its end, showing each event as it comes.

    ``earlier`` is what a resumed run told before; what belongs to its steps so far counts.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    with Engine(argv) as engine, view:
        for event in engine.events():
            if event.get("event") == "start" and earlier is not None:
                history.resume(earlier, event["step"])
            history.add(event, decode)
            view.update(event, history)


def train_in_earnest(
    here: Context,
    begun: Beginning,
    shape: ModelConfig,
    argv: Sequence[str],
    history: History,
    *,
    resume: bool,
) -> None:
    """Train, and say how it ended.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    settings, dataset, folder = begun.settings, begun.data, begun.folder
    where = here.workspace.shown
    view = choose_view(silent=here.ui.quiet or here.ui.json, title=f"llmc train · {folder.name}")
    before = (folder / CONFIG).read_bytes() if resume else None
    try:
        write_config(folder, shape, settings, begun.preset.sample)
        if not resume:
            write_record(folder, here.workspace, dataset, begun.model)
        if dataset.tokenizer is not None:
            record_tokenizer(dataset.tokenizer, folder)
        told = folder / METRICS
        earlier = read_metrics(told) if resume and told.is_file() else Metrics()
        run_engine(argv, view, history, dataset.decode, earlier)
    except Interrupted as stop:
        report(here, folder, history, settings)
        saved = (
            f"saved {where(folder / CHECKPOINT)}" if history.saved_step is not None else "not saved"
        )
        done = f"{len(history.train):,}"
        done += f" of {history.steps:,}" if history.steps is not None else ""
        raise Interrupted(f"interrupted after {done} steps; {saved}") from stop
    except LlmcError:
        _take_back(folder, before, history)
        raise
    report(here, folder, history, settings)
    commands = ["llmc sample --decode"]
    flags = further(history.end, settings) if history.end else []
    if resume and flags and len(history.train) == history.before:
        here.ui.note("there was nothing to do: the run had ended before")
        commands.append(shlex.join(["llmc", "train", "--resume", "--run", folder.name, *flags]))
    else:
        commands.append(f"llmc sample --decode --run {folder.name} --temperature 0.8")
    here.ui.next(*commands)


def report(here: Context, folder: Path, history: History, settings: TrainConfig) -> None:
    """Say how the run ended: the curve, the numbers, where things are."""
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
        here.ui.note(f"saved {where(folder / CHECKPOINT)}; metrics in {where(folder / METRICS)}")
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
