"""A run's numbers in the form of other people's tools: TensorBoard, Weights & Biases."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from llmc.errors import BadData, Usage
from llmc.installation import install_command, pip_install
from llmc.paths import written_whole
from llmc.terminal import printable
from llmc.train.history import RunHistory

# What these tools call what metrics.jsonl holds.
TAGS = {
    "train_loss": "loss/train",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "tokens_per_second": "tokens per second",
}
VAL_TAG = "loss/validation"


def measurements(run: RunHistory) -> Iterator[tuple[float, int, dict[str, float]]]:
    """Yield (seconds of training before it, step, finite numbers by tag) in order of steps."""
    val = dict(run.val)
    train = {step: index for index, step in enumerate(run.steps)}
    steps = sorted({*val, *train})
    for seconds, step in zip(run.seconds_before(steps), steps, strict=True):
        numbers = {}
        if (index := train.get(step)) is not None:
            numbers = {tag: run.measured[name][index] for name, tag in TAGS.items()}
        if step in val:
            numbers[VAL_TAG] = val[step]
        numbers = {tag: number for tag, number in numbers.items() if math.isfinite(number)}
        if numbers:
            yield seconds, step, numbers


def write_tensorboard(run: RunHistory, folder: Path) -> Path:
    """Write a run's event file into ``folder`` and return its path; written again, it is replaced.

    The wall times are those that the training steps alone would have taken.

    Raises:
        Usage: the package tensorboard is not installed.
        BadData: nothing was measured, or the place cannot be written.
    """
    _check_any(run)
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise Usage(
            f"--tensorboard needs the package tensorboard: {install_command('tensorboard')}"
        ) from error
    path = folder / f"events.out.tfevents.{int(run.started):010d}.llmc"
    with written_whole(path) as partial, partial.open("wb") as file:
        writer = RecordWriter(file)
        first = Event(wall_time=run.started, file_version="brain.Event:2")
        writer.write(first.SerializeToString())
        for seconds, step, numbers in measurements(run):
            values = [Summary.Value(tag=tag, simple_value=y) for tag, y in numbers.items()]
            event = Event(wall_time=run.started + seconds, step=step, summary=Summary(value=values))
            writer.write(event.SerializeToString())
        writer.flush()
    return path


def write_wandb(run: RunHistory, folder: Path) -> Path:
    """Write a run as an offline run of Weights & Biases below ``folder``; return its folder.

    Nothing is sent anywhere: ``wandb sync`` does that, when it is asked to.

    Raises:
        Usage: the package wandb is not installed.
        BadData: nothing was measured, or the place cannot be written.
    """
    _check_any(run)
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # it would call home about its own failures
    os.environ["WANDB_SILENT"] = "true"
    try:
        import wandb
    except ImportError as error:
        raise Usage(f"--wandb needs the package wandb: {pip_install('wandb')}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        config = {**run.settings, "dataset": run.dataset, "parameters": run.parameters}
        with wandb.init(
            mode="offline",
            dir=str(folder),
            project="llmc",
            name=printable(run.name),
            config=config,
            settings=settings,
        ) as made:
            for _, step, numbers in measurements(run):
                made.log(numbers, step=step)
            place = Path(made.dir).parent
    except OSError as error:
        raise BadData(f"cannot write below {folder}: {error.strerror}") from error
    return place


def _check_any(run: RunHistory) -> None:
    if next(measurements(run), None) is None:
        raise BadData(f"nothing was measured in {printable(run.name)}: train for some steps first")
