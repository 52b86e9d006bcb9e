"""A training run's folder: its config, its tokenizer, its metrics, its checkpoint."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

from llmc import __version__
from llmc.addresses import without_secrets
from llmc.errors import BadData, MissingOutput, Usage
from llmc.parsing import read_json
from llmc.paths import (
    CHECKPOINT,
    CHECKPOINTS,
    CONFIG,
    METRICS,
    RECORD,
    Workspace,
    unwritable,
    written_whole,
)
from llmc.preset import Preset
from llmc.report import SILENT, Report
from llmc.setting import did_you_mean
from llmc.terminal import printable
from llmc.tokens import vocabulary
from llmc.tokens.manifest import load_manifest
from llmc.tokens.recorded import HELD_FILE, RECORD_FILE, recorded_tokenizer
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.train.mixture import Named, recorded
from llmc.weights.sources import run_weights
from llmc.weights.tokenizer import tokenizer_of


def new_run(workspace: Workspace, name: str | None, dataset: str) -> Path:
    """Return a folder for a new run: the one named, or the next free ``<dataset>-<number>``.

    Nothing is written: :func:`claim_run` makes the folder.

    Raises:
        Usage: the name is not a file name, or that run exists.
    """
    if name is None:
        taken = workspace.runs.glob(f"{escape(dataset)}-*")
        ends = [path.name.removeprefix(f"{dataset}-") for path in taken]
        numbers = [int(end) for end in ends if end.isdecimal()]
        return workspace.runs / f"{dataset}-{max(numbers, default=0) + 1}"
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise Usage(f"--run '{name}' is not a folder name: use letters, digits, '.', '-', '_'")
    folder = workspace.runs / name
    if os.path.lexists(folder / CONFIG) or os.path.lexists(folder / CHECKPOINT):
        raise Usage(
            f"the run {workspace.shown(folder)} exists: continue it with --resume, "
            "choose another --run, or delete that folder"
        )
    return folder


def claim_run(workspace: Workspace, name: str | None, dataset: str) -> Path:
    """Make the folder of a new run, and an empty config in it that reserves it for this process.

    Of several processes that ask for one name, the first gets it; without a name, the others get
    the next numbers.

    Raises:
        Usage: the name is not a file name, or that run exists.
        BadData: the place cannot be written.
    """
    while True:
        folder = new_run(workspace, name, dataset)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        try:
            (folder / CONFIG).open("x").close()
            return folder
        except (FileExistsError, FileNotFoundError):
            continue  # another process took the folder, or took it back, since new_run looked
        except OSError as error:
            raise unwritable(folder / CONFIG, error) from error


def is_running(folder: Path) -> bool:
    """Return whether a trainer works on the run, and so holds its lock."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


def discard_run(folder: Path) -> None:
    """Remove the files of a run that ended before its first step; other files keep the folder.

    Only the process that claimed the run may call this. A run in progress is left alone.
    """
    if is_running(folder):
        return
    with suppress(OSError):
        of_tokenizer = (RECORD_FILE, HELD_FILE, vocabulary.TOKENIZER_FILE)
        for name in (CONFIG, METRICS, RECORD, *of_tokenizer):
            (folder / name).unlink(missing_ok=True)
        if (folder / CHECKPOINTS).exists():
            (folder / CHECKPOINTS).rmdir()
        folder.rmdir()


def newest_run(workspace: Workspace, having: str, what: str = "run", otherwise: str = "") -> Path:
    """Return the run written to last among those that have the file ``having``.

    Raises:
        MissingOutput: there is none; the message calls it ``what`` and ends with ``otherwise``.
    """
    folders = [path.parent for path in workspace.runs.glob(f"*/{having}")]
    if not folders:
        raise MissingOutput(
            f"no {what} in {workspace.shown(workspace.runs)}: run 'llmc train' first{otherwise}"
        )
    return max(folders, key=recency)


def recency(folder: Path) -> int:
    """Return a number that is higher the later a run was written to, whatever clocks said.

    It is the time of :func:`last_written`, or what :func:`next_order` gave the run if that is more.
    """
    order = 0
    with suppress(OSError, ValueError, TypeError, RecursionError):
        found = read_record(folder).get("order")
        order = found if type(found) is int else 0
    return max(last_written(folder), order)


def next_order(runs: Path) -> int:
    """Return the ``order`` of a run that starts or resumes now: the time in nanoseconds.

    After a clock was set back it is more than that: no run before has a higher :func:`recency`.
    """
    before = (recency(folder) for folder in runs.glob("[!.]*"))
    return max(time.time_ns(), 1 + max(before, default=0))


def last_written(folder: Path) -> int:
    """Return when a run was last written to, in nanoseconds since 1970; 0: never."""
    written = [0]
    for name in (METRICS, CHECKPOINT, RECORD):
        with suppress(OSError):
            written.append((folder / name).stat().st_mtime_ns)
    return max(written)


def saved_weights(folder: Path) -> dict[int, Path]:
    """Return the weights of the checkpoints from which a run can be resumed, by step, in order."""
    found = {}
    for path in sorted((folder / CHECKPOINTS).glob("*"), reverse=True):
        # A step can have two: with an i that of an interrupt, which a resume replaced.
        if match := re.fullmatch(r"([0-9]{8,})i?", path.name):
            found[int(match[1])] = path / CHECKPOINT
    return dict(sorted(found.items()))


