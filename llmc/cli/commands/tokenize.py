"""``llmc tokenize``: turn text into token files with a manifest."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from llmc.cli.context import Context
from llmc.cli.options import argument
from llmc.cli.tokenizing import options_of, with_tokenizing
from llmc.tokens import dataset
from llmc.tokens.manifest import Manifest
from llmc.train.match import SMALL, model_for

Inputs = Annotated[
    list[str],
    argument(
        "INPUT",
        "A dataset (tinyshakespeare, tinystories, stdlib); or files, folders, patterns, "
        "URLs, hf:OWNER/NAME[:SPLIT[:COLUMN]], and - for stdin.",
    ),
]


@with_tokenizing
def tokenize(context: typer.Context, *, inputs: Inputs, **given: Any) -> None:
    """Turn text into token files to train on.

    An interrupted call resumes after its finished shards when you run it again.
    """
    ctx: Context = context.obj
    made = dataset.tokenize(ctx.workspace, inputs, options_of(given), report=ctx.ui)
    show(ctx, made.manifest)


def show(ctx: Context, made: Manifest) -> None:
    """Print what was made, and the command that comes next."""
    ctx.ui.note(summary(ctx, made))
    splits = {"train_tokens": made.train.tokens, "val_tokens": made.val.tokens}
    ctx.ui.result({**made.fields(), **splits, "folder": str(made.folder)})
    if made.part is not None:
        words = ["tokenize", "--merge", ctx.workspace.shown(made.folder.parent)]
    elif model_for(ctx.workspace, made) is not None:
        words = ["train", "--data", ctx.workspace.shown(made.folder)]
    else:
        words = ["prepare", ctx.workspace.shown(made.folder), "--model", f"random:{SMALL}"]
    ctx.ui.next(shlex.join(["llmc", *words]))


def summary(ctx: Context, made: Manifest) -> str:
    """Return a sentence on the size of a dataset or a part of one."""
    shards = len(made.train.shards)
    files = f" in {shards} shards" if shards > 1 else ""
    counted = f"{ctx.workspace.shown(made.folder)}: {made.train.tokens:,} tokens"
    if made.part is not None:
        return f"{counted}{files}, part {made.part.index} of {made.part.of} of {made.dataset}"
    return f"{counted} to train on{files}, {made.val.tokens:,} to validate on"
