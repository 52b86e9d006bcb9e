"""A dataset's folder, made: from text, from token files that others wrote, from parts.

What is written, and in which files: the rooms below read, encode, cut and write.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmc.cli.context import Context
from llmc.engine.machine import available_cores
from llmc.errors import LlmcError, Usage
from llmc.text.source import AS_USUAL, Reading, Source, documents_of, open_source
from llmc.tokens import manifest as manifests
from llmc.tokens.encode import Encode, choose_encoder, cuts_of
from llmc.tokens.foreign import find_token_files, source_records, token_feed
from llmc.tokens.manifest import Manifest, PartRecord, Split, TokenizerRecord
from llmc.tokens.merge import find_parts, folder_name, joined, range_of
from llmc.tokens.pipeline import Feed, text_feed
from llmc.tokens.shards import (
    JOURNAL_FORMAT,
    SHARD_TOKENS,
    check_enough,
    cut_stream,
    publish,
    scratch_for,
    write_stream,
)
from llmc.tokens.split import Cut, check_split_flags, choose_cut, cut_of_flags, own_val
from llmc.tokens.tokenizer import Tokenizer, bpe_vocab_size, load_tokenizer, train_bpe

DEFAULT_TOKENIZER = "gpt2"


@dataclass(frozen=True)
class Options:
    """How to tokenize; none of it but ``special`` and ``reading`` changes a token.

    Attributes:
        workers: threads that encode; None: one per core.
        shard_tokens: the most tokens in a file.
        fast: use gigatoken; None: where it is installed.
        special: a special token's text in a document is that token.
        reading: which files of the inputs, and how they become documents.
    """

    workers: int | None = None
    shard_tokens: int = SHARD_TOKENS
    fast: bool | None = None
    special: bool = False
    reading: Reading = AS_USUAL


@dataclass(frozen=True)
class Work:
    """Streams of tokens that become a dataset.

    Attributes:
        name: what progress calls it.
        feeds: the streams by name: ``train``, and ``val`` where there is one.
        size: bytes to read, for progress; None where that is not known.
        key: names the work: the same key, the same tokens in the same files.
    """

    name: str
    feeds: dict[str, Feed]
    size: int | None
    key: str


def tokenize_inputs(
    here: Context,
    inputs: list[str],
    *,
    tokenizer: str | None,
    val_tokens: int | None,
    val_fraction: float | None,
    out: Path | None,
    options: Options = Options(),
    part: tuple[int, int] | None = None,
) -> Path:
    """Tokenize a dataset or paths; return the folder with the token files and the manifest.

    Args:
        here: the workspace and the voice.
        inputs: what :func:`open_source` takes.
        tokenizer: ``gpt2``, ``byte``, ``bpe:N`` (trained on all of the text), one of tiktoken's
            encodings or a file; None: gpt2.
        val_tokens: validate on the first so many tokens exactly.
        val_fraction: validate on this part of the tokens, in whole documents where that is near.
        out: the folder; None: ``data/<name>`` in the workspace.
        options: how.
        part: I and N: only the I-th of N parts, into a folder of its own in that one.

    Raises:
        Usage: the flags contradict each other, or an input or tokenizer is unknown.
        MissingOutput: the dataset has not been fetched.
        BadData: a file is not text, there is too little of it, or the disk is full.
    """
    check_split_flags(val_tokens, val_fraction)
    spec = tokenizer or DEFAULT_TOKENIZER
    vocab_size = bpe_vocab_size(spec)
    if vocab_size is not None and part is not None:
        raise Usage(
            f"every part would train a {spec} of its own: train one first, on all of the text or "
            "some of it, and name its tokenizer.tiktoken with --tokenizer"
        )
    source = open_source(here.workspace, inputs, options.reading)
    for note in source.notes:
        here.ui.note(note)
    if source.skipped:
        here.ui.note(f"passed over {source.skipped} files that are empty or not UTF-8 text")
    if tokenizer is None:
        here.ui.note(f"tokenizer: {DEFAULT_TOKENIZER} (the default; --tokenizer names another)")
    if vocab_size is not None:
        here.ui.note(f"training a tokenizer of {vocab_size:,} tokens on {source.name}")
        chosen = _trained(here, source, vocab_size)
    else:
        chosen = load_tokenizer(spec)
    cut = Cut() if part is not None else choose_cut(here, source, val_tokens, val_fraction)
    folder = out if out is not None else here.workspace.data / source.name
    whole = source
    if part is not None:
        folder /= folder_name(*part)
        source = _part_of(source, part)
    encode = _encoder(here, source, chosen, options)
    made = Manifest(
        folder=folder,
        dataset=source.name,
        tokenizer=_record(chosen),
        train=Split(()),
        val=Split(()),
        source=source.records,
        text_bytes=0,
        special=options.special,
        part=PartRecord(*part, whole.val_tokens, whole.val_parts is not None) if part else None,
    )
    cuts = cuts_of(chosen, special=options.special)
    feeds = {"train": text_feed(source.parts, encode, cuts)}
    if source.val_parts is not None:
        feeds["val"] = text_feed(source.val_parts, encode, cuts)
    key = _key(source.records, chosen, options, part)
    work = Work(f"tokenizing {source.name}", feeds, source.total_bytes, key)
    return _write(here, made, work, tokenizer=chosen, cut=cut, options=options)


def import_tokens(
    here: Context,
    inputs: list[str],
    *,
    dtype: str | None,
    val_data: str | None,
    tokenizer: str | None,
    val_tokens: int | None,
    val_fraction: float | None,
    out: Path | None,
    options: Options,
) -> Path:
    """Make a dataset of token files that others wrote; return its folder.

    Raises:
        Usage: a file's type is not known, or the flags contradict each other.
        BadData: a file is damaged, or holds tokens that the tokenizer does not have.
    """
    spec = tokenizer or DEFAULT_TOKENIZER
    if bpe_vocab_size(spec) is not None:
        raise Usage(f"token files are made already: name their tokenizer, not {spec}")
    paths = find_token_files(inputs, dtype)
    if tokenizer is None:
        here.ui.note(f"tokenizer: {DEFAULT_TOKENIZER} (the default; --tokenizer names another)")
    chosen = load_tokenizer(spec)
    records = source_records(paths, dtype)
    feeds = {"train": token_feed(paths, dtype, chosen)}
    size = sum(record["bytes"] for record in records)
    if val_data is not None:
        if val_tokens is not None or val_fraction is not None:
            raise Usage("--val-data is what to validate on: leave out --val-tokens, --val-fraction")
        val_paths = find_token_files([val_data], dtype)
        feeds["val"] = token_feed(val_paths, dtype, chosen)
        val_records = source_records(val_paths, dtype)
        size += sum(record["bytes"] for record in val_records)
        records += val_records
        cut = Cut()
    else:
        cut = cut_of_flags(here, None, val_tokens, val_fraction)
    stem = paths[0].stem
    name = paths[0].resolve().parent.name if stem in ("train", "val") else stem
    made = Manifest(
        folder=out if out is not None else here.workspace.data / name,
        dataset=name,
        tokenizer=_record(chosen),
        train=Split(()),
        val=Split(()),
        source=records,
        text_bytes=0,
    )
    if any(path.resolve().parent == made.folder.resolve() for path in paths):
        raise Usage(f"the files lie in {made.folder} already: choose another --out")
    work = Work(f"reading {name}", feeds, size, _key(records, chosen, options, None))
    return _write(here, made, work, tokenizer=chosen, cut=cut, options=options)


def merge_parts(
    here: Context,
    inputs: list[str],
    *,
    val_tokens: int | None,
    val_fraction: float | None,
    out: Path | None,
) -> Path:
    """Join the parts that ``--shard`` made; return the dataset's folder.

    Raises:
        Usage: an input is no part, or the flags contradict what the parts hold.
        MissingOutput: a part is missing.
        BadData: the parts do not belong together, or one is damaged.
    """
    folders = [
        path if (path := Path(text)).is_dir() else here.workspace.data / text for text in inputs
    ]
    parts = find_parts(folders)
    train, val, record = joined(parts)
    first = parts[0]
    if record.own_val and (val_tokens is not None or val_fraction is not None):
        raise own_val(first.dataset)
    cut = (
        Cut() if record.own_val else cut_of_flags(here, record.val_tokens, val_tokens, val_fraction)
    )
    folder = out
    if folder is None:
        above = {made.folder.resolve().parent for made in parts}
        folder = above.pop() if len(above) == 1 else here.workspace.data / first.dataset
    made = replace(
        first, folder=folder, part=None, text_bytes=sum(part.text_bytes for part in parts)
    )
    tokenizer = first.load_tokenizer()
    with scratch_for(folder, key="merge") as scratch:
        if not record.own_val:
            val, train = cut_stream(scratch, train, cut, tokenizer)
        check_enough(scratch, first.dataset, train, val)
        made = publish(made, tokenizer, train=train, val=val, keep=True)
    _say_done(here, made)
    here.ui.note("the parts' own folders are not needed any more")
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
    same = same and not made.special and made.part is None
    return folder if same and made.source == source.records else None


def _trained(here: Context, source: Source, vocab_size: int) -> Tokenizer:
    with here.ui.progress() as progress:
        task = progress.add_task(f"reading {source.name}", total=source.total_bytes)

        def passing() -> Any:
            for document in documents_of(source.parts):
                progress.update(task, advance=len(document))
                yield document

        return train_bpe(passing(), vocab_size)


def _part_of(source: Source, part: tuple[int, int]) -> Source:
    val_parts = range_of(source.val_parts, *part) if source.val_parts is not None else None
    return replace(source, parts=range_of(source.parts, *part), val_parts=val_parts)


def _encoder(here: Context, source: Source, tokenizer: Tokenizer, options: Options) -> Encode:
    chosen = choose_encoder(tokenizer, source.parts, fast=options.fast, special=options.special)
    if chosen.note:
        here.ui.note(chosen.note)
    return chosen.encode


def _record(tokenizer: Tokenizer) -> TokenizerRecord:
    return TokenizerRecord(
        tokenizer.name, tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.eot, None
    )


def _key(
    records: tuple[dict[str, Any], ...],
    tokenizer: Tokenizer,
    options: Options,
    part: tuple[int, int] | None,
) -> str:
    """Name the work: all that decides which tokens come into which shard."""
    facts = [records, tokenizer.fingerprint, options.shard_tokens, options.special, part]
    text = json.dumps([JOURNAL_FORMAT, manifests.Manifest.created_by, *facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(
    here: Context,
    made: Manifest,
    work: Work,
    *,
    tokenizer: Tokenizer,
    cut: Cut,
    options: Options,
) -> Path:
    """Write the streams' tokens, cut what has no validation stream, publish; return the folder.

    Raises:
        BadData: there is too little text for both splits, or the disk is full.
    """
    with scratch_for(made.folder, work.key) as scratch:
        if scratch.foreign:
            here.ui.note("what an earlier, interrupted call left was of other work: starting anew")
        if scratch.resumed:
            here.ui.note(f"going on from {scratch.resumed:,} tokens of an interrupted call")
        with here.ui.progress() as progress:
            bar = progress.add_task(work.name, total=work.size)
            stages = {
                name: write_stream(
                    scratch,
                    name,
                    feed,
                    vocab_size=tokenizer.vocab_size,
                    shard_tokens=options.shard_tokens,
                    workers=options.workers or available_cores(),
                    advance=lambda size: progress.update(bar, advance=size),
                )
                for name, feed in work.feeds.items()
            }
        train = stages["train"].files
        val = stages["val"].files if "val" in stages else []
        if made.part is None:
            if "val" not in stages:
                val, train = cut_stream(scratch, train, cut, tokenizer)
            check_enough(scratch, made.dataset, train, val)
        made = replace(made, text_bytes=sum(stage.text_bytes for stage in stages.values()))
        made = publish(made, tokenizer, train=train, val=val)
    _say_done(here, made)
    return made.folder


def _say_done(here: Context, made: Manifest) -> None:
    shown = here.workspace.shown(made.folder)
    shards = len(made.train.shards)
    files = f" in {shards} shards" if shards > 1 else ""
    if made.part is not None:
        of = f"part {made.part.index} of {made.part.of} of {made.dataset}"
        here.ui.note(f"{shown}: {made.train.tokens:,} tokens{files}, {of}")
    else:
        here.ui.note(
            f"{shown}: {made.train.tokens:,} tokens to train on{files}, "
            f"{made.val.tokens:,} to validate on"
        )
