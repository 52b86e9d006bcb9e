"""A dataset's manifest: its token files, their tokenizer and the text they were made from.

``manifest.json`` is written last, so the files it names are whole. Format 2 has a list of files
for each split; format 1, which is still read, has one file for each.
"""

from __future__ import annotations

import glob
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from llmc import __version__
from llmc.addresses import all_without_secrets
from llmc.engine.machine import available_cpus
from llmc.errors import BadData
from llmc.kinds import HEAD_BYTES, not_data, read_strictly
from llmc.parsing import from_json_file, read_limited
from llmc.paths import write_json
from llmc.tokens.files import TokenFile, has_mask, is_file_name, payload_sha256, read_tokens
from llmc.tokens.masks import mask_path
from llmc.tokens.recorded import file_of, load_recorded
from llmc.tokens.tokenizer import Tokenizer

FILENAME = "manifest.json"
FORMAT = 2
OLD_FORMAT = 1
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Shard:
    """One token file: its name in the dataset's folder, its tokens, the SHA-256 of its payload."""

    file: str
    tokens: int
    sha256: str
    mask_sha256: str | None = None  # of the payload of its mask; None: it has none


@dataclass(frozen=True)
class Split:
    """The token files of a split, in order."""

    shards: tuple[Shard, ...]

    @property
    def tokens(self) -> int:
        """The tokens of all files."""
        return sum(shard.tokens for shard in self.shards)


@dataclass(frozen=True)
class TokenizerRecord:
    """A tokenizer in a manifest; ``file`` is in the dataset's folder, None for gpt2 and byte."""

    name: str
    fingerprint: str
    vocab_size: int
    eot: int
    file: str | None
    template: str | None = None  # the name of its chat template; None: the text has none
    asked: int | None = None  # the vocabulary that fits the text's size, where it yields a smaller


@dataclass(frozen=True)
class PartRecord:
    """Which part of a dataset this is, and what merging the parts needs to know."""

    index: int  # from 1
    of: int
    val_tokens: int | None  # the text's default number of validation tokens; None: a fraction
    own_val: bool  # the text has its own validation text; val holds this part of it


@dataclass(frozen=True)
class SplitRecord:
    """How the validation split was made."""

    # ``sample`` (of the documents, by llmc.tokens.split), ``first`` (the first tokens), ``own``
    # (the text has a validation text) or ``none``.
    rule: str
    seed: int | None = None  # of the sample
    documents: int = 0  # whole documents in the sample
    runs: int = 0  # runs of tokens in it, of documents that are too long


@dataclass(frozen=True)
class Manifest:
    """A dataset.

    ``source`` says where the text came from, as ``name`` or ``path``, ``bytes`` and ``sha256``; one
    entry with a count in ``files`` and one combined hash stands for many files.
    """

    folder: Path  # where the manifest and the files it names lie; not part of the file
    dataset: str  # its name
    tokenizer: TokenizerRecord
    train: Split
    val: Split
    source: tuple[dict[str, Any], ...]
    text_bytes: int  # UTF-8 bytes of all documents of both splits
    left_out: tuple[dict[str, Any], ...] = ()  # what was not read: ``file`` and ``reason``
    special: bool = False  # the text of a special token in a document became that token
    part: PartRecord | None = None  # the part of a dataset that this is: nothing to train on yet
    split: SplitRecord | None = None  # None: made by an older llmc, which validates on the first
    created_by: str = f"llmc {__version__}"

    @classmethod
    def unwritten(
        cls,
        folder: Path,
        dataset: str,
        tokenizer: Tokenizer,
        source: tuple[dict[str, Any], ...],
        asked: int | None = None,
    ) -> Manifest:
        """Return the manifest of a dataset whose token files are still to be written."""
        made, file = tokenizer, file_of(tokenizer)
        template = made.template.name if made.template is not None else None
        record = TokenizerRecord(
            made.name, made.fingerprint, made.vocab_size, made.eot, file, template, asked
        )
        return cls(folder, dataset, record, Split(()), Split(()), source, text_bytes=0)

    @property
    def train_path(self) -> Path:
        """The token file to train on, or a glob pattern that finds all of them."""
        return self._path_of(self.train)

    @property
    def val_path(self) -> Path | None:
        """The token file to validate on, or a glob pattern that finds all of them; None: none."""
        return self._path_of(self.val) if self.val.shards else None

    def _path_of(self, split: Split) -> Path:
        if len(split.shards) == 1:
            return self.folder / split.shards[0].file
        name = split.shards[0].file.rpartition("_")[0] if split.shards else ""
        return Path(glob.escape(str(self.folder))) / f"{name}_*.bin"

    @property
    def files(self) -> list[Path]:
        """Every token file, those to train on first."""
        return [file.path for file in (*self.token_files("train"), *self.token_files("val"))]

    @property
    def masked(self) -> bool:
        """Whether token files have masks, as those of conversations."""
        return any(shard.mask_sha256 for split in (self.train, self.val) for shard in split.shards)

    def token_files(self, split: str) -> list[TokenFile]:
        """Return the token files of ``train`` or ``val``, in order."""
        shards = (self.train if split == "train" else self.val).shards
        return [
            TokenFile(self.folder / each.file, each.tokens, each.sha256, each.mask_sha256)
            for each in shards
        ]

    def load_tokenizer(self) -> Tokenizer:
        """Return the tokenizer that made the tokens.

        Raises:
            BadData: its file is gone or changed.
        """
        record = self.tokenizer
        return load_recorded(
            self.folder, record.name, record.fingerprint, record.file, record.template
        )

    def fields(self) -> dict[str, Any]:
        """Return what the file holds."""
        fields = {"format": FORMAT, **asdict(self)}
        del fields["folder"]
        for name in ("template", "asked"):
            if fields["tokenizer"][name] is None:
                del fields["tokenizer"][name]
        for split in SPLITS:
            fields[split] = fields[split]["shards"]
            for shard in fields[split]:
                if shard["mask_sha256"] is None:
                    del shard["mask_sha256"]
        return fields


