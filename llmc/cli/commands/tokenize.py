"""``llmc tokenize``: turn text into token files with a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmc.cli.context import Context
from llmc.cli.options import argument, count, in_group
from llmc.text.source import VAL_FRACTION, Reading
from llmc.tokens import dataset
from llmc.tokens.dataset import DEFAULT_TOKENIZER, TokenizeOptions
from llmc.tokens.manifest import Manifest
from llmc.tokens.merge import read_shard
from llmc.tokens.shards import MOST_VAL_TOKENS, SHARD_TOKENS

of_tokens = in_group("Tokens")
of_reading = in_group("What is read")
of_parts = in_group("Token files and parts")

Inputs = Annotated[
    list[str],
    argument(
        "INPUT",
        "A dataset (tinyshakespeare, tinystories, stdlib); or files, folders, patterns, "
        "URLs, hf:OWNER/NAME[:SPLIT[:COLUMN]], and - for stdin.",
    ),
]
Tokenizer = Annotated[
    str | None,
    of_tokens(
        f"Default: {DEFAULT_TOKENIZER}. bpe:N trains a vocabulary of N tokens on the "
        "text; NAME is a tiktoken encoding, such as cl100k_base; "
        "PATH a tokenizer's file or folder.",
        "gpt2|byte|bpe:N|NAME|PATH",
    ),
]
ValTokens = Annotated[int | None, of_tokens("Validate on the first N tokens.", "N", parser=count)]
ValFraction = Annotated[
    float | None,
    of_tokens(
        "Validate on the first fraction F of the tokens, in whole documents. Default: "
        f"{VAL_FRACTION}, at most {MOST_VAL_TOKENS:,} tokens.",
        "F",
    ),
]
Out = Annotated[Path | None, of_tokens("Output folder. Default: data/<name>.", "DIR")]
ShardTokens = Annotated[int, of_tokens("Maximum tokens in one token file.", "N", parser=count)]
AllowSpecial = Annotated[
    bool,
    of_tokens(
        "Encode text such as <|endoftext|> in a document as that token.", names=("--allow-special",)
    ),
]
Fast = Annotated[
    bool | None,
    of_tokens(
        "Encode with gigatoken, after comparing it with tiktoken. Default: if installed.",
        names=("--fast/--no-fast",),
    ),
]
Workers = Annotated[int | None, of_tokens("Threads. Default: one per core.", "N", 1)]
Include = Annotated[
    list[str] | None, of_reading("Read only matching files of folders and archives.", "PATTERN")
]
Exclude = Annotated[list[str] | None, of_reading("Skip matching files and folders.", "PATTERN")]
Documents = Annotated[
    str | None,
    of_reading(
        "What a document is. Default: a record of .jsonl, .json and .parquet; in other "
        "text the file, or what lines of <|endoftext|> separate.",
        "file|line|record|blank-line|endoftext|SEPARATOR",
    ),
]
Field = Annotated[
    str | None, of_reading("The field or column of a record that holds its text.", "NAME")
]
Dtype = Annotated[
    Literal["uint16", "int32"] | None,
    of_parts("INPUT are token files without a header: nanoGPT's, llm.c's first."),
]
ValData = Annotated[
    str | None, of_parts("Token files to validate on, if INPUT are token files.", "FILE")
]
Shard = Annotated[
    str | None, of_parts("Tokenize the I-th of N parts, to be joined by --merge.", "I/N")
]
Merge = Annotated[
    bool, of_parts("Join parts: INPUT are their folders, or the one above.", names=("--merge",))
]


def tokenize(
    context: typer.Context,
    *,
    inputs: Inputs,
    tokenizer: Tokenizer = None,
    val_tokens: ValTokens = None,
    val_fraction: ValFraction = None,
    out: Out = None,
    include: Include = None,
    exclude: Exclude = None,
    documents: Documents = None,
    field: Field = None,
    workers: Workers = None,
    shard_tokens: ShardTokens = SHARD_TOKENS,
    allow_special: AllowSpecial = False,
    fast: Fast = None,
    dtype: Dtype = None,
    val_data: ValData = None,
    shard: Shard = None,
    merge: Merge = False,
) -> None:
    """Turn text into token files to train on.

    An interrupted call resumes after its finished shards when you run it again.
    """
    ctx: Context = context.obj
    options = TokenizeOptions(
        tokenizer=tokenizer,
        val_tokens=val_tokens,
        val_fraction=val_fraction,
        out=out,
        reading=Reading(tuple(include or ()), tuple(exclude or ()), documents, field),
        special=allow_special,
        shard_tokens=shard_tokens,
        workers=workers,
        fast=fast,
        dtype=dtype,
        val_data=val_data,
        part=read_shard(shard) if shard is not None else None,
        merge=merge,
    )
    show(ctx, dataset.tokenize(ctx.workspace, inputs, options, report=ctx.ui).manifest)


def show(ctx: Context, made: Manifest) -> None:
    """Print what was made, and the command that comes next."""
    ctx.ui.note(summary(ctx, made))
    splits = {"train_tokens": made.train.tokens, "val_tokens": made.val.tokens}
    ctx.ui.result({**made.fields(), **splits, "folder": str(made.folder)})
    if made.part is None:
        ctx.ui.next(f"llmc train --data {ctx.workspace.shown(made.folder)}")
    else:
        ctx.ui.next(f"llmc tokenize --merge {ctx.workspace.shown(made.folder.parent)}")


def summary(ctx: Context, made: Manifest) -> str:
    """Return a sentence on the size of a dataset or a part of one."""
    shards = len(made.train.shards)
    files = f" in {shards} shards" if shards > 1 else ""
    counted = f"{ctx.workspace.shown(made.folder)}: {made.train.tokens:,} tokens"
    if made.part is not None:
        return f"{counted}{files}, part {made.part.index} of {made.part.of} of {made.dataset}"
    return f"{counted} to train on{files}, {made.val.tokens:,} to validate on"
