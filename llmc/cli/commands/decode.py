"""``llmc decode``: token ids to text, as they arrive."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer

from llmc.cli.context import Context
from llmc.errors import BadData, MissingOutput, Usage
from llmc.paths import CHECKPOINT
from llmc.tokens.manifest import load_manifest
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer, recorded_tokenizer
from llmc.train.folder import find_run
from llmc.weights.lookup import tokenizer_of

CHUNK = 1 << 16


def decode(
    ctx: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="IDS", help="Token ids; none: stdin.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="gpt2|byte|FILE", help="That of the newest run or dataset unless named."
        ),
    ] = None,
) -> None:
    """Turn token ids into text."""
    here: Context = ctx.obj
    chosen = load_tokenizer(tokenizer) if tokenizer is not None else default_tokenizer(here)
    words = iter([ids]) if ids else _words(here)
    decoded = bytearray()
    count = 0
    last = b""
    for group in words:
        numbers = [_number(word, from_flags=bool(ids)) for word in group]
        data = chosen.detokenize(numbers)
        count += len(numbers)
        last = data[-1:] or last
        if here.ui.json:
            decoded += data
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    if not here.ui.quiet and not here.ui.json and last != b"\n" and sys.stdout.isatty():
        sys.stderr.write("\n")
    text = decoded.decode(errors="replace")
    here.ui.result({"text": text, "tokens": count, "tokenizer": chosen.name})
    here.ui.next("llmc sample --decode")


def default_tokenizer(here: Context) -> Tokenizer:
    """Return the newest run's tokenizer, else the newest dataset's, else GPT-2's, saying which.

    Raises:
        BadData: what the run or the dataset recorded is gone or changed.
    """
    with suppress(MissingOutput):
        run = find_run(here.workspace, None)
        recorded = recorded_tokenizer(run)
        if recorded is None:
            with suppress(BadData):  # a damaged checkpoint names none
                recorded = tokenizer_of(here.workspace, run / CHECKPOINT)
        if recorded is not None:
            here.ui.note(f"tokenizer: {recorded.name}, of the run {here.workspace.shown(run)}")
            return recorded
    try:
        manifest = load_manifest(here.workspace.newest_dataset())
    except MissingOutput:
        here.ui.note("tokenizer: gpt2 (there is no run and no dataset to take one from)")
        return load_tokenizer("gpt2")
    chosen = manifest.load_tokenizer()
    shown = here.workspace.shown(manifest.folder)
    here.ui.note(f"tokenizer: {chosen.name}, of the dataset {shown}")
    return chosen


def _words(here: Context) -> Iterator[list[str]]:
    """Yield the words on stdin in groups, each group as soon as it has arrived."""
    if sys.stdin.isatty():
        here.ui.note("reading token ids from the terminal; Ctrl-D ends them")
    rest = b""
    while chunk := os.read(sys.stdin.fileno(), CHUNK):
        # The last word may go on in the next chunk.
        whole, space, tail = _rpartition_space(rest + chunk)
        rest = tail
        if space and (words := whole.decode(errors="replace").split()):
            yield words
    if words := rest.decode(errors="replace").split():
        yield words


def _rpartition_space(data: bytes) -> tuple[bytes, bool, bytes]:
    end = max(data.rfind(space) for space in (b" ", b"\n", b"\t", b"\r"))
    return data[: end + 1], end >= 0, data[end + 1 :]


def _number(word: str, *, from_flags: bool) -> int:
    """Return a token id.

    Raises:
        Usage: an argument is not a number.
        BadData: a word on stdin is not a number.
    """
    if word.isascii() and word.isdecimal():
        return int(word)
    message = f"'{word[:40]}' is not a token id: give whole numbers, such as 'llmc sample' prints"
    raise Usage(message) if from_flags else BadData(message)