def write_manifest(manifest: Manifest) -> None:
    """Write ``manifest.json`` into the manifest's folder; do it last.

    Raises:
        BadData: the place cannot be written.
    """
    write_json(manifest.folder / FILENAME, manifest.fields())


def load_manifest(folder: Path) -> Manifest:
    """Read the manifest of the dataset in ``folder``.

    Raises:
        MissingOutput: there is none.
        BadData: it cannot be read, or a field is missing, unknown or of the wrong type.
    """
    path = folder / FILENAME
    missing = f"no dataset in {folder}: make one with 'llmc tokenize NAME' or 'llmc prepare NAME'"
    fields = read_strictly(
        scan_manifest, path, missing=missing, advice="run 'llmc tokenize PATH' again"
    )
    del fields["format"]
    part, split = fields.get("part"), fields.get("split")
    fields |= {
        "tokenizer": TokenizerRecord(**fields["tokenizer"]),
        "train": Split(tuple(Shard(**shard) for shard in fields["train"])),
        "val": Split(tuple(Shard(**shard) for shard in fields["val"])),
        "source": tuple(fields["source"]),
        "left_out": tuple(fields.get("left_out", ())),
        "part": PartRecord(**part) if part is not None else None,
        "split": SplitRecord(**split) if split is not None else None,
    }
    return Manifest(folder=folder, **fields)


def scan_manifest(path: Path, name: str = "it") -> tuple[dict[str, Any], list[str]]:
    """Read a manifest: a :data:`llmc.kinds.Scan`.

    It returns the fields as format 2 has them, empty if the file is not a JSON object. ``train``
    and ``val`` are lists of whole entries; others are left out, with a problem for each.
    """
    try:
        raw = read_limited(path)
        if (sentence := not_data(raw[:HEAD_BYTES], name)) is not None:
            return {}, [sentence]
        fields = from_json_file(raw)
    except ValueError as error:
        return {}, [f"cannot read {name} ({error}); run 'llmc tokenize PATH' again"]
    if isinstance(fields, dict) and "source" in fields:  # older versions recorded whole addresses
        fields["source"] = all_without_secrets(fields["source"])
    found = [] if isinstance(fields, dict) else [f"it is not a JSON object but {fields!r:.40}"]
    if not found:
        if fields.get("format") == OLD_FORMAT:
            fields |= {split: [fields.get(split)] for split in SPLITS}
        elif fields.get("format") != FORMAT:
            found.append(f"its format is not {FORMAT}")
        found += _problems(fields)
    problems = [
        f"{name} is not a manifest that llmc wrote ({problem}); run 'llmc tokenize PATH' again"
        for problem in found
    ]
    return fields if isinstance(fields, dict) else {}, problems


