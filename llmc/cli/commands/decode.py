"""``llmc decode``: turn token ids into text, as they arrive."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from llmc.cli.context import Context
from llmc.cli.options import argument, option
from llmc.errors import BadData, Usage
from llmc.paths import CHECKPOINT
from llmc.tokens.tokenizer_files import decoding_tokenizer
from llmc.train.folder import newest_tokenizer

CHUNK = 1 << 16


def decode(
    context: typer.Context,
    ids: Annotated[list[str] | None, argument("IDS", "Token ids. Default: from stdin.")] = None,
    tokenizer: Annotated[
        str | None, option("Default: that of the newest run, else dataset.", "gpt2|byte|FILE")
    ] = None,
) -> None:
    """Turn token ids into text."""
    ctx: Context = context.obj
    if tokenizer is not None:
        chosen = decoding_tokenizer(tokenizer)
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
    if any(ctx.workspace.runs.glob(f"*/{CHECKPOINT}")):
        ctx.ui.next("llmc sample --decode")


def _parsed(words: list[str]) -> list[int]:
    try:
        return [*map(parse_id, words)]
    except BadData as error:
        raise Usage(str(error)) from error


def parse_id(word: str) -> int:
    """Return the token id that ``word`` spells.

    Raises:
        BadData: it is not a whole number in ASCII digits.
    """
    if word.isascii() and word.isdecimal():
        return int(word)
    raise BadData(
        f"'{word[:40]}' is not a token id: give whole numbers, such as 'llmc sample' prints"
    )


def read_ids(file: int) -> Iterator[list[int]]:
    """Yield the ids on a file descriptor in groups, each group as soon as it has arrived.

    Raises:
        BadData: a word is not a token id.
    """
    rest = b""
    while chunk := os.read(file, CHUNK):
        # The last word may continue in the next chunk.
        whole, rest = split_at_last_space(rest + chunk)
        if words := whole.decode(errors="replace").split():
            yield [*map(parse_id, words)]
    if words := rest.decode(errors="replace").split():
        yield [*map(parse_id, words)]


def split_at_last_space(data: bytes) -> tuple[bytes, bytes]:
    """Return ``data`` up to its last whitespace, that included, and the word after it."""
    end = 1 + max(data.rfind(space) for space in (b" ", b"\n", b"\t", b"\r"))
    return data[:end], data[end:]
