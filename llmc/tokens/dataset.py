"""Make a dataset's folder: from text, from existing token files, or from parts to be merged."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from llmc.engine.machine import available_cpus
from llmc.errors import Usage
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.text.documents import LINE
from llmc.text.examine import lines_of
from llmc.text.source import Source, open_source
from llmc.tokens import shards
from llmc.tokens.added import for_chat
from llmc.tokens.bpe import bytes_of, tokenizer_for, train_bpe
from llmc.tokens.chat import chat_encoder, chat_tokenizer, learnt_texts, template_for
from llmc.tokens.divide import Cut, check_enough, divide
from llmc.tokens.encode import Encode, HeldEncoder, choose_encoder, cuts_of
from llmc.tokens.existing import Ingredients, check_replaced, intact_dataset
from llmc.tokens.foreign import are_token_files, find_token_files, source_records, token_tasks
from llmc.tokens.manifest import SPLITS, Manifest, PartRecord, SplitRecord
from llmc.tokens.merge import find_parts, folder_name, range_of
from llmc.tokens.nanogpt import META
from llmc.tokens.options import (
    AS_DEFAULT,
    AUTO,
    DEFAULT_TOKENIZER,
    TokenizeOptions,
    check_options,
    cut_of,
    is_registered,
    refuse,
)
from llmc.tokens.pipeline import Feed, text_tasks
from llmc.tokens.split import Joined
from llmc.tokens.template import Template
from llmc.tokens.tokenizer import Tokenizer, bpe_vocab_size, load_tokenizer


@dataclass(frozen=True)
class TokenizedDataset:
    """What :func:`tokenize` made: the manifest, and the tokens kept from an interrupted call."""

    manifest: Manifest
    resumed_tokens: int = 0

    @property
    def folder(self) -> Path:
        """The folder of the token files and the manifest."""
        return self.manifest.folder


def tokenize(
    workspace: Workspace,
    inputs: list[str],
    options: TokenizeOptions = AS_DEFAULT,
    *,
    report: Report = SILENT,
) -> TokenizedDataset:
    """Turn text into token files with a manifest; an interrupted call resumes when repeated.

    Args:
        workspace: where registered datasets lie and the result goes.
        inputs: what :func:`llmc.text.source.open_source` takes; or token files; or parts.
        options: tokenizer, validation split, sharding.
        report: receives notes about defaults, and progress.

    Raises:
        Usage: the options contradict each other, or an input or tokenizer is unknown.
        MissingOutput: the dataset has not been fetched, or a part is missing.
        BadData: a file is damaged or not text, there is too little text, or the disk is full.
    """
    check_options(options)
    of_token_files = _of_token_files(inputs, options)
    if options.merge or of_token_files:
        for option in options.reading.record():
            refuse(option, f"--{option}", "token files: it is for text")
        refuse(options.template, "--template", "token files: it is for conversations")
    if options.merge:
        refuse(options.tokenizer, "--tokenizer", "--merge: the parts have theirs")
        refuse(options.part, "--shard", "--merge")
        refuse(options.dtype or options.val_data, "--dtype and --val-data", "--merge")
        return _merge_parts(workspace, inputs, options, report)
    if of_token_files:
        refuse(options.part, "--shard", "token files")
        return _import_tokens(workspace, inputs, options, report)
    return _tokenize_text(workspace, inputs, options, report)


def find_tokenized(
    workspace: Workspace, inputs: list[str], options: TokenizeOptions
) -> Manifest | None:
    """Return an intact dataset made from the same text with the same tokenizer.

    The text, the tokenizer and the token files are compared by their hashes.

    Raises:
        Usage: an input or the tokenizer is unknown.
        MissingOutput: the dataset has not been fetched.
        BadData: the text cannot be read.
    """
    if options.merge or _of_token_files(inputs, options) or options.special:
        return None
    source = open_source(workspace, inputs, options.reading)
    folder = options.out or workspace.data / source.name
    template = template_for(source, options)
    spec = _spec(options, source, template)
    wanted = Ingredients(source.records, spec, template, options.takes_fewer, source.older)
    made = intact_dataset(folder, wanted)
    return made if (options.val_tokens, options.val_fraction) == (None, None) else None


def _spec(options: TokenizeOptions, source: Source, template: Template | None) -> str | Tokenizer:
    """Return the tokenizer of a text, or what names it; of conversations with their template."""
    spec = options.tokenizer or DEFAULT_TOKENIZER
    if spec == AUTO:
        # The size of a Word file, an archive or a table says little about that of its text.
        stored = source.holds_as_stored
        texts = learnt_texts(source.parts, template)
        spec = tokenizer_for(source.train_bytes if stored else bytes_of(texts))
    return chat_tokenizer(spec, template)


def _of_token_files(inputs: list[str], options: TokenizeOptions) -> bool:
    return bool(options.dtype or options.val_data) or are_token_files(inputs)


def _tokenize_text(
    workspace: Workspace, inputs: list[str], options: TokenizeOptions, report: Report
) -> TokenizedDataset:
    part = options.part
    source = open_source(workspace, inputs, options.reading, report=report)
    for note in (*source.notes, *lines_of(source.left_out)):
        report.note(note)
    template = template_for(source, options)
    spec = _spec(options, source, template)
    _note_tokenizer(options, spec, template, report)
    vocab_size, or_fewer = bpe_vocab_size(spec), options.takes_fewer
    has_own_val, first = source.val_parts is not None, is_registered(source.records)
    folder = options.out or workspace.data / source.name
    record = None
    if part is None:
        wanted = Ingredients(source.records, spec, template, or_fewer, source.older)
        check_replaced(folder, wanted, force=options.force)
        cut = cut_of(
            options, source.name, report, source.val_tokens, has_own_val=has_own_val, first=first
        )
    else:
        cut = Cut()
        record = PartRecord(*part, source.val_tokens, has_own_val)
        folder /= folder_name(*part)
        source = replace(
            source,
            parts=range_of(source.parts, *part),
            val_parts=range_of(source.val_parts, *part) if source.val_parts is not None else None,
        )
    tokenizer = (
        load_tokenizer(spec)
        if vocab_size is None
        else _trained(source, vocab_size, template, report, or_fewer=or_fewer)
    )
    asked = vocab_size if vocab_size not in (None, tokenizer.vocab_size) else None
    encode, cuts = _encoding(source, tokenizer, template, options, report)
    feeds: dict[str, Feed] = {"train": partial(text_tasks, source.parts, encode, cuts)}
    if source.val_parts is not None:
        feeds["val"] = partial(text_tasks, source.val_parts, encode, cuts)
    made = Manifest.unwritten(folder, source.name, tokenizer, source.records, asked)
    left_out = tuple(file.record() for file in source.left_out)
    made = replace(made, special=options.special, part=record, left_out=left_out)
    masked, size = template is not None, source.total_bytes
    done = _write(
        made, feeds, tokenizer, size=size, masked=masked, cut=cut, options=options, report=report
    )
    if isinstance(encode, HeldEncoder) and (lost := encode.lost_bytes):
        report.note(f"{lost:,} bytes of the text have no token in this tokenizer: left out")
    separator = options.reading.documents
    is_all = part is None and not done.resumed_tokens  # all of the text was read now
    if separator not in (None, LINE.name) and source.lacks_separator and is_all:
        report.note(f"'{separator}' (--documents) occurs nowhere: every file is one document")
    if source.line_ends_changed:
        report.note("line ends CR LF and CR became LF (--newlines keep keeps them)")
    return done


def _trained(
    source: Source,
    vocab_size: int,
    template: Template | None,
    report: Report,
    *,
    or_fewer: bool,
) -> Tokenizer:
    """Train a BPE on a text, with the tokens of a template among its ``vocab_size``."""
    report.note(f"training a tokenizer of {vocab_size:,} tokens on {source.name}")
    added = len(template.tokens) if template is not None else 0
    texts = learnt_texts(source.parts, template)
    size, total = vocab_size - added, source.train_bytes
    made = train_bpe(texts, size, or_fewer=or_fewer, total=total, report=report)
    whole = made if template is None else for_chat(made, template)
    if whole.vocab_size < vocab_size:
        report.note(
            f"the text yields only {whole.vocab_size:,} tokens: it is short, or repeats itself"
        )
    return whole


def _encoding(
    source: Source,
    tokenizer: Tokenizer,
    template: Template | None,
    options: TokenizeOptions,
    report: Report,
) -> tuple[Encode, re.Pattern[str] | None]:
    """Return the encoder of a text, and where its documents may be cut."""
    if template is not None:
        if options.fast:
            raise Usage("--fast cannot encode conversations: leave it out")
        return chat_encoder(tokenizer, template), None
    chosen = choose_encoder(tokenizer, source.parts, fast=options.fast, special=options.special)
    if chosen.note:
        report.note(chosen.note)
    return chosen.encode, cuts_of(tokenizer, special=options.special)


def _import_tokens(
    workspace: Workspace, inputs: list[str], options: TokenizeOptions, report: Report
) -> TokenizedDataset:
    """Make a dataset of existing token files."""
    spec: str | Tokenizer = options.tokenizer or DEFAULT_TOKENIZER
    dtype = options.dtype
    if spec == AUTO or bpe_vocab_size(spec) is not None:
        raise Usage(f"token files are already encoded: name their tokenizer, not {spec}")
    paths = find_token_files(inputs, dtype)
    if options.tokenizer is None and (meta := paths[0].with_name(META)).is_file():
        report.note(f"tokenizer: {meta}, which is beside the token files")
        spec = str(meta)
    else:
        _note_tokenizer(options, spec, None, report)
    tokenizer = load_tokenizer(spec)
    records = source_records(paths, dtype)
    feeds: dict[str, Feed] = {"train": partial(token_tasks, paths, dtype, tokenizer)}
    stem = paths[0].stem
    name = paths[0].resolve().parent.name if stem in ("train", "val") else stem
    if options.val_data is None:
        cut = cut_of(options, name, report)
    else:
        if options.val_tokens is not None or options.val_fraction is not None:
            raise Usage(
                "--val-data names the validation tokens: leave out --val-tokens and --val-fraction"
            )
        val_paths = find_token_files([options.val_data], dtype)
        feeds["val"] = partial(token_tasks, val_paths, dtype, tokenizer)
        records += source_records(val_paths, dtype)
        cut = Cut()
    made = Manifest.unwritten(options.out or workspace.data / name, name, tokenizer, records)
    if any(path.resolve().parent == made.folder.resolve() for path in paths):
        raise Usage(f"the token files are already in {made.folder}: choose another --out")
    check_replaced(made.folder, Ingredients(records, tokenizer), force=options.force)
    size = sum(record["bytes"] for record in records)
    done = _write(made, feeds, tokenizer, size=size, cut=cut, options=options, report=report)
    train = [file.path for file in done.manifest.token_files("train")]
    if not Joined(train).holds(tokenizer.eot):
        report.note(
            "the tokens to train on have no end-of-text, with which a sample without a prompt "
            "begins: give samples a --prompt"
        )
    return done


def _merge_parts(
    workspace: Workspace, inputs: list[str], options: TokenizeOptions, report: Report
) -> TokenizedDataset:
    """Merge the parts that ``--shard`` made into one dataset."""
    folders = [path if (path := Path(text)).is_dir() else workspace.data / text for text in inputs]
    parts = find_parts(folders)
    train, val = ([file for made in parts for file in made.token_files(s)] for s in SPLITS)
    first, record = parts[0], parts[0].part
    assert record is not None
    own_val = record.own_val
    cut = cut_of(
        options,
        first.dataset,
        report,
        record.val_tokens,
        has_own_val=own_val,
        first=is_registered(first.source),
    )
    folder = options.out
    if folder is None:
        above = {made.folder.resolve().parent for made in parts}
        folder = above.pop() if len(above) == 1 else workspace.data / first.dataset
    text_bytes = sum(part.text_bytes for part in parts)
    made = replace(first, folder=folder, part=None, text_bytes=text_bytes)
    tokenizer = first.load_tokenizer()
    with shards.scratch_for(folder, key="merge") as scratch:
        made_by = SplitRecord("own")
        if not own_val:
            val, train, made_by = divide(scratch, train, cut, tokenizer, options.shard_tokens)
        made = replace(made, split=made_by)
        check_enough(scratch, first.dataset, train, val, cut)
        made = shards.publish(made, tokenizer, train, val)
    report.note("the folders of the parts are no longer needed")
    return TokenizedDataset(made)


def _note_tokenizer(
    options: TokenizeOptions, spec: str | Tokenizer, template: Template | None, report: Report
) -> None:
    if options.tokenizer in (None, AUTO):
        why = "the default" if options.tokenizer is None else "fits the size of the text"
        shown = spec if isinstance(spec, str) else spec.name
        report.note(f"tokenizer: {shown} ({why}; --tokenizer names another)")
    if template is not None:
        report.note(f"conversations: template {template.name} (--template); the answers count")


def _key(made: Manifest, options: TokenizeOptions) -> str:
    """Return a hash of everything that decides which tokens go into which shard."""
    facts = [made.source, made.tokenizer.fingerprint, options.shard_tokens, options.special]
    facts.append(made.tokenizer.template)
    text = json.dumps(
        [shards.JOURNAL_FORMAT, Manifest.created_by, *facts, options.part], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _write(
    made: Manifest,
    feeds: dict[str, Feed],
    tokenizer: Tokenizer,
    *,
    size: int | None,
    masked: bool = False,
    cut: Cut,
    options: TokenizeOptions,
    report: Report,
) -> TokenizedDataset:
    """Write the token streams ``train`` and maybe ``val``, cut off the validation, publish."""
    with shards.scratch_for(made.folder, _key(made, options)) as scratch:
        if scratch.foreign:
            report.note("discarded an interrupted call's shards: they were made from other inputs")
        if scratch.resumed:
            report.note(f"resuming after {scratch.resumed:,} tokens of an interrupted call")
        with report.bar(f"tokenizing {made.dataset}", size) as advance:
            streams = {
                name: shards.write_stream(
                    scratch,
                    name,
                    feed,
                    vocab_size=tokenizer.vocab_size,
                    masked=masked,
                    shard_tokens=options.shard_tokens,
                    workers=options.workers or available_cpus(),
                    advance=advance,
                )
                for name, feed in feeds.items()
            }
        train = streams["train"].files
        val = streams["val"].files if "val" in streams else []
        if made.part is None:
            made_by = SplitRecord("own")
            if "val" not in streams:
                val, train, made_by = divide(scratch, train, cut, tokenizer, options.shard_tokens)
            made = replace(made, split=made_by)
            check_enough(scratch, made.dataset, train, val, cut)
            if not val and cut.tokens != 0:
                report.note("too little text for a validation split: all of it is to train on")
        made = replace(made, text_bytes=sum(state.text_bytes for state in streams.values()))
        made = shards.publish(made, tokenizer, train, val)
    return TokenizedDataset(made, scratch.resumed)