def _problems(fields: dict[str, Any]) -> list[str]:
    """Return what is wrong with a manifest's fields; leave broken entries out of the splits."""
    problems = [] if "format" in fields else ["format is missing"]
    problems += _mistyped({"folder": None, **fields}, Manifest, "")
    names: list[str] = []
    kinds = (("tokenizer", TokenizerRecord), ("part", PartRecord), ("split", SplitRecord))
    for key, kind in kinds:
        if isinstance(record := fields.get(key), dict):
            problems += _mistyped(record, kind, f"{key}.")
            names += [record["file"]] if isinstance(record.get("file"), str) else []
    source = fields.get("source")
    if isinstance(source, list) and not all(isinstance(entry, dict) for entry in source):
        problems.append("source should be a list of objects")
    elif isinstance(source, list):
        words = (entry.get(key, "") for entry in source for key in ("name", "path"))
        if not all(isinstance(word, str) for word in words):
            problems.append("a name or a path in source should be text")
    for split in SPLITS:
        whole = []
        for entry in entries if isinstance(entries := fields.get(split), list) else []:
            faults = _mistyped(entry, Shard, f"{split}.")
            problems += faults
            whole += [] if faults else [entry]
        fields[split] = [entry for entry in whole if is_file_name(entry["file"])]
        files = [entry["file"] for entry in whole]
        names += files
        if not files and split == "train" and fields.get("part") is None:
            problems.append(f"{split} has no files")
        if len(files) > 1 and files != shard_names(files[0].rpartition("_")[0], len(files)):
            problems.append(f"the files of {split} should be numbered from 000001 on")
    elsewhere = [name for name in names if not is_file_name(name)]
    problems += [f"{name!r} should name a file in the same folder" for name in elsewhere]
    return problems + (["a file is named twice"] if len(set(names)) < len(names) else [])


JSON_TYPES = {
    TokenizerRecord: dict,
    PartRecord: dict,
    SplitRecord: dict,
    Split: list,
    Path: type(None),
}


def _mistyped(value: object, kind: type, prefix: str) -> list[str]:
    """Return the fields of a dataclass that a JSON object lacks or has of another type."""
    if not isinstance(value, dict):
        return [f"{prefix.rstrip('.')} should hold objects"]
    known = {field.name: field for field in dataclass_fields(kind)}
    problems = [f"{prefix}{key} is unknown" for key in value if key not in {*known, "format"}]
    for key, hint in get_type_hints(kind).items():
        union = get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
        types: list[Any] = [list if each is tuple else JSON_TYPES.get(each, each) for each in union]
        if key not in value:
            problems += [f"{prefix}{key} is missing"] if known[key].default is MISSING else []
        elif type(value[key]) not in types:
            problems.append(f"{prefix}{key} should be of type {types[0].__name__}")
        elif type(value[key]) is int and value[key] < 0:
            problems.append(f"{prefix}{key} is negative")
    return problems


def verify(manifest: Manifest) -> None:
    """Compare the token files with the manifest: counts, sizes and the SHA-256 of the payloads.

    Raises:
        BadData: a file is gone, cut short or changed.
    """

    def check(file: TokenFile) -> None:
        tokens = len(read_tokens(file.path))
        mask = file.mask_sha256
        same = tokens == file.tokens and payload_sha256(file.path) == file.sha256
        if not same or has_mask(file.path) != (mask is not None):
            raise BadData(
                f"{file.path} is not the file its manifest describes ({tokens:,} tokens, "
                f"{file.tokens:,} in the manifest, or other ones): run 'llmc tokenize PATH' again"
            )
        if mask is not None and payload_sha256(mask_path(file.path)) != mask:
            raise BadData(
                f"{mask_path(file.path)} is not the mask that its manifest describes: run 'llmc "
                "tokenize PATH' again"
            )

    # Hashing releases Python's lock.
    with ThreadPoolExecutor(available_cpus()) as pool:
        list(pool.map(check, manifest.token_files("train") + manifest.token_files("val")))


def shard_names(split: str, count: int) -> list[str]:
    """Return the names of a split's files: train.bin, or train_000001.bin and so on."""
    if count == 1:
        return [f"{split}.bin"]
    return [f"{split}_{number:06}.bin" for number in range(1, count + 1)]
