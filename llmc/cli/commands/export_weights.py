"""``llmc export-weights``: write weights in another format."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmc.cli.context import Context
from llmc.cli.options import LAST_HELP, argument, in_group
from llmc.cli.tokenizing import with_pattern
from llmc.errors import BadData, MissingOutput
from llmc.model import DIMENSIONS
from llmc.tokens.manifest import load_manifest
from llmc.train import start
from llmc.weights.checkpoint import read_header
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
Layers = Annotated[int | None, of_random("Layers.", "N")]
Heads = Annotated[int | None, of_random("Heads.", "N")]
Channels = Annotated[int | None, of_random("Channels.", "N")]
Positions = Annotated[int | None, of_random("Positions.", "N")]
VocabSize = Annotated[int | None, of_random("Vocabulary.", "N")]
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
    last: Last = False,
    layers: Layers = None,
    heads: Heads = None,
    channels: Channels = None,
    context: Positions = None,
    vocab_size: VocabSize = None,
    seed: Seed = 1337,
) -> None:
    """Write weights to train from, or for another program.

    For a file without a config.json beside it, heads of 64 channels are assumed, as in every GPT-2
    that OpenAI published.
    """
    ctx: Context = typer_context.obj
    dimensions = (layers, heads, channels, context, vocab_size)
    shape = zip(DIMENSIONS, dimensions, strict=True)
    export = write_export(
        ctx.workspace,
        source,
        to=to,
        out=out,
        dtype=dtype,
        shape=dict(shape),
        seed=seed,
        tokenizer=with_pattern(tokenizer, pattern),
        data=data,
        last=last,
        report=ctx.ui,
    )
    fingerprint = export.origin.tokenizer
    ctx.ui.result(
        {
            "model": str(export.path),
            "source": source,
            "to": to,
            "dtype": dtype,
            "parameters": export.parameters,
            "bytes": export.bytes,
            "tokenizer": fingerprint.hex() if fingerprint else None,
        }
    )
    if to == "llmc":
        kind, _, preset = source.partition(":")
        recipe = preset if kind == "random" and not any(dimensions[:-1]) else ""
        ctx.ui.next(shlex.join(_next_words(ctx, export.path, recipe)))


def _next_words(ctx: Context, model: Path, recipe: str) -> list[str]:
    """Return the command that trains the weights on the newest dataset, or that looks at them."""
    shown = ctx.workspace.shown(model)
    try:
        newest = load_manifest(ctx.workspace.newest_dataset())
        data = start.Data(newest.dataset, newest.train_path, None, newest)
        start.check_match(ctx.workspace, data, model, read_header(model))
    except MissingOutput:
        pass  # train says how to make a dataset
    except BadData as error:
        ctx.ui.note(f"they do not fit the dataset that was prepared last: {error}")
        return ["llmc", "inspect", shown]
    return ["llmc", "train", "--model", shown, *(["--config", recipe] if recipe else [])]