def newest_step(folder: Path) -> int | None:
    """Return the step of a run's newest checkpoint, from which it would be resumed, or None."""
    return max(saved_weights(folder), default=None)


def find_run(workspace: Workspace, name: str | None) -> Path:
    """Return the folder of a run that has saved a checkpoint; the newest one unless named.

    Raises:
        MissingOutput: there is none.
    """
    if name is None:
        otherwise = ", or name a checkpoint's file"
        return newest_run(workspace, CHECKPOINT, "trained model", otherwise)
    folder = workspace.runs / name
    if not (folder / CHECKPOINT).is_file():
        raise MissingOutput(
            f"no trained model in {workspace.shown(folder)}: run 'llmc train --run {name}' first"
            + similar_run(workspace, name)
        )
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of a run's ``run.json``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
        TypeError: it is not a JSON object.
    """
    record = read_json(folder / RECORD)
    if not isinstance(record, dict):
        raise TypeError("it is not a JSON object")
    return record


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint, and the folder of the run that saved it; None for a file outside a run."""

    file: Path
    run: Path | None

    def tokenizer(self, workspace: Workspace) -> Tokenizer | None:
        """Return the tokenizer of the model, recorded in the run or found; None if unknown."""
        recorded = recorded_tokenizer(self.run) if self.run is not None else None
        return recorded or tokenizer_of(workspace, self.file)


def find_checkpoint(
    workspace: Workspace,
    target: str | Path | None,
    *,
    last: bool = False,
    report: Report = SILENT,
) -> FoundCheckpoint:
    """Return the checkpoint of a run, named or by its folder, or a file; of the newest run if None.

    A run offers its best weights, or with ``last`` its last ones; ``report`` takes which.

    Raises:
        MissingOutput: there is none.
        Usage: ``last`` is asked of a file.
    """
    if target is None:
        run = find_run(workspace, None)
        report.note(f"run: {workspace.shown(run)} (the newest)")
        return FoundCheckpoint(run_weights(run, last=last, report=report), run)
    for run in (workspace.runs / target, Path(target)):
        if (run / CHECKPOINT).is_file():
            return FoundCheckpoint(run_weights(run, last=last, report=report), run)
    if not Path(target).is_file():
        raise MissingOutput(
            f"there is no run and no checkpoint '{target}': train one with 'llmc train', "
            "or make one with 'llmc export-weights MODEL'" + similar_run(workspace, str(target))
        )
    if last:
        raise Usage(f"--last chooses between a run's weights, and {target} is a file: leave it out")
    return FoundCheckpoint(Path(target), None)


def newest_tokenizer(workspace: Workspace, report: Report = SILENT) -> Tokenizer:
    """Return the newest run's tokenizer, else the newest dataset's, else GPT-2's; report which.

    Raises:
        BadData: the tokenizer that the run or the dataset recorded is gone or changed.
    """
    with suppress(MissingOutput):
        run = find_run(workspace, None)
        recorded = recorded_tokenizer(run)
        if recorded is None:
            with suppress(BadData):  # a damaged checkpoint names no tokenizer
                recorded = tokenizer_of(workspace, run / CHECKPOINT)
        if recorded is not None:
            report.note(f"tokenizer: {recorded.name}, of the run {workspace.shown(run)}")
            return recorded
    try:
        manifest = load_manifest(workspace.newest_dataset())
    except MissingOutput:
        report.note("tokenizer: gpt2 (there is no run and no dataset to take one from)")
        return load_tokenizer("gpt2")
    chosen = manifest.load_tokenizer()
    report.note(f"tokenizer: {chosen.name}, of the dataset {workspace.shown(manifest.folder)}")
    return chosen


def similar_run(workspace: Workspace, name: str) -> str:
    """Return ``"; did you mean 'x'?"`` for a run of a similar name, or nothing."""
    others = [path.name for path in workspace.runs.glob("*") if path.name != name]
    return did_you_mean(name, others)


def run_data(
    workspace: Workspace, folder: Path
) -> tuple[tuple[Named, ...], tuple[Named, ...]] | None:
    """Return the texts that a run trained and validated on; None without a ``run.json``.

    ``run.json`` names them relative to the workspace.

    Raises:
        BadData: the record cannot be read.
    """
    try:
        fields = read_record(folder)
        return recorded(workspace, fields["data"]), recorded(workspace, fields.get("val_data"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(
            f"cannot read {folder / RECORD} ({error}): name the data with --data"
        ) from error


def write_config(folder: Path, preset: Preset) -> None:
    """Write a run's settings, all of them, as a preset that ``llmc train --config`` takes again.

    Raises:
        BadData: the place cannot be written.
    """
    command = f"llmc {__version__}: {without_secrets(shlex.join(['llmc', *sys.argv[1:]]))}"
    # A comment is one line of printable characters, whatever a path is made of.
    lines = [f"# {printable(command)}"]
    for table in ("model", "train", "sample"):
        lines += ["", f"[{table}]", *setting_lines(asdict(getattr(preset, table)))]
    with written_whole(folder / CONFIG) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def setting_lines(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as lines of TOML."""
    return [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        for key, value in settings.items()
    ]
