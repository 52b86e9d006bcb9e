"""``llmc decode``: turn token ids into text, as they arrive."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmc.cli.context import Context
from llmc.errors import BadData, Usage
from llmc.tokens.ids import parse_id, read_ids
from llmc.tokens.tokenizer import load_tokenizer
from llmc.train.folder import newest_tokenizer


def decode(
    context: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="IDS", help="Token ids. Default: from stdin.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="gpt2|byte|FILE", help="Default: that of the newest run, else dataset."
        ),
    ] = None,
) -> None:
    """Turn token ids into text."""
    ctx: Context = context.obj
    if tokenizer is not None:
        chosen = load_tokenizer(tokenizer)
    else:
        chosen = newest_tokenizer(ctx.workspace, ctx.ui)
    if not ids and sys.stdin.isatty():
        ctx.ui.note("reading token ids from the terminal; Ctrl-D ends them")
    written = bytearray()  # for --json; otherwise the last group
    count = 0
    for group in [_parsed(ids)] if ids else read_ids(sys.stdin.fileno()):
        data = chosen.detokenize(group)
        count += len(group)
        if ctx.ui.json:
            written += data
        else:
            written = bytearray(data or written)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    shown = not ctx.ui.quiet and not ctx.ui.json and sys.stdout.isatty()
    if shown and not written.endswith(b"\n"):
        sys.stderr.write("\n")
    text = written.decode(errors="replace")
    ctx.ui.result({"text": text, "tokens": count, "tokenizer": chosen.name})
    ctx.ui.next("llmc sample --decode")


def _parsed(words: list[str]) -> list[int]:
    try:
        return [*map(parse_id, words)]
    except BadData as error:
        raise Usage(str(error)) from error
