"""A run's folder: its settings, metrics, tokenizer and checkpoint."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from llmc.check.inspect.checkpoints import describe_checkpoint
from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.manifests import say_recorded
from llmc.check.inspect.reading import Asked, read_json
from llmc.check.inspect.texts import say_config, say_metrics
from llmc.paths import CHECKPOINT, CONFIG, METRICS
from llmc.tokens.tokenizer import RECORD_FILE
from llmc.train.metrics import Metrics


def describe_run(folder: Path, asked: Asked) -> Description:
    """Describe a run.

    Raises:
        OSError: a file cannot be read.
    """
    made = Description(folder, "run", "training run")
    settings: dict[str, Any] | None = None
    if (folder / CONFIG).is_file():
        settings = say_config(made, folder / CONFIG)
    else:
        made.say("config", None, f"no {CONFIG}")
    metrics = Metrics()
    if (folder / METRICS).is_file():
        metrics.read(folder / METRICS)
        say_metrics(made, metrics)
    else:
        made.say("metrics", None, f"no {METRICS}")
    _say_tokenizer(made)
    if (folder / CHECKPOINT).is_file():
        _add_checkpoint(made, asked, settings, metrics)
    else:
        made.say("checkpoint", None, "none was saved yet")
    return made


def _say_tokenizer(made: Description) -> None:
    try:
        record = read_json(made.path / RECORD_FILE)
    except FileNotFoundError:
        made.say("tokenizer", None, "none recorded")
        return
    except ValueError as error:
        made.wrong(f"{RECORD_FILE} is broken JSON ({safe_text(str(error))})")
        return
    if isinstance(record, dict):
        say_recorded(made, made.path, record)
    else:
        made.wrong(f"{RECORD_FILE} is no record of a tokenizer")


def _add_checkpoint(
    made: Description, asked: Asked, settings: dict[str, Any] | None, metrics: Metrics
) -> None:
    """Describe the checkpoint, and compare it with the settings and the metrics."""
    path = made.path / CHECKPOINT
    if kind_of(path) != "checkpoint":
        made.wrong(f"{path} is no model checkpoint: train again")
        return
    part = describe_checkpoint(path, asked)
    made.parts.append(part)
    shape = part.known("shape")
    if settings is not None and shape is not None and shape != settings["model"]:
        made.wrong(f"{CHECKPOINT} has another shape than {CONFIG} says")
    recorded = made.known("tokenizer_fingerprint")
    carried = part.known("tokenizer")
    if recorded is not None and carried is not None and recorded != carried:
        made.wrong(f"{CHECKPOINT} names another tokenizer than {RECORD_FILE}")
    step = part.known("step")
    if type(step) is int and metrics.steps and step > metrics.done:
        made.wrong(
            f"{CHECKPOINT} was saved at step {step:,}, and {METRICS} ends at {metrics.done:,}"
        )
    if not made.all_problems():
        made.hints.append(f"llmc sample --decode --model {shlex.quote(str(path))}")
