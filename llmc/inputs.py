"""What a run starts from: its tokens and its model, found, verified, held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc.context import Context
from llmc.errors import BadData, MissingOutput
from llmc.formats.checkpoint import CheckpointHeader
from llmc.manifest import FILENAME as MANIFEST
from llmc.manifest import Manifest, load_manifest, verify
from llmc.prepared import prepared_model
from llmc.tokenizers import Tokenizer


@dataclass(frozen=True)
class Data:
    """What to train on.

    Attributes:
        name: the dataset's, which names the run.
        train: token file.
        val: token file; None where there is none.
        manifest: what vouches for them; None for a bare token file.
        tokenizer: what made them; None where that is not known.
    """

    name: str
    train: Path
    val: Path | None
    manifest: Manifest | None = None
    tokenizer: Tokenizer | None = None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, or the ids themselves where the tokenizer is not known."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        known = [token for token in ids if token < self.tokenizer.vocab_size]
        return self.tokenizer.decode_bytes(known).decode(errors="replace")


def find_data(here: Context, data: Path | None, val_data: Path | None) -> Data:
    """Return the dataset that the flags name, or the one prepared last, its files verified.

    Raises:
        MissingOutput: there is none.
        BadData: it is not what its manifest says.
    """
    path = data if data is not None else here.workspace.newest_dataset()
    if not path.exists():
        raise MissingOutput(
            f"there is no {path}: make a dataset with 'llmc prepare NAME' or 'llmc tokenize PATH'"
        )
    if val_data is not None and not val_data.is_file():
        raise MissingOutput(f"there is no file {val_data}: make one with 'llmc tokenize PATH'")
    folder = path if path.is_dir() else path.parent
    if path.is_file() and not (folder / MANIFEST).is_file():
        return Data(path.resolve().stem, path, val_data)
    manifest = load_manifest(folder)
    for file in (manifest.train_path, manifest.val_path):
        if not file.is_file():
            raise MissingOutput(f"there is no {file}: make it again with 'llmc tokenize'")
    verify(manifest)
    train = path if path.is_file() else manifest.train_path
    val = val_data or (manifest.val_path if train.name == manifest.train.file else None)
    return Data(manifest.dataset, train, val, manifest, manifest.load_tokenizer())


def find_model(here: Context, model: Path | None, data: Data) -> Path:
    """Return the checkpoint to start from: the one named, or the one prepared with the data.

    Raises:
        MissingOutput: there is none.
    """
    if model is not None:
        if not model.is_file():
            raise MissingOutput(f"there is no file {model}: make one with 'llmc export-weights'")
        return model
    prepared = prepared_model(here.workspace, data.train.parent)
    if prepared is not None:
        return prepared
    models = sorted(here.workspace.models.glob("*.bin"), key=lambda path: path.stat().st_mtime_ns)
    if not models:
        raise MissingOutput(
            f"no model in {here.workspace.shown(here.workspace.models)}: run "
            "'llmc export-weights random' or 'llmc prepare NAME' first, or name one with --model"
        )
    return models[-1]


def check_match(here: Context, data: Data, path: Path, header: CheckpointHeader) -> None:
    """Refuse data and a model that speak of different tokens.

    Raises:
        BadData: their tokenizers differ, or the model knows too few tokens.
    """
    if data.manifest is None:
        return
    tokenizer = data.manifest.tokenizer
    shown, folder = here.workspace.shown(path), here.workspace.shown(data.manifest.folder)
    advice = "prepare the data with the model's tokenizer, or choose another model"
    if header.tokenizer is not None and header.tokenizer.hex() != tokenizer.fingerprint:
        raise BadData(
            f"{shown} was made for another tokenizer than {folder} ({tokenizer.name}): {advice}"
        )
    if tokenizer.vocab_size > header.config.vocab_size:
        raise BadData(
            f"{folder} uses {tokenizer.vocab_size:,} tokens, but {shown} knows only "
            f"{header.config.vocab_size:,}: {advice}"
        )
