"""What a resumed run changes: settings, data, the checkpoint that it continues from.

``OnResume`` in the table of settings says which settings may change. What changes a bit of the
steps to come is announced, and recorded with its step in ``run.json``.
"""

from __future__ import annotations

import math
import shlex
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmc.config import TRAIN_SETTINGS, TrainConfig
from llmc.engine.launcher import ALONE, Launch
from llmc.errors import MissingOutput, Usage
from llmc.paths import BEST, CONFIG, RECORD, Workspace
from llmc.preset import Preset, in_val_tokens
from llmc.setting import OnResume, differing, overridden
from llmc.train.folder import newest_run, saved_weights
from llmc.train.metrics import Event, Metrics
from llmc.train.mixture import spelled
from llmc.weights.checkpoint import read_header

# What the engine plans a schedule by.
PLANNED_BY = {"steps", "max_tokens", "epochs", "schedule", "warmup", "decay", "data"}
RISE, FALL = 1.1, 0.5  # a rate that changes more from one step to the next has jumped

Changes = Mapping[str, Sequence[Any]]  # by setting: the value before, and after


def resumed_settings(settings: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """Return the run's settings with the given ones put over them.

    An update keeps its tokens: with another ``batch_size`` it is made of more batches, or fewer. An
    older llmc's run, which validates on batches, goes on doing so unless tokens are given.

    Raises:
        Usage: a setting would change that a resume must not change, or is out of range.
    """
    tokens = settings.tokens_per_step
    for name, value in given.items():
        old, setting = getattr(settings, name), TRAIN_SETTINGS[name]
        if value is not None:
            setting.check(value)
        kept = {None, old, tokens} if name == "total_batch_size" else {None, old}
        if value not in kept and setting.resume is OnResume.REFUSED:
            reason = "its training state" if name == "optimizer" else "the order of its data"
            raise Usage(
                f"the run has {setting.flag} {old or tokens}, and {reason} follows from it: leave "
                f"out {setting.flag}, or start a new run from its weights with --model"
            )
    given = {name: value for name, value in given.items() if (name, value) != ("shares", 0)}
    resumed = overridden(settings, given)
    if (resumed.batch_size, resumed.shares) != (settings.batch_size, settings.shares):
        rows, shares = tokens // settings.seq_len, max(resumed.shares, 1)
        if rows % (shares * resumed.batch_size):
            raise Usage(_undivided(rows, resumed))
        batches = -(-resumed.val_batches * settings.batch_size // resumed.batch_size)
        resumed = replace(resumed, total_batch_size=tokens, val_batches=batches)
    by_batches = settings.val_batches and given.get("val_tokens") is None
    return resumed if by_batches else in_val_tokens(resumed, given)


def _undivided(rows: int, settings: TrainConfig) -> str:
    """Return what to say of an update of so many rows that shares of batches do not divide."""
    if settings.shares <= 1:
        fitting = ", ".join(map(str, fitting_batches(rows)))
        return (
            f"the run has {rows} rows in an update, which --batch-size {settings.batch_size} does "
            f"not divide: use one of {fitting}"
        )
    sizes = fitting_batches(rows, settings.shares)
    advice = "use fewer shares"
    if sizes:
        advice = f"with so many shares use --batch-size {', '.join(map(str, sizes))}"
    return (
        f"the run has {rows} rows in an update, which {settings.shares} shares of --batch-size "
        f"{settings.batch_size} do not divide: {advice}"
    )


def fitting_batches(rows: int, shares: int = 1) -> list[int]:
    """Return the batch sizes with which an update of so many rows is cut into so many shares."""
    return [size for size in range(1, rows + 1) if rows % (max(shares, 1) * size) == 0]


def plans_anew(changes: Changes, settings: TrainConfig) -> bool:
    """Return whether the engine has to plan the schedule again."""
    by_time = settings.schedule == "wsd" and "max_time" in changes
    return by_time or not PLANNED_BY.isdisjoint(changes)


def edited(
    workspace: Workspace, folder: Path, run: Preset, told: Preset, given: Mapping[str, Any]
) -> str | None:
    """Return what to say of a ``config.toml`` that no longer has the run's settings, or None.

    ``told`` is what the file says, ``given`` what the caller changes anyway.
    """
    found = {
        name: (there, own)
        for table in ("model", "train")
        for name, (there, own) in differing(getattr(told, table), getattr(run, table)).items()
        if given.get(name) is None
    }
    if not found:
        return None
    words = ", ".join(f"{name} {there}, not {own}" for name, (there, own) in found.items())
    sentence = (
        f"{workspace.shown(folder / CONFIG)} was edited ({words}): the run continues with its own "
        f"settings, which {RECORD} has"
    )
    free = {name: there for name, (there, _) in found.items() if _may_become(name, there)}
    if not free:
        return sentence
    command = resume_command(workspace, folder, *typed({**given, **free}))
    return f"{sentence}; '{command}' continues with those of {CONFIG}"


def _may_become(name: str, value: object) -> bool:
    """Return whether a resume accepts a setting's new value."""
    if name not in TRAIN_SETTINGS or TRAIN_SETTINGS[name].resume is OnResume.REFUSED:
        return False
    try:
        TRAIN_SETTINGS[name].check(value)
    except Usage:
        return False
    return True


def validates_otherwise(changes: Changes) -> bool:
    """Return whether the validation losses to come are of other tokens than those before."""
    if not changes.keys().isdisjoint(("val_data", "val_tokens")):
        return True
    before, after = changes.get("val_batches", (0, 0))
    old_rows, rows = changes.get("batch_size", (1, 1))
    return bool(before * old_rows != after * rows)


def val_since(record: Mapping[str, Any]) -> int:
    """Return the step at which a run's validation became another one; -1: never."""
    resumes = record.get("resumes", ())
    steps = [each["step"] for each in resumes if validates_otherwise(each.get("changes", {}))]
    return max(map(int, steps), default=-1)


def announced(changes: Changes) -> str | None:
    """Return what changes a bit of the steps to come, in words; None if nothing does."""
    words = [
        f"{TRAIN_SETTINGS[name].flag} {old} becomes {new}"
        for name, (old, new) in changes.items()
        if name in TRAIN_SETTINGS and TRAIN_SETTINGS[name].resume is not OnResume.FREE
    ]
    places = [name for name in ("data", "val_data") if name in changes]
    words += [f"{name} {spelled(changes[name][1])}" for name in places]
    return "; ".join(words) or None


def chosen_step(workspace: Workspace, folder: Path, wanted: str | None) -> int | None:
    """Return the step of the checkpoint to resume from: the newest, ``best``, or one by its number.

    None: no checkpoint was saved.

    Raises:
        Usage: ``wanted`` is neither a number nor ``best``.
        MissingOutput: that checkpoint is not kept.
    """
    steps = list(saved_weights(folder))
    if wanted is None:
        return max(steps, default=None)
    shown, best = workspace.shown(folder), folder / BEST
    if wanted == "best":
        if not best.is_file():
            raise MissingOutput(
                f"{shown} has no {BEST}: it measured no validation loss" + _of(steps)
            )
        step = read_header(best).step
    elif wanted.isascii() and wanted.isdecimal():
        step = int(wanted)
    else:
        raise Usage(f"--resume-from takes the step of a checkpoint, or best, not '{wanted}'")
    if step not in steps:
        advice = ""
        if wanted == "best":
            advice = f"; or start a new run from its weights: --model {workspace.shown(best)}"
        error = MissingOutput(f"{shown} keeps no checkpoint of step {step}{_of(steps)}{advice}")
        named = ("--run", folder.name)
        error.commands = tuple(
            shlex.join(["llmc", "train", "--resume-from", str(each), *named]) for each in steps[-3:]
        )
        raise error
    return step


def _of(steps: Sequence[int]) -> str:
    return f"; it keeps those of: {', '.join(map(str, steps))}" if steps else ""


def typed(given: Mapping[str, Any]) -> list[str]:
    """Return settings as they are typed on the command line."""
    words = []
    for name, value in given.items():
        flag = TRAIN_SETTINGS[name].flag
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif value is not None:
            words += [flag, str(value)]
    return words


def resume_command(workspace: Workspace, folder: Path, *flags: str, launch: Launch = ALONE) -> str:
    """Return the command that resumes a run, as it is typed; ``flags`` are added."""
    newest = newest_run(workspace, RECORD) == folder
    named = [] if newest and not flags else ["--run", folder.name]
    return shlex.join(["llmc", "train", "--resume", *named, *launch.flags, *flags])


def check_steps(
    workspace: Workspace, folder: Path, step: int | None, given: Mapping[str, Any]
) -> None:
    """Refuse an end that lies before the step to resume from.

    Raises:
        Usage: the error has a command that works.
    """
    steps = given.get("steps")
    if step is None or steps is None or steps > step:
        return
    error = Usage(
        f"the run {workspace.shown(folder)} has made {step:,} steps already, and --steps "
        "includes them: use a larger number, or leave out --steps"
    )
    more = {**given, "steps": step + max(steps, 1)}
    error.commands = (resume_command(workspace, folder, *typed(more)),)
    raise error


def rate_jump(
    workspace: Workspace,
    folder: Path,
    settings: TrainConfig,
    *,
    changes: Changes,
    earlier: Metrics,
    start: Event,
) -> str | None:
    """Return what to say of a learning rate that jumps at the resume, or None.

    ``start`` is the engine's first event, ``earlier`` what the run recorded before it.
    """
    step, rate, steps = start["step"], start.get("lr"), start["steps"]
    made = bisect_left(earlier.steps, step)
    if not made or rate is None or "lr" in changes:
        return None
    before = earlier.measured["lr"][made - 1]
    rises = rate > RISE * before and step >= settings.warmup
    falls = bool(changes) and rate < FALL * before
    if not math.isfinite(before) or not (rises or falls) or (steps is not None and step >= steps):
        return None
    goes_on = {name: new for name, (_, new) in changes.items() if name in TRAIN_SETTINGS}
    goes_on |= {"schedule": "constant", "lr": float(f"{before:.3g}")}
    command = resume_command(workspace, folder, *typed(goes_on))
    return (
        f"the learning rate jumps from {before:.3g} at step {step - 1:,} to {rate:.3g} at step "
        f"{step:,}: the {settings.schedule} schedule is now one of "
        f"{f'{steps:,} steps' if steps is not None else 'other steps'}, and the steps made keep "
        f"their rates. To continue at the last rate, press Ctrl-C and run '{command}'"
    )


def less_memory(settings: TrainConfig, start: Event) -> list[list[str]]:
    """Return flags with each of which a resumed run needs less memory.

    ``start`` is the engine's first event. A smaller batch may need all gradients at once, which
    take as much as the parameters.
    """
    ways = [] if settings.recompute else [["--recompute"]]
    if settings.optimizer_state != "8bit":
        ways.append(["--optimizer-state", "8bit"])
    rows = settings.tokens_per_step // settings.seq_len
    fitting = fitting_batches(rows, settings.shares)
    sizes = [size for size in fitting if size <= settings.batch_size // 2]
    parts = start.get("memory_parts", {})
    if sizes:
        saved = parts.get("activations", 0) * (1 - sizes[-1] / settings.batch_size)
        whole = parts.get("gradients", 0) >= parts.get("parameters", 0)
        if whole or saved > parts.get("parameters", 0):
            ways.append(["--batch-size", str(sizes[-1])])
    return ways


def calmer(settings: TrainConfig) -> list[list[str]]:
    """Return flags with each of which a loss that is not finite may stay finite."""
    ways = [["--lr", f"{settings.lr / 2:.6g}"]] if settings.lr else []
    return ways if settings.grad_clip else [*ways, ["--grad-clip", "1"]]
