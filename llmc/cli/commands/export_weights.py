"""``llmc export-weights``: write weights in another format."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmc.cli.context import Context
from llmc.cli.options import LAST_HELP, argument, in_group
from llmc.cli.tokenizing import with_pattern
from llmc.errors import Usage
from llmc.model import DIMENSIONS
from llmc.train.card import describe, said_of
from llmc.weights.export import CARD, Export
from llmc.weights.export import export_weights as write_export
from llmc.weights.random import MOST_SEED

of_random = in_group("Random model")
of_output = in_group("Output")

Source = Annotated[
    str,
    argument(
        "RUN|FILE|NAME",
        "A run, by name or folder; a Hugging Face folder; a file: llm.c checkpoint, "
        ".safetensors, GGUF, PyTorch's .bin or .pt, nanoGPT's ckpt.pt; gpt2, gpt2-medium, "
        "gpt2-large or gpt2-xl (after llmc fetch); or random[:PRESET], by default "
        "random:gpt2-124m.",
    ),
]
To = Annotated[
    Literal["llmc", "llm.c", "hf", "gguf"],
    of_output(
        "Format. llmc: a checkpoint to train from. llm.c: a folder with the files its "
        "programs open. hf: a folder for Hugging Face's transformers. gguf: a file for llama.cpp."
    ),
]
Out = Annotated[
    Path | None,
    of_output(
        "File or folder. Default: models/NAME.bin, NAME-llm.c, NAME-hf or NAME.gguf.", "FILE"
    ),
]
Dtype = Annotated[
    Literal["fp32", "bf16", "f16", "q8_0"],
    of_output("Type of the stored weights. llmc and llm.c: fp32 or bf16; hf: f16 too; gguf: all."),
]
Tokenizer = Annotated[
    str | None,
    of_output(
        "Tokenizer the weights were trained with. Default: the recorded one.", "gpt2|byte|FILE"
    ),
]
AddTokens = Annotated[
    list[str] | None,
    of_output(
        "Add a special token, with a row in the model: the mean of its rows. Repeatable. The "
        "default name ends with -chatml where <|im_start|> and <|im_end|> are added, else with "
        "-grown.",
        "TOKEN",
    ),
]
License = Annotated[
    str | None,
    of_output(
        "With --to hf: the licence that the model card names, as the hub does: apache-2.0, mit, "
        "cc-by-4.0 …",
        "ID",
    ),
]
Language = Annotated[
    str | None,
    of_output("With --to hf: the language of the text, for the model card.", "en|en,de|code"),
]
Last = Annotated[bool, of_output(LAST_HELP, names=("--last",))]
Pattern = Annotated[
    str | None,
    of_output("Split pattern of a FILE.tiktoken that does not say it.", "gpt2|cl100k|o200k|REGEX"),
]
Data = Annotated[
    Path | None,
    of_output(
        "With --to llm.c: a token file; the engine computes the debug_state file from its first "
        "batch.",
        "FILE",
    ),
]
Layers = Annotated[int | None, of_random("Number of layers.", "N")]
Heads = Annotated[
    int | None, of_random("Attention heads. Also for weights that do not record their number.", "N")
]
Channels = Annotated[int | None, of_random("Number of channels.", "N")]
Positions = Annotated[int | None, of_random("Context: the number of positions.", "N")]
VocabSize = Annotated[int | None, of_random("Size of the vocabulary.", "N")]
Seed = Annotated[int, of_random("Random seed; same seed, same weights.", "N", 0, max=MOST_SEED)]


def export_weights(
    typer_context: typer.Context,
    source: Source,
    *,
    to: To = "llmc",
    out: Out = None,
    dtype: Dtype = "fp32",
    tokenizer: Tokenizer = None,
    pattern: Pattern = None,
    data: Data = None,
    license: License = None,
    language: Language = None,
    add_tokens: AddTokens = None,
    last: Last = False,
    layers: Layers = None,
    heads: Heads = None,
    channels: Channels = None,
    context: Positions = None,
    vocab_size: VocabSize = None,
    seed: Seed = 1337,
) -> None:
    """Write weights to train from, or for another program.

    Tensors without a config.json do not say how many heads the model has. Heads of 64 channels are
    assumed, as in every GPT-2 that OpenAI published; --heads names another number.
    """
    ctx: Context = typer_context.obj
    dimensions = (layers, heads, channels, context, vocab_size)
    shape = zip(DIMENSIONS, dimensions, strict=True)
    if to != "hf" and (license is not None or language is not None):
        raise Usage(f"--license and --language are for the model card of --to hf, not of {to}")
    said = said_of(license, language)
    export = write_export(
        ctx.workspace,
        source,
        to=to,
        out=out,
        dtype=dtype,
        shape=dict(shape),
        seed=seed,
        tokenizer=with_pattern(tokenizer, pattern),
        add_tokens=add_tokens or (),
        data=data,
        last=last,
        describe=partial(describe, ctx.workspace, said),
        report=ctx.ui,
    )
    ctx.ui.result(_fields(export, source))
    if to == "llmc":
        kind, _, preset = source.partition(":")
        is_preset = kind == "random" and preset and not any(dimensions[:-1])
        ctx.ui.next(_next(ctx, export, preset if is_preset else ""))
    elif to == "hf":
        _offer_upload(ctx, export, license)


def _fields(export: Export, source: str) -> dict[str, Any]:
    """Return the result, for ``--json``."""
    fingerprint = export.origin.tokenizer
    return {
        "model": str(export.path),
        "source": source,
        "to": export.to,
        "dtype": export.dtype,
        "parameters": export.parameters,
        "bytes": export.bytes,
        "tokenizer": fingerprint.hex() if fingerprint else None,
    }


def _offer_upload(ctx: Context, export: Export, license: str | None) -> None:
    """Print the command that uploads a folder, and what its reader has to fill in."""
    if license is None:
        ctx.ui.note(f"{CARD} names no licence: --license apache-2.0, or another, names one")
    ctx.ui.note("after 'hf auth login', and with your USER and a NAME for the model:")
    ctx.ui.next(shlex.join(["hf", "upload", "USER/NAME", ctx.workspace.shown(export.path)]))


def _next(ctx: Context, export: Export, preset: str) -> str:
    """Return the command that trains a checkpoint, or writes with it where no dataset fits."""
    from llmc.train.match import dataset_for
    from llmc.weights.checkpoint import read_header
    from llmc.weights.tokenizer import tokenizer_of

    shown, header = ctx.workspace.shown(export.path), read_header(export.path)
    if (data := dataset_for(ctx.workspace, header)) is None:
        own = tokenizer_of(ctx.workspace, export.path)
        if own is not None and own.template is not None:
            return shlex.join(["llmc", "chat", shown])
        decode = ["--decode"] if own is not None else []
        return shlex.join(["llmc", "sample", "--model", shown, *decode])
    words = ["llmc", "train", "--model", shown, *(["--config", preset] if preset else [])]
    if data != ctx.workspace.newest_dataset():
        words += ["--data", ctx.workspace.shown(data)]
    return shlex.join(words)
