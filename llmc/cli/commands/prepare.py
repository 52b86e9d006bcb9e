"""``llmc prepare``: everything before training, in order."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from llmc.cli.commands.tokenize import summary
from llmc.cli.context import Context
from llmc.cli.options import SourceOption, argument, option
from llmc.cli.tokenizing import options_of, with_tokenizing
from llmc.config import DEFAULT_BUDGET
from llmc.fetch.registry import FETCHED, STDLIB
from llmc.train import prepare as stages
from llmc.weights.checkpoint import is_trained

Inputs = Annotated[
    list[str],
    argument(
        "NAME|PATH",
        "tinyshakespeare, tinystories, stdlib; or what 'llmc tokenize' reads; or the folder of a "
        "dataset, to complete it.",
    ),
]
Tokenizer = Annotated[
    str | None,
    option(
        "Default: the model's; without --model one that fits the text; for stdlib its preset's.",
        "gpt2|byte|bpe:N|auto|NAME|PATH",
    ),
]
Model = Annotated[
    str | None,
    option(
        "Weights to start from. Default: random ones, of a shape that training chooses; "
        "gpt2 for tinyshakespeare and tinystories, and for any text once its weights are there.",
        "gpt2|RUN|FILE|random[:PRESET]",
    ),
]


@with_tokenizing
def prepare(
    context: typer.Context,
    *,
    inputs: Inputs,
    tokenizer: Tokenizer = None,
    model: Model = None,
    source: SourceOption = None,
    **given: Any,
) -> None:
    """Fetch and tokenize a text and build the engine."""
    ctx: Context = context.obj
    options = options_of({"tokenizer": tokenizer, **given})
    done = stages.prepare(
        ctx.workspace, inputs, options=options, model=model, source=source, report=ctx.ui
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
            "model": str(done.model) if done.model is not None else None,
            "binary": str(done.binary),
        }
    )
    settings = ["--config", done.config] if done.config is not None else []
    settings += ["--for", DEFAULT_BUDGET] if _is_chosen(done) else []
    if made.folder.resolve().parent != ctx.workspace.data.resolve():
        settings += ["--data", ctx.workspace.shown(made.folder)]
    after = "llmc sample --decode" if made.tokenizer.template is None else "llmc chat"
    ctx.ui.next(shlex.join(["llmc", "train", *settings]), after)


def _is_chosen(done: stages.Prepared) -> bool:
    """Return whether the settings are best chosen: for a new model, or to finetune on own text."""
    if done.model is None:
        return True
    has_defaults = done.config is not None or done.manifest.dataset in (*FETCHED, STDLIB)
    return not has_defaults and is_trained(done.model)
