"""``llmc tokenize``: text to token files, with a manifest that says what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmc.cli.context import Context
from llmc.errors import Usage
from llmc.text.source import VAL_FRACTION, Reading
from llmc.tokens.dataset import (
    DEFAULT_TOKENIZER,
    Options,
    import_tokens,
    merge_parts,
    tokenize_inputs,
)
from llmc.tokens.files import MAX_TOKENS
from llmc.tokens.foreign import are_token_files
from llmc.tokens.manifest import load_manifest
from llmc.tokens.merge import read_shard
from llmc.tokens.shards import SHARD_TOKENS
from llmc.tokens.split import MIN_TOKENS, MOST_VAL_TOKENS, check_split_flags


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
            metavar="gpt2|byte|bpe:N|NAME|FILE",
            help=f"{DEFAULT_TOKENIZER} unless named; bpe:N trains one of N tokens on the text; "
            "NAME is one of tiktoken's encodings, such as cl100k_base.",
        ),
    ] = None,
    val_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Validate on the first N tokens.")
    ] = None,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="Validate on the first F of the tokens, in whole documents "
            f"({VAL_FRACTION}, of at most {MOST_VAL_TOKENS:,} tokens).",
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
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads. Default: one per core. Same tokens for any."),
    ] = None,
    shard_tokens: Annotated[
        int,
        typer.Option(
            min=MIN_TOKENS, max=MAX_TOKENS, metavar="N", help="Most tokens in one token file."
        ),
    ] = SHARD_TOKENS,
    allow_special: Annotated[
        bool,
        typer.Option(
            "--allow-special",
            help="Text such as <|endoftext|> in a document becomes that token; else it is text.",
        ),
    ] = False,
    fast: Annotated[
        bool | None,
        typer.Option(
            "--fast/--no-fast",
            help="Encode with gigatoken, after comparing it with tiktoken. Default: if installed.",
        ),
    ] = None,
    dtype: Annotated[
        Literal["uint16", "int32"] | None,
        typer.Option(help="INPUT are token files without a header: nanoGPT's, llm.c's first."),
    ] = None,
    val_data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Where INPUT are token files: those to validate on."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Tokenize the I-th of N parts, for --merge to join."),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="INPUT are the parts, or the folder they lie in: join.")
    ] = False,
) -> None:
    """Turn text into train.bin, val.bin and a manifest; into shards where it is large.

    An interrupted call goes on from its finished shards when it is typed again.
    """
    here: Context = ctx.obj
    reading = Reading(tuple(include or ()), tuple(exclude or ()), documents, field)
    options = Options(workers, shard_tokens, fast, allow_special, reading)
    check_split_flags(val_tokens, val_fraction)
    part = read_shard(shard) if shard is not None else None
    if merge:
        _refuse(tokenizer is not None, "--tokenizer", "--merge: the parts have theirs")
        _refuse(part is not None, "--shard", "--merge")
        _refuse(dtype is not None or val_data is not None, "--dtype and --val-data", "--merge")
        folder = merge_parts(
            here, inputs, val_tokens=val_tokens, val_fraction=val_fraction, out=out
        )
    elif dtype is not None or val_data is not None or are_token_files(inputs):
        _refuse(part is not None, "--shard", "token files")
        folder = import_tokens(
            here,
            inputs,
            dtype=dtype,
            val_data=val_data,
            tokenizer=tokenizer,
            val_tokens=val_tokens,
            val_fraction=val_fraction,
            out=out,
            options=options,
        )
    else:
        if part is not None and (val_tokens is not None or val_fraction is not None):
            raise Usage("a part has no validation split: give --val-tokens to --merge")
        folder = tokenize_inputs(
            here,
            inputs,
            tokenizer=tokenizer,
            val_tokens=val_tokens,
            val_fraction=val_fraction,
            out=out,
            options=options,
            part=part,
        )
    made = load_manifest(folder)
    here.ui.result(
        {
            **made.fields(),
            "train_tokens": made.train.tokens,
            "val_tokens": made.val.tokens,
            "folder": str(folder),
        }
    )
    if made.part is None:
        here.ui.next(f"llmc train --data {here.workspace.shown(folder)}")
    else:
        here.ui.next(f"llmc tokenize --merge {here.workspace.shown(folder.parent)}")


def _refuse(given: bool, flags: str, beside: str) -> None:
    if given:
        raise Usage(f"{flags} makes no sense with {beside}; leave it out")
