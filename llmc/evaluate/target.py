"""Find the model to evaluate, and the text to evaluate it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData, MissingOutput, Usage
from llmc.paths import Workspace, expanded
from llmc.report import SILENT, Report
from llmc.tokens.tokenizer import Tokenizer
from llmc.train.folder import FoundCheckpoint, find_checkpoint, read_record, run_data
from llmc.train.match import check_match
from llmc.train.mixture import Portion
from llmc.train.record import DONE_ON, changed_texts
from llmc.train.start import Data, find_data
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
    """Texts to predict, of a mixture several; the files of each are one stream in their order."""

    texts: tuple[Portion, ...]
    split: str | None  # train or val of a dataset; None for a single file
    tokenizer: Tokenizer | None  # that made them; None if unknown
    other_split: str | None = None  # that the dataset has too

    @property
    def files(self) -> tuple[Path, ...]:
        """The token files of all texts."""
        return tuple(file for text in self.texts for file in expanded(text.path))


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
        found = find_data(workspace, data)
        chosen, other = found.train, None
    else:
        found = _dataset(workspace, model, data)
        split = split or DEFAULT_SPLIT
        other = "val" if split == "train" and found.val else None
        other = "train" if split == "val" else other
        chosen = found.train if split == "train" else found.val
        if not chosen:
            raise MissingOutput(
                f"{_shown(workspace, found.train)} has no validation file: name one with --data "
                "FILE, or measure the training split with --split train"
            )
        if data is None and model.found.run is not None:
            _check_unchanged(workspace, model.found.run, chosen, split)
    check_match(workspace, found, model.checkpoint, model.header)
    tokenizer = found.tokenizer
    if tokenizer is not None and model.header.tokenizer is None:
        report.note(f"tokenizer: {tokenizer.name}, from the data; the model's is unknown")
    if tokenizer is None and (tokenizer := model.found.tokenizer(workspace)) is not None:
        report.note(f"tokenizer: {tokenizer.name}, from the model; the data's is unknown")
    return EvaluatedText(chosen, split, tokenizer, other)


def _shown(workspace: Workspace, texts: Sequence[Portion]) -> str:
    return ", ".join(workspace.shown(text.path) for text in texts)


def _check_unchanged(workspace: Workspace, run: Path, texts: Sequence[Portion], split: str) -> None:
    """Refuse a split that is no longer what a run recorded: it may have been trained on."""
    if run_data(workspace, run) is None:  # nothing is recorded
        return
    if changed := changed_texts(read_record(run), texts, split):
        raise BadData(
            f"{_shown(workspace, changed)} has changed since {workspace.shown(run)} was "
            f"{DONE_ON[split]} on it: make it again as it was, or measure it as it is with --data "
            f"{workspace.shown(changed[0].folder)}"
        )


def _dataset(workspace: Workspace, model: EvaluatedModel, data: Path | None) -> Data:
    """Return the dataset ``data``, the run's own, or the one prepared last."""
    recorded = run_data(workspace, model.found.run) if model.found.run and data is None else None
    if recorded is None:
        return find_data(workspace, data)
    train, val = recorded
    for text in train:
        if not expanded(text.path):
            raise MissingOutput(
                f"{text.path}, which {workspace.shown(model.checkpoint)} was trained on, is gone: "
                "make it again, or name other data with --data"
            )
    return find_data(workspace, train, val)
