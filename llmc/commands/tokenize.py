"""``llmc tokenize``: text to token files, with a manifest that says what they hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc import manifest as manifests
from llmc.context import Context
from llmc.datasets import AS_USUAL, VAL_FRACTION, Reading, Source, documents_of, open_source
from llmc.errors import BadData, LlmcError, Usage
from llmc.formats.tokens import TokenFile, read_tokens, write_tokens
from llmc.manifest import Manifest, Split, TokenizerRecord
from llmc.tokenizers import (
    TOKENIZER_FILE,
    Tokenizer,
    bpe_vocab_size,
    load_tokenizer,
    save_tokenizer,
    train_bpe,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import Progress

DEFAULT_TOKENIZER = "gpt2"
TRAIN_FILE = "train.bin"
VAL_FILE = "val.bin"
SLICE = 1 << 20
MIN_TOKENS = 2  # an input and its target


@dataclass(frozen=True)
class Cut:
    """How the stream of tokens is cut: validation first, ``tokens`` of it or a ``fraction``."""

    tokens: int | None = None
    fraction: float = VAL_FRACTION

    def at(self, ids: NDArray[np.unsignedinteger[Any]], eot: int) -> int:
        """Return the size of the validation split of ``ids`` (n,).

        A count is exact, as llm.c's; a fraction moves to the nearest start of a document, if that
        changes it by less than half.
        """
        import numpy as np

        if self.tokens is not None:
            return self.tokens
        target = round(self.fraction * len(ids))
        low, high = target // 2 + 1, target + target // 2
        starts = np.flatnonzero(ids[low:high] == eot) + low
        return int(starts[np.abs(starts - target).argmin()]) if starts.size else target


def tokenize(
    ctx: typer.Context,
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="A dataset (tinyshakespeare, tinystories, stdlib); or files, folders, patterns, "
            "addresses, hf:OWNER/NAME[:SPLIT[:COLUMN]], and - for stdin.",
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="gpt2|byte|bpe:N|FILE",
            help=f"{DEFAULT_TOKENIZER} unless named; bpe:N trains one of N tokens on the text.",
        ),
    ] = None,
    val_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Validate on the first N tokens.")
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help=f"Validate on the first F of the tokens, in whole documents ({VAL_FRACTION}).",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write here, not to data/<name>.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Of folders and archives only such files: '*.py'."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Of folders and archives no such files or folders."),
    ] = None,
    documents: Annotated[
        str | None,
        typer.Option(
            metavar="file|line|record|blank-line|endoftext|SEPARATOR",
            help="What a document is. Unless said: a record of .jsonl, .json and .parquet; of "
            "other text the file, or what its lines of <|endoftext|> separate.",
        ),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The field or column of a record that is its text."),
    ] = None,
) -> None:
    """Turn text into train.bin, val.bin and a manifest."""
    here: Context = ctx.obj
    folder = tokenize_inputs(
        here,
        inputs,
        reading=Reading(tuple(include or ()), tuple(exclude or ()), documents, field),
        tokenizer=tokenizer,
        val_tokens=val_tokens,
        val_fraction=val_fraction,
        out=out,
    )
    made = manifests.load_manifest(folder)
    here.ui.result({**asdict(made), "folder": str(folder)})
    here.ui.next(f"llmc train --data {here.workspace.shown(folder)}")


def tokenize_inputs(
    here: Context,
    inputs: list[str],
    *,
    tokenizer: str | None,
    val_tokens: int | None,
    val_fraction: float | None,
    out: Path | None,
    reading: Reading = AS_USUAL,
) -> Path:
    """Tokenize a dataset or paths; return the folder with the token files and the manifest.

    Args:
        here: the workspace and the voice.
        inputs: what :func:`open_source` takes.
        tokenizer: ``gpt2``, ``byte``, ``bpe:N`` (trained on all of the text) or a file; None:
            gpt2.
        val_tokens: validate on the first so many tokens exactly.
        val_fraction: validate on this part of the tokens, in whole documents where that is near.
        out: the folder; None: ``data/<name>`` in the workspace.
        reading: which files of the inputs, and how they become documents.

    Raises:
        Usage: the flags contradict each other, or an input or tokenizer is unknown.
        MissingOutput: the dataset has not been fetched.
        BadData: a file is not text, there is too little of it, or the disk is full.
    """
    _check_split_flags(val_tokens, val_fraction)
    vocab_size = bpe_vocab_size(tokenizer or DEFAULT_TOKENIZER)
    source = open_source(here.workspace, inputs, reading)
    for note in source.notes:
        here.ui.note(note)
    if source.skipped:
        here.ui.note(f"passed over {source.skipped} files that are empty or not UTF-8 text")
    if tokenizer is None:
        here.ui.note(f"tokenizer: {DEFAULT_TOKENIZER} (the default; --tokenizer names another)")
    if vocab_size is not None:
        here.ui.note(f"training a tokenizer of {vocab_size:,} tokens on {source.name}")
        with here.ui.progress() as progress:
            meter = _Meter(progress, f"reading {source.name}", source.total_bytes)
            chosen = train_bpe(meter.passing(documents_of(source.parts)), vocab_size)
    else:
        chosen = load_tokenizer(tokenizer or DEFAULT_TOKENIZER)
    cut = _cut(here, source, val_tokens, val_fraction)
    folder = out if out is not None else here.workspace.data / source.name
    try:
        made = _write(here, source, chosen, cut, folder)
    except OSError as error:
        raise BadData(
            f"cannot write the dataset {folder}: {error.strerror}; choose another --out"
        ) from error
    finally:
        with suppress(OSError):
            folder.rmdir()  # still empty: it failed, and leaves nothing behind
    here.ui.note(
        f"{here.workspace.shown(folder)}: {made.train.tokens:,} tokens to train on, "
        f"{made.val.tokens:,} to validate on"
    )
    return folder


def tokenized_already(
    here: Context, inputs: list[str], *, tokenizer: str | None, out: Path | None
) -> Path | None:
    """Return the folder of an earlier ``tokenize`` of the same text that is whole, or None.

    The text, the tokenizer and the token files are all compared by their hashes.

    Raises:
        Usage: an input or tokenizer is unknown.
        MissingOutput: the dataset has not been fetched.
        BadData: the text cannot be read.
    """
    spec = tokenizer or DEFAULT_TOKENIZER
    vocab_size = bpe_vocab_size(spec)
    source = open_source(here.workspace, inputs)
    folder = out if out is not None else here.workspace.data / source.name
    try:
        made = manifests.load_manifest(folder)
        manifests.verify(made)
        recorded = made.load_tokenizer()
    except LlmcError:
        return None
    if vocab_size is not None:
        same = recorded.name == "bpe" and recorded.vocab_size == vocab_size
    else:
        same = recorded.fingerprint == load_tokenizer(spec).fingerprint
    return folder if same and made.source == source.records else None


def _check_split_flags(val_tokens: int | None, val_fraction: float | None) -> None:
    if val_tokens is not None and val_fraction is not None:
        raise Usage("--val-tokens and --val-fraction exclude each other: give one")
    if val_tokens is not None and val_tokens < MIN_TOKENS:
        raise Usage(f"--val-tokens must be at least {MIN_TOKENS}, not {val_tokens}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise Usage(f"--val-fraction must lie between 0 and 1, not be {val_fraction:g}")


def _cut(here: Context, source: Source, val_tokens: int | None, val_fraction: float | None) -> Cut:
    """Choose how to split, saying what was chosen; of no use where a dataset has its own split.

    Raises:
        Usage: a split is asked for where the dataset brings its own.
    """
    if source.val_parts is not None:
        if val_tokens is not None or val_fraction is not None:
            raise Usage(
                f"{source.name} has a validation text of its own: "
                "leave out --val-tokens and --val-fraction"
            )
        here.ui.note(f"validation: {source.name}'s own validation text")
        return Cut()
    if val_fraction is not None:
        return Cut(fraction=val_fraction)
    if val_tokens is not None:
        return Cut(val_tokens)
    if source.val_tokens is not None:
        here.ui.note(f"validation: the first {source.val_tokens:,} tokens (--val-tokens)")
        return Cut(source.val_tokens)
    here.ui.note(f"validation: the first {VAL_FRACTION:.0%} of the tokens (--val-fraction)")
    return Cut()


class _Meter:
    """Counts the bytes of the documents that pass, and shows them as progress."""

    def __init__(self, progress: Progress, description: str, total: int | None) -> None:
        self.bytes = 0
        self.progress = progress
        self.task = progress.add_task(description, total=total)

    def passing(self, documents: Iterable[str]) -> Iterator[str]:
        for document in documents:
            size = len(document.encode())
            self.bytes += size
            self.progress.update(self.task, advance=size)
            yield document


def _write(here: Context, source: Source, tokenizer: Tokenizer, cut: Cut, folder: Path) -> Manifest:
    """Write the token files, the tokenizer's where it needs one, and the manifest last.

    Raises:
        BadData: there is too little text for both splits, or the disk is full.
    """
    with here.ui.progress() as progress:
        meter = _Meter(progress, f"tokenizing {source.name}", source.total_bytes)
        ids = tokenizer.encode_documents(meter.passing(documents_of(source.parts)))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tokenize.", dir=folder) as name:
            scratch = Path(name)
            train = write_tokens(scratch / TRAIN_FILE, ids, tokenizer.vocab_size)
            if source.val_parts is not None:
                ids = tokenizer.encode_documents(meter.passing(documents_of(source.val_parts)))
                val = write_tokens(scratch / VAL_FILE, ids, tokenizer.vocab_size)
            else:
                train, val = _split(train, cut, tokenizer)
            if min(train.tokens, val.tokens) < MIN_TOKENS:
                raise _too_little(source, train.tokens, val.tokens)
            # The files change under an old manifest's feet: without it, nobody trusts them.
            (folder / manifests.FILENAME).unlink(missing_ok=True)
            (folder / TOKENIZER_FILE).unlink(missing_ok=True)
            train.path.replace(folder / TRAIN_FILE)
            val.path.replace(folder / VAL_FILE)
    file = None
    if tokenizer.name == "bpe":
        file = TOKENIZER_FILE
        save_tokenizer(tokenizer, folder / file)
    made = Manifest(
        folder=folder,
        dataset=source.name,
        tokenizer=TokenizerRecord(
            tokenizer.name, tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.eot, file
        ),
        train=Split(TRAIN_FILE, train.tokens, train.sha256),
        val=Split(VAL_FILE, val.tokens, val.sha256),
        source=source.records,
        text_bytes=meter.bytes,
    )
    manifests.write_manifest(made)
    return made


def _split(whole: TokenFile, cut: Cut, tokenizer: Tokenizer) -> tuple[TokenFile, TokenFile]:
    """Cut ``whole`` into the training and validation files that take its place."""
    ids = read_tokens(whole.path)
    at = min(cut.at(ids, tokenizer.eot), len(ids))
    val = write_tokens(whole.path.with_name(VAL_FILE), _slices(ids[:at]), tokenizer.vocab_size)
    train = write_tokens(whole.path, _slices(ids[at:]), tokenizer.vocab_size)
    return train, val


def _slices(
    ids: NDArray[np.unsignedinteger[Any]],
) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    return (ids[start : start + SLICE] for start in range(0, len(ids), SLICE))


def _too_little(source: Source, train: int, val: int) -> BadData:
    return BadData(
        f"'{source.name}' is too little text: {train + val:,} tokens leave {val:,} to validate on "
        f"and {train:,} to train on; add text or change --val-tokens or --val-fraction"
    )
