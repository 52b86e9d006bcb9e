"""A dataset's manifest: what its token files hold, which tokenizer made them, from which text.

``manifest.json`` is written last, so where there is one, the files it names are whole. Format 2 has
a list of files for each split; format 1, which is still read, had one file.
"""

from __future__ import annotations

import glob
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmc import __version__
from llmc.engine.machine import available_cores
from llmc.errors import BadData, MissingOutput
from llmc.paths import written_whole
from llmc.tokens.files import payload_sha256, read_tokens
from llmc.tokens.tokenizer import Tokenizer, load_recorded

FILENAME = "manifest.json"
FORMAT = 2
OLD_FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """One token file: its name in the dataset's folder, its tokens, the SHA-256 of its payload."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """Token files that are read as one, in this order."""

    shards: tuple[Shard, ...]

    @property
    def tokens(self) -> int:
        """The tokens of all files."""
        return sum(shard.tokens for shard in self.shards)


@dataclass(frozen=True)
class TokenizerRecord:
    """A tokenizer as a dataset names it; ``file`` lies in the folder, None for gpt2 and byte."""

    name: str
    fingerprint: str
    vocab_size: int
    eot: int
    file: str | None


@dataclass(frozen=True)
class PartRecord:
    """Which part of a dataset this is, and what joining the parts has to know.

    Attributes:
        index: counted from 1.
        of: how many there are.
        val_tokens: the text's default size of the validation split; None: a fraction.
        own_val: the text has a validation text of its own, which ``val`` holds this part of.
    """

    index: int
    of: int
    val_tokens: int | None
    own_val: bool


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
        special: the text of a special token in a document became that token.
        part: None, or of which part of a dataset this speaks: nothing to train on yet.
        created_by: the version of llmc.
    """

    folder: Path
    dataset: str
    tokenizer: TokenizerRecord
    train: Split
    val: Split
    source: tuple[dict[str, Any], ...]
    text_bytes: int
    special: bool = False
    part: PartRecord | None = None
    created_by: str = f"llmc {__version__}"

    @property
    def train_path(self) -> Path:
        """The token file to train on, or a glob pattern that finds all of them."""
        return _path_of(self.folder, self.train)

    @property
    def val_path(self) -> Path:
        """The token file to validate on, or a glob pattern that finds all of them."""
        return _path_of(self.folder, self.val)

    @property
    def files(self) -> list[Path]:
        """Every token file, those to train on first."""
        return [self.folder / shard.file for shard in (*self.train.shards, *self.val.shards)]

    def load_tokenizer(self) -> Tokenizer:
        """Return the tokenizer that made the tokens.

        Raises:
            BadData: its file is gone or changed.
        """
        record = self.tokenizer
        return load_recorded(self.folder, record.name, record.fingerprint, record.file)

    def fields(self) -> dict[str, Any]:
        """Return what the file holds."""
        fields = {"format": FORMAT, **asdict(self)}
        del fields["folder"]
        return fields | {"train": fields["train"]["shards"], "val": fields["val"]["shards"]}


def _path_of(folder: Path, split: Split) -> Path:
    if len(split.shards) == 1:
        return folder / split.shards[0].file
    name = split.shards[0].file.rpartition("_")[0] if split.shards else ""
    return Path(glob.escape(str(folder))) / f"{name}_*.bin"


