"""Find the model to evaluate, and the text to evaluate it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData, MissingOutput, Usage
from llmc.paths import Workspace, expanded
from llmc.report import SILENT, Report
from llmc.tokens.tokenizer import Tokenizer
from llmc.train.folder import FoundCheckpoint, find_checkpoint, read_record, run_data
from llmc.train.record import DONE_ON, changed_splits
from llmc.train.start import Data, check_match, find_data
from llmc.weights.checkpoint import CheckpointHeader, read_header

DEFAULT_SPLIT = "val"


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate: where it was found, and the header of its file."""

    found: FoundCheckpoint
    header: CheckpointHeader

    @property
    def checkpoint(self) -> Path:
        """The file."""
        return self.found.file

    @property
    def name(self) -> str:
        """The argument that names this model on the command line."""
        return self.found.run.name if self.found.run is not None else str(self.checkpoint)


def find_evaluated(
    workspace: Workspace,
    target: str | Path | None = None,
    report: Report = SILENT,
    *,
    last: bool = False,
) -> EvaluatedModel:
    """Return the run or checkpoint named by ``target``, or the newest run.

    ``last`` asks for a run's last weights instead of its best.

    Raises:
        MissingOutput: there is none.
        BadData: the checkpoint is damaged.
        Usage: ``last`` is asked of a file.
    """
    found = find_checkpoint(workspace, target, last=last, report=report)
    return EvaluatedModel(found, read_header(found.file))


@dataclass(frozen=True)
class EvaluatedText:
    """Token files to predict, which are one stream in this order."""

    path: Path  # of the file, or the pattern that finds the files
    files: tuple[Path, ...]
    split: str | None  # train or val of a dataset; None for a single file
    tokenizer: Tokenizer | None  # that made them; None if unknown
    other_split: str | None = None  # that the dataset has too


def find_text(
    workspace: Workspace,
    model: EvaluatedModel,
    data: Path | None = None,
    split: str | None = None,
    report: Report = SILENT,
) -> EvaluatedText:
    """Return a split of the dataset ``data``, or of the dataset that the model was trained on.

    Raises:
        MissingOutput: it does not exist.
        BadData: it is damaged, was made with another tokenizer than the model's, or has changed
            since the run was trained.
        Usage: a split of a single file is requested.
    """
    if data is not None and data.suffix == ".jsonl":
        raise Usage(f"{data} is not a token file: for HellaSwag add --task hellaswag")
    if data is not None and data.is_file():
        if split is not None:
            raise Usage(f"{data} is one token file: leave out --split, or name the folder")
        found = find_data(workspace, data, None)
        file, other = data, None
    else:
        found = _dataset(workspace, model, data)
        split = split or DEFAULT_SPLIT
        other = "val" if split == "train" and found.val is not None else None
        other = "train" if split == "val" else other
        chosen = found.train if split == "train" else found.val
        if chosen is None:
            raise MissingOutput(
                f"{workspace.shown(found.train)} has no validation file: name one with --data "
                "FILE, or measure the training split with --split train"
            )
        file = chosen
        if data is None and model.found.run is not None:
            _check_unchanged(workspace, model.found.run, found, split)
    files = tuple(expanded(file))
    check_match(workspace, found, model.checkpoint, model.header)
    tokenizer = found.tokenizer
    if tokenizer is not None and model.header.tokenizer is None:
        report.note(f"tokenizer: {tokenizer.name}, from the data; the model's is unknown")
    if tokenizer is None and (tokenizer := model.found.tokenizer(workspace)) is not None:
        report.note(f"tokenizer: {tokenizer.name}, from the model; the data's is unknown")
    return EvaluatedText(file, files, split, tokenizer, other)


def _check_unchanged(workspace: Workspace, run: Path, data: Data, split: str) -> None:
    """Refuse a split that is no longer what a run recorded: it may have been trained on."""
    if run_data(workspace, run) is None:  # nothing is recorded
        return
    if split in changed_splits(read_record(run), data):
        raise BadData(
            f"{workspace.shown(data.train if split == 'train' else data.val or data.folder)} has "
            f"changed since {workspace.shown(run)} was {DONE_ON[split]} on it: make it again as it "
            f"was, or measure it as it is with --data {workspace.shown(data.folder)}"
        )


def _dataset(workspace: Workspace, model: EvaluatedModel, data: Path | None) -> Data:
    """Return the dataset ``data``, the run's own, or the one prepared last."""
    recorded = run_data(workspace, model.found.run) if model.found.run and data is None else None
    if recorded is None:
        return find_data(workspace, data, None)
    train, val = recorded
    if not expanded(train):
        raise MissingOutput(
            f"{train}, which {workspace.shown(model.checkpoint)} was trained on, is gone: "
            "make it again, or name other data with --data"
        )
    return find_data(workspace, train, val)
