"""What a run starts from: its tokens and its model, found and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData, MissingOutput
from llmc.paths import Workspace, expanded
from llmc.tokens.manifest import FILENAME as MANIFEST
from llmc.tokens.manifest import Manifest, load_manifest, verify
from llmc.tokens.prepared import prepared_model
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights.checkpoint import CheckpointHeader


@dataclass(frozen=True)
class Data:
    """What to train on.

    Attributes:
        name: the dataset's, which names the run.
        train: token file, or a glob pattern that finds several.
        val: token file or pattern; None where there is none.
        manifest: what vouches for them; None for a bare token file.
        tokenizer: what made them; None where that is not known.
    """

    name: str
    train: Path
    val: Path | None
    manifest: Manifest | None = None
    tokenizer: Tokenizer | None = None

    @property
    def folder(self) -> Path:
        """The folder in which the token files lie."""
        if self.manifest is not None:
            return self.manifest.folder
        return (expanded(self.train) or [self.train])[0].parent

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, or the ids themselves where the tokenizer is not known."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        known = [token for token in ids if token < self.tokenizer.vocab_size]
        return self.tokenizer.detokenize(known).decode(errors="replace")


def find_data(workspace: Workspace, data: Path | None, val_data: Path | None) -> Data:
    """Return the dataset that the flags name, or the one prepared last, its files verified.

    Raises:
        MissingOutput: there is none.
        BadData: it is not what its manifest says.
    """
    path = data if data is not None else workspace.newest_dataset()
    found = expanded(path)
    if not found:
        raise MissingOutput(
            f"there is no {path}: make a dataset with 'llmc prepare NAME' or 'llmc tokenize PATH'"
        )
    if val_data is not None and not expanded(val_data):
        raise MissingOutput(f"there is no file {val_data}: make one with 'llmc tokenize PATH'")
    folder = path if path.is_dir() else found[0].parent
    if not path.is_dir() and not (folder / MANIFEST).is_file():
        stem = path.resolve().stem.partition("*")[0].rstrip("_") or path.resolve().parent.name
        return Data(stem, path, val_data)
    manifest = load_manifest(folder)
    _check_files(manifest)
    verify(manifest)
    train = manifest.train_path if path.is_dir() else path
    whole = expanded(train) == [folder / shard.file for shard in manifest.train.shards]
    val = val_data or (manifest.val_path if whole else None)
    return Data(manifest.dataset, train, val, manifest, manifest.load_tokenizer())


def _check_files(manifest: Manifest) -> None:
    """Refuse a folder with other files than its manifest: the engine takes what a pattern finds.

    Raises:
        MissingOutput: a file is not there, or the dataset is only a part of one.
        BadData: there are files that the manifest does not name.
    """
    if manifest.part is not None:
        raise MissingOutput(
            f"{manifest.folder} is part {manifest.part.index} of {manifest.part.of} of "
            f"{manifest.dataset}: join all of them with 'llmc tokenize --merge' first"
        )
    for file in manifest.files:
        if not file.is_file():
            raise MissingOutput(f"there is no {file}: make it again with 'llmc tokenize'")
    for file in (*expanded(manifest.train_path), *expanded(manifest.val_path)):
        if file not in manifest.files:
            raise BadData(
                f"{file} is not in its folder's manifest: remove it, or run 'llmc tokenize' again"
            )


def find_model(workspace: Workspace, model: Path | None, data: Data) -> Path:
    """Return the checkpoint to start from: the one named, or the one prepared with the data.

    Raises:
        MissingOutput: there is none.
    """
    if model is not None:
        if not model.is_file():
            raise MissingOutput(f"there is no file {model}: make one with 'llmc export-weights'")
        return model
    if (prepared := prepared_model(workspace, data.folder)) is not None:
        return prepared
    models = list(workspace.models.glob("*.bin"))
    if not models:
        raise MissingOutput(
            f"no model in {workspace.shown(workspace.models)}: run "
            "'llmc export-weights random' or 'llmc prepare NAME' first, or name one with --model"
        )
    return max(models, key=lambda path: path.stat().st_mtime_ns)


def check_match(workspace: Workspace, data: Data, path: Path, header: CheckpointHeader) -> None:
    """Refuse data and a model with different tokens.

    Raises:
        BadData: their tokenizers differ, or the model knows too few tokens.
    """
    if data.manifest is None:
        return
    tokenizer = data.manifest.tokenizer
    shown, folder = workspace.shown(path), workspace.shown(data.manifest.folder)
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
