"""A dataset's manifest: what its token files hold, which tokenizer made them, from which text.

``manifest.json`` is written last, so where there is one, the files it names are whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmc import __version__
from llmc.errors import BadData, MissingOutput
from llmc.formats.tokens import payload_sha256, read_tokens
from llmc.paths import written_whole
from llmc.tokenizers import Tokenizer, load_recorded

FILENAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Split:
    """One token file: its name in the dataset's folder, its tokens, the SHA-256 of its payload."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class TokenizerRecord:
    """A tokenizer as a dataset names it; ``file`` lies in the folder, None for gpt2 and byte."""

    name: str
    fingerprint: str
    vocab_size: int
    eot: int
    file: str | None


@dataclass(frozen=True)
class Manifest:
    """A dataset.

    Attributes:
        folder: where the manifest and the files it names lie; not part of the file.
        dataset: its name.
        tokenizer: what made the tokens.
        train: the tokens to train on.
        val: the tokens to validate on.
        source: where the text came from, as ``name`` or ``path``, ``bytes`` and ``sha256``; one
            entry with a count in ``files`` and one combined hash stands for many files.
        text_bytes: UTF-8 bytes of all documents of both splits.
        created_by: the version of llmc.
    """

    folder: Path
    dataset: str
    tokenizer: TokenizerRecord
    train: Split
    val: Split
    source: tuple[dict[str, Any], ...]
    text_bytes: int
    created_by: str = f"llmc {__version__}"

    @property
    def train_path(self) -> Path:
        """The token file to train on."""
        return self.folder / self.train.file

    @property
    def val_path(self) -> Path:
        """The token file to validate on."""
        return self.folder / self.val.file

    def load_tokenizer(self) -> Tokenizer:
        """Return the tokenizer that made the tokens.

        Raises:
            BadData: its file is gone or changed.
        """
        record = self.tokenizer
        return load_recorded(self.folder, record.name, record.fingerprint, record.file)


def write_manifest(manifest: Manifest) -> Path:
    """Write ``manifest.json`` into the manifest's folder; do it last.

    Raises:
        BadData: the place cannot be written.
    """
    fields = {"format": FORMAT, **asdict(manifest)}
    del fields["folder"]
    path = manifest.folder / FILENAME
    with written_whole(path) as partial:
        partial.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    return path


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest of the dataset in ``folder``.

    Raises:
        MissingOutput: there is none.
        BadData: it cannot be read, or a field is missing, unknown or of the wrong type.
    """
    path = folder / FILENAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingOutput(
            f"no dataset in {folder}: make one with 'llmc tokenize NAME' or 'llmc prepare NAME'"
        ) from error
    except (OSError, ValueError) as error:
        raise BadData(f"cannot read {path} ({error}); run 'llmc tokenize' again") from error
    try:
        if fields.pop("format") != FORMAT:
            raise ValueError("its format is not 1")
        manifest = Manifest(
            **{
                **fields,
                "folder": folder,
                "tokenizer": TokenizerRecord(**fields["tokenizer"]),
                "train": Split(**fields["train"]),
                "val": Split(**fields["val"]),
                "source": tuple(fields["source"]),
            }
        )
        _check_types(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadData(
            f"{path} is not a manifest that llmc wrote ({type(error).__name__}: {error}); "
            "run 'llmc tokenize' again"
        ) from error
    return manifest


def verify(manifest: Manifest) -> None:
    """Hold the token files against the manifest: counts, sizes and the SHA-256 of the payloads.

    Raises:
        BadData: a file is gone, cut short or changed.
    """
    for split in (manifest.train, manifest.val):
        path = manifest.folder / split.file
        tokens = len(read_tokens(path))
        if tokens != split.tokens or payload_sha256(path) != split.sha256:
            raise BadData(
                f"{path} is not the file its manifest describes ({tokens:,} tokens, "
                f"{split.tokens:,} in the manifest, or other ones): run 'llmc tokenize' again"
            )


def _check_types(manifest: Manifest) -> None:
    """Refuse values of another type: what follows relies on them.

    Raises:
        ValueError: a value has another type than its field, or a name leads out of the folder.
    """
    texts = [manifest.dataset, manifest.created_by, manifest.tokenizer.name]
    texts += [manifest.tokenizer.fingerprint, manifest.train.sha256, manifest.val.sha256]
    counts = [manifest.text_bytes, manifest.tokenizer.vocab_size, manifest.tokenizer.eot]
    counts += [manifest.train.tokens, manifest.val.tokens]
    names = [manifest.train.file, manifest.val.file]
    names += [manifest.tokenizer.file] if manifest.tokenizer.file is not None else []
    for value in texts + names:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} should be a string")
    for count in counts:
        if type(count) is not int or count < 0:
            raise ValueError(f"{count!r} should be a count")
    for name in names:
        if name in ("", "..") or Path(name).name != name:
            raise ValueError(f"{name!r} should name a file in the same folder")
    if not all(isinstance(entry, dict) for entry in manifest.source):
        raise ValueError("source should be a list of tables")
