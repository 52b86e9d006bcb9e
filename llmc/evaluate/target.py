"""What ``llmc eval`` evaluates: a model, and a text that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmc.cli.context import Context
from llmc.errors import MissingOutput, Usage
from llmc.paths import CHECKPOINT
from llmc.tokens.tokenizer import Tokenizer, recorded_tokenizer
from llmc.train.folder import find_run, run_data
from llmc.train.start import Data, check_match, find_data, token_files
from llmc.weights.checkpoint import CheckpointHeader, read_header
from llmc.weights.lookup import tokenizer_of

DEFAULT_SPLIT = "val"


@dataclass(frozen=True)
class Subject:
    """A checkpoint, and the run it is of; None where it is a file by itself."""

    checkpoint: Path
    header: CheckpointHeader
    run: Path | None

    def tokenizer(self, here: Context) -> Tokenizer | None:
        """Return the tokenizer that the model was trained with; None where that is not known."""
        recorded = recorded_tokenizer(self.run) if self.run is not None else None
        return recorded or tokenizer_of(here.workspace, self.checkpoint)

    @property
    def named(self) -> str:
        """The word that names it again on a command line; nothing where it is the newest run."""
        return self.run.name if self.run is not None else str(self.checkpoint)


def find_subject(here: Context, target: str | None) -> Subject:
    """Return the run or the checkpoint that is named, or the newest run.

    Raises:
        MissingOutput: there is none.
        BadData: it is no checkpoint, or damaged.
    """
    run: Path | None = None
    shown = here.workspace.shown
    if target is None:
        run = find_run(here.workspace, None)
        here.ui.note(f"run: {shown(run)} (the newest)")
    elif (here.workspace.runs / target / CHECKPOINT).is_file():
        run = here.workspace.runs / target
    elif (Path(target) / CHECKPOINT).is_file():
        run = Path(target)
    elif not Path(target).is_file():
        raise MissingOutput(
            f"there is no run and no checkpoint '{target}': train one with 'llmc train', "
            "or make one with 'llmc export-weights'"
        )
    checkpoint = run / CHECKPOINT if run is not None else Path(str(target))
    return Subject(checkpoint, read_header(checkpoint), run)


@dataclass(frozen=True)
class Text:
    """Token files to predict, and the tokenizer they were made with; None: not known."""

    files: tuple[Path, ...]
    split: str | None
    tokenizer: Tokenizer | None


def find_text(here: Context, subject: Subject, data: Path | None, split: str | None) -> Text:
    """Return the split of the dataset that the flags name, or of the run's own.

    Raises:
        MissingOutput: it is not there.
        BadData: it is damaged, or was made with another tokenizer than the model's.
        Usage: a split is asked for of a single file.
    """
    where = here.workspace.shown
    if data is not None and data.suffix == ".jsonl":
        raise Usage(f"{data} is no token file: for HellaSwag add --task hellaswag")
    if data is not None and data.is_file():
        if split is not None:
            raise Usage(f"{data} is one token file: leave out --split, or name the folder")
        found = find_data(here, data, None)
        files: tuple[Path, ...] = (data,)
        split = None
    else:
        found = _dataset(here, subject, data)
        file = found.train if split == "train" else found.val
        split = split or DEFAULT_SPLIT
        if file is None:
            raise MissingOutput(
                f"{where(found.train)} has no token file to validate on: name one with --data FILE"
            )
        files = tuple(token_files(file))
    check_match(here, found, subject.checkpoint, subject.header)
    tokenizer = found.tokenizer
    if tokenizer is not None and subject.header.tokenizer is None:
        here.ui.note(f"tokenizer: {tokenizer.name}, the data's; nothing tells that of the model")
    if tokenizer is None and (tokenizer := subject.tokenizer(here)) is not None:
        here.ui.note(f"tokenizer: {tokenizer.name}, the model's; nothing tells that of the data")
    return Text(files, split, tokenizer)


def _dataset(here: Context, subject: Subject, data: Path | None) -> Data:
    """Return the dataset named, the run's own, or the one prepared last."""
    recorded = run_data(here.workspace, subject.run) if subject.run and data is None else None
    if recorded is None:
        return find_data(here, data, None)
    train, val = recorded
    if not token_files(train):
        raise MissingOutput(
            f"{train}, which {here.workspace.shown(subject.checkpoint)} was trained on, is gone: "
            "make it again, or name other data with --data"
        )
    return find_data(here, train, val)
