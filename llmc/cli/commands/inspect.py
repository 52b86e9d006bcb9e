"""``llmc inspect``: describe a file or a folder and what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmc.cli.context import Context
from llmc.cli.options import argument, flag, option
from llmc.cli.views.inspection import show
from llmc.errors import BadData


def inspect(
    context: typer.Context,
    path: Annotated[
        Path | None,
        argument("FILE|DIR", "The file or folder. Default: the workspace."),
    ] = None,
    *,
    tensors: Annotated[
        bool, flag("--tensors", "Show mean, std, min, max and NaNs of every tensor.")
    ] = False,
    tokenizer: Annotated[
        str | None,
        option("Decode tokens with this tokenizer. Default: the recorded one.", "gpt2|byte|FILE"),
    ] = None,
    dtype: Annotated[
        Literal["uint16", "int32", "uint32"] | None,
        option(
            "Type of the tokens in a file without a header: uint16 (nanoGPT) or int32 "
            "(llm.c's first)."
        ),
    ] = None,
    full: Annotated[
        bool, flag("--full", "Read everything. Default: a sample of files over 8 GB.")
    ] = False,
) -> None:
    """Describe a file or folder and report what is wrong with it.

    Knows token files, checkpoints, training states, debug states, tokenizers, safetensors and
    GGUF files; the folders of datasets, runs and Hugging Face models; workspaces. The kind is
    detected from the content, not from the name. The exit code is 1 if something is broken.
    """
    from llmc.check.inspect.describe import describe  # NumPy, which --help would wait for
    from llmc.check.inspect.reading import Options
    from llmc.tokens.tokenizer_files import decoding_tokenizer

    ctx: Context = context.obj
    chosen = decoding_tokenizer(tokenizer) if tokenizer is not None else None
    options = Options(ctx.workspace, tensors, dtype, chosen, full, ctx.ui)
    made = describe(path if path is not None else ctx.workspace.root, options)
    if ctx.ui.json:
        ctx.ui.result(made.as_json())
    else:
        show(made, sys.stdout)
    if problems := made.all_problems():
        more = f" (and {len(problems) - 1} more, see above)" if len(problems) > 1 else ""
        raise BadData(f"{made.path}: {problems[0]}{more}")
    ctx.ui.next(*made.hints)
