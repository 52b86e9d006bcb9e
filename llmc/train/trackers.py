"""A run's numbers in the form of other people's tools: TensorBoard, Weights & Biases."""

from __future__ import annotations

import math
import os
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


def measurements(run: RunHistory) -> list[tuple[float, int, dict[str, float]]]:
    """Return (seconds of training before it, step, finite numbers by tag) in order of steps.

    Raises:
        BadData: nothing was measured.
    """
    points = {tag: run.points(name) for name, tag in TAGS.items()} | {VAL_TAG: run.val}
    numbers: dict[int, dict[str, float]] = {}
    for tag, pairs in points.items():
        for step, number in pairs:
            if math.isfinite(number):
                numbers.setdefault(int(step), {})[tag] = number
    steps = sorted(numbers)
    if not steps:
        raise BadData(f"nothing was measured in {printable(run.name)}: train for some steps first")
    seconds = run.seconds_before(steps)
    return [(before, step, numbers[step]) for before, step in zip(seconds, steps, strict=True)]


def write_tensorboard(run: RunHistory, folder: Path) -> Path:
    """Write a run's event file into ``folder`` and return its path; written again, it is replaced.

    The wall times are those that the training steps alone would have taken.

    Raises:
        Usage: the package tensorboard is not installed.
        BadData: nothing was measured, or the place cannot be written.
    """
    measured = measurements(run)
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
        for seconds, step, numbers in measured:
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
    measured = measurements(run)
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
            for _, step, numbers in measured:
                made.log(numbers, step=step)
            place = Path(made.dir).parent
    except OSError as error:
        raise BadData(f"cannot write below {folder}: {error.strerror}") from error
    return place
