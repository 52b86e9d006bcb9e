"""``llmc prepare``: everything before training, in order."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from llmc.cli.commands.tokenize import summary
from llmc.cli.context import Context
from llmc.cli.options import SourceOption, argument, option
from llmc.train import prepare as stages

Inputs = Annotated[
    list[str],
    argument("NAME|PATH", "tinyshakespeare, tinystories, stdlib; or files, folders, patterns."),
]
Tokenizer = Annotated[
    str | None,
    option("Default: the model's; for stdlib its preset's bpe.", "gpt2|byte|bpe:N|NAME|PATH"),
]
Model = Annotated[
    str | None,
    option(
        "Weights to start from. Default: gpt2; for stdlib a small random model.",
        "gpt2|FILE|random[:PRESET]",
    ),
]


def prepare(
    context: typer.Context,
    *,
    inputs: Inputs,
    tokenizer: Tokenizer = None,
    model: Model = None,
    source: SourceOption = None,
) -> None:
    """Fetch and tokenize a text and build the engine."""
    ctx: Context = context.obj
    done = stages.prepare(
        ctx.workspace, inputs, tokenizer=tokenizer, model=model, source=source, report=ctx.ui
    )
    made = done.manifest
    ctx.ui.note(summary(ctx, made))
    ctx.ui.note("ready to train")
    ctx.ui.result(
        {
            "dataset": made.dataset,
            "folder": str(made.folder),
            "train_tokens": made.train.tokens,
            "val_tokens": made.val.tokens,
            "tokenizer": made.tokenizer.name,
            "model": str(done.model),
            "binary": str(done.binary),
        }
    )
    settings = ["--config", done.config] if done.config is not None else []
    ctx.ui.next(shlex.join(["llmc", "train", *settings]), "llmc sample --decode")