def write_manifest(manifest: Manifest) -> Path:
    """Write ``manifest.json`` into the manifest's folder; do it last.

    Raises:
        BadData: the place cannot be written.
    """
    path = manifest.folder / FILENAME
    with written_whole(path) as partial:
        partial.write_text(json.dumps(manifest.fields(), indent=2) + "\n", encoding="utf-8")
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
        written = fields.pop("format")
        if written not in (OLD_FORMAT, FORMAT):
            raise ValueError(f"its format is not {FORMAT}")
        if written == OLD_FORMAT:
            fields |= {"train": [fields["train"]], "val": [fields["val"]]}
        part = fields.get("part")
        manifest = Manifest(
            **{
                **fields,
                "folder": folder,
                "tokenizer": TokenizerRecord(**fields["tokenizer"]),
                "train": Split(tuple(Shard(**shard) for shard in fields["train"])),
                "val": Split(tuple(Shard(**shard) for shard in fields["val"])),
                "source": tuple(fields["source"]),
                "part": PartRecord(**part) if part is not None else None,
            }
        )
        _check_types(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadData(
            f"{path} is not a manifest that llmc wrote ({type(error).__name__}: {error}); "
            "run 'llmc tokenize' again"
        ) from error
    return manifest


def shards_of(split: object) -> list[Shard]:
    """Return the token files in a manifest's ``train`` or ``val``, however damaged the rest is.

    Format 1 has one table, format 2 a list. Entries that are not well-formed are left out;
    :func:`load_manifest` refuses them.
    """
    found = []
    for item in split if isinstance(split, list) else [split]:
        if not isinstance(item, dict):
            continue
        file, tokens, sha256 = (item.get(key) for key in ("file", "tokens", "sha256"))
        if isinstance(file, str) and type(tokens) is int and isinstance(sha256, str):
            beside = file not in ("", "..") and "\0" not in file and Path(file).name == file
            found += [Shard(file, tokens, sha256)] if beside else []
    return found


def verify(manifest: Manifest) -> None:
    """Hold the token files against the manifest: counts, sizes and the SHA-256 of the payloads.

    Raises:
        BadData: a file is gone, cut short or changed.
    """

    def check(shard: Shard) -> None:
        path = manifest.folder / shard.file
        tokens = len(read_tokens(path))
        if tokens != shard.tokens or payload_sha256(path) != shard.sha256:
            raise BadData(
                f"{path} is not the file its manifest describes ({tokens:,} tokens, "
                f"{shard.tokens:,} in the manifest, or other ones): run 'llmc tokenize' again"
            )

    # Hashing leaves Python's lock to the other threads.
    with ThreadPoolExecutor(available_cores()) as pool:
        for _ in pool.map(check, (*manifest.train.shards, *manifest.val.shards)):
            pass


def _check_types(manifest: Manifest) -> None:
    """Refuse values of another type: what follows relies on them.

    Raises:
        ValueError: a value has another type than its field, or a name leads out of the folder.
    """
    record, part = manifest.tokenizer, manifest.part
    shards = [*manifest.train.shards, *manifest.val.shards]
    names = [shard.file for shard in shards] + ([record.file] if record.file is not None else [])
    texts = [manifest.dataset, manifest.created_by, record.name, record.fingerprint, *names]
    texts += [shard.sha256 for shard in shards]
    counts = [manifest.text_bytes, record.vocab_size, record.eot]
    counts += [shard.tokens for shard in shards]
    truths = [manifest.special]
    if part is not None:
        counts += [part.index, part.of, *([part.val_tokens] if part.val_tokens is not None else [])]
        truths += [part.own_val]
    elif not (manifest.train.shards and manifest.val.shards):
        raise ValueError("a split has no files")
    for values, kind in ((texts, str), (counts, int), (truths, bool)):
        for value in values:
            if type(value) is not kind:
                raise ValueError(f"{value!r} should be of type {kind.__name__}")
    if min(counts) < 0:
        raise ValueError("a count is negative")
    if not all(isinstance(entry, dict) for entry in manifest.source):
        raise ValueError("source should be a list of tables")
    _check_names(manifest, names)


def _check_names(manifest: Manifest, names: list[str]) -> None:
    """Refuse files elsewhere, and shards whose order their names do not tell.

    Raises:
        ValueError: there are some.
    """
    for name in names:
        if name in ("", "..") or Path(name).name != name:
            raise ValueError(f"{name!r} should name a file in the same folder")
    if len(set(names)) < len(names):
        raise ValueError("a file is named twice")
    for split in (manifest.train, manifest.val):
        files = [shard.file for shard in split.shards]
        if len(files) > 1 and files != shard_names(files[0].rpartition("_")[0], len(files)):
            raise ValueError("several files of a split should be numbered from 000001 on")


def shard_names(split: str, count: int) -> list[str]:
    """Return what the files of a split are called: train.bin, or train_000001.bin and so on."""
    if count == 1:
        return [f"{split}.bin"]
    return [f"{split}_{number:06}.bin" for number in range(1, count + 1)]
