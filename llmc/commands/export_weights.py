"""``llmc export-weights``: weights from elsewhere, or random ones, as a model checkpoint."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmc.config import ModelConfig, load_preset, nearest, overridden
from llmc.context import Context
from llmc.errors import BadData, LlmcError, MissingOutput, Usage
from llmc.formats.checkpoint import (
    checkpoint_bytes,
    parameter_count,
    tensor_shapes,
    write_checkpoint,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensors = Iterator[tuple[str, NDArray[np.float32]]]

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
DEFAULT_PRESET = "gpt2-124m"
GPT2_VOCAB_SIZE = 50257
RESIDUAL = ("attprojw", "fcprojw")
INT32_MAX = 2**31 - 1


def export_weights(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="gpt2, gpt2-medium, gpt2-large or gpt2-xl (after llmc fetch); a Hugging Face "
            "folder or .safetensors file; or random[:PRESET], by default random:gpt2-124m.",
        ),
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="The checkpoint. Default: models/NAME.bin.")
    ] = None,
    dtype: Annotated[
        Literal["fp32", "bf16"],
        typer.Option(help="fp32 is llm.c's version 3, bf16 its version 5, half the size."),
    ] = "fp32",
    layers: Annotated[int | None, typer.Option(help="Of a random model.")] = None,
    heads: Annotated[int | None, typer.Option(help="Of a random model.")] = None,
    channels: Annotated[int | None, typer.Option(help="Of a random model.")] = None,
    context: Annotated[int | None, typer.Option(help="Positions of a random model.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Tokens of a random model.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of a random model; same seed, same weights.")
    ] = 1337,
) -> None:
    """Write a model checkpoint that training starts from, in llm.c's format.

    A .safetensors file without a config.json beside it is taken to have heads of 64 channels, as
    every GPT-2 that OpenAI published.
    """
    here: Context = ctx.obj
    overrides = {
        "layers": layers,
        "heads": heads,
        "channels": channels,
        "context": context,
        "vocab_size": vocab_size,
    }
    path = export(here, source, out=out, dtype=dtype, overrides=overrides, seed=seed)
    here.ui.next(f"llmc train --model {here.workspace.shown(path)}")


def export(
    here: Context,
    source: str,
    *,
    out: Path | None = None,
    dtype: str = "fp32",
    overrides: Mapping[str, int | None] | None = None,
    seed: int = 1337,
    tokenizer: bytes | None = None,
) -> Path:
    """Write the checkpoint of ``source`` and return its path.

    Args:
        here: the workspace, and the voice that tells what was chosen.
        source: as the command takes it.
        out: the file; by default in ``models/``, named after the source.
        dtype: ``fp32`` or ``bf16``.
        overrides: dimensions of a random model, named as in ``ModelConfig``; None: the preset's.
        seed: of a random model.
        tokenizer: the 32-byte fingerprint of the tokenizer that the model is for, if known.
            Published weights get that of GPT-2's tokenizer by themselves.

    Raises:
        Usage: the source is unknown, or dimensions are given for weights that exist.
        MissingOutput: the published weights have not been fetched.
        BadData: the weights are damaged or not GPT-2's, or the disk is full.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    kind, _, preset = source.partition(":")
    if kind == "random":
        name, model = _random_model(preset or DEFAULT_PRESET, given)
        tensors: Tensors = random_tensors(model, seed)
    else:
        if given:
            flag = next(iter(given)).replace("_", "-")
            raise Usage(f"--{flag} shapes a random model; {source} has a shape of its own")
        from llmc.formats.hf import HuggingFaceModel

        name, folder = _weights(here, source)
        found = HuggingFaceModel(folder)
        model, tensors = found.config, found.tensors()
        tokenizer = tokenizer or _gpt2_fingerprint(model)
    path = out or here.workspace.models / f"{name}.bin"
    size = checkpoint_bytes(model, dtype)
    _check_space(path, size)
    header = write_checkpoint(path, model, tensors, dtype=dtype, tokenizer=tokenizer)
    count = parameter_count(model)
    here.ui.note(
        f"{source}: {model.layers} layers, {model.heads} heads, {model.channels} channels, "
        f"context {model.context}, vocabulary {model.vocab_size}: {count:,} parameters"
    )
    here.ui.note(f"wrote {here.workspace.shown(path)} ({dtype}, {size:,} bytes)")
    here.ui.result(
        {
            "model": str(path),
            "source": source,
            "dtype": dtype,
            "parameters": count,
            "bytes": size,
            "tokenizer": header.tokenizer.hex() if header.tokenizer else None,
        }
    )
    return path


def random_tensors(config: ModelConfig, seed: int) -> Tensors:
    """Yield a model initialised as GPT-2 was, one float32 tensor at a time, in the file's order.

    Matrices are normal with standard deviation 0.02, those that write to the residual stream
    0.02/sqrt(2L), since 2L of them add up there (Radford et al. 2019, section 2.3). Biases are
    zero, the layernorms' weights one. ``wte`` lacks its padding rows.
    """
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(seed))

    def normal(shape: tuple[int, ...], std: float) -> NDArray[np.float32]:
        values = generator.standard_normal(shape, np.float32)
        values *= np.float32(std)
        return values

    for name, padded in tensor_shapes(config).items():
        shape = (config.vocab_size, config.channels) if name == "wte" else padded
        if name.endswith("b"):
            yield name, np.zeros(shape, np.float32)
        elif name.startswith("ln"):
            yield name, np.ones(shape, np.float32)
        else:
            yield (
                name,
                normal(shape, 0.02 / math.sqrt(2 * config.layers if name in RESIDUAL else 1)),
            )


def _random_model(preset: str, given: Mapping[str, int]) -> tuple[str, ModelConfig]:
    """Return the name and shape of a random model.

    Raises:
        Usage: there is no such preset, or the shape is none.
    """
    recipe = load_preset(preset)
    config = overridden(recipe.model, given)
    for key, value in given.items():
        if value > INT32_MAX:
            raise Usage(f"--{key.replace('_', '-')} must be below 2^31, not {value}")
    return f"{recipe.name}-random", config


def _weights(here: Context, source: str) -> tuple[str, Path]:
    """Return the name and place of weights that exist.

    Raises:
        Usage: the source is neither a name nor a path.
        MissingOutput: the published weights have not been fetched.
    """
    if source in PUBLISHED:
        folder = here.workspace.models / source
        if not (folder / "model.safetensors").is_file():
            raise MissingOutput(
                f"no weights in {here.workspace.shown(folder)}: run 'llmc fetch {source}' first"
            )
        return source, folder
    path = Path(source)
    if not path.exists():
        known = [*PUBLISHED, "random"]
        raise Usage(f"no weights '{source}', by name or path{nearest(source, known)}")
    if path.is_file() and path.suffix != ".safetensors":
        raise Usage(f"{path} is not a .safetensors file or a Hugging Face folder")
    return path.resolve().name.removesuffix(".safetensors"), path


def _gpt2_fingerprint(config: ModelConfig) -> bytes | None:
    """Return the fingerprint of GPT-2's tokenizer for a model with its vocabulary, if at hand."""
    if config.vocab_size != GPT2_VOCAB_SIZE:
        return None
    from llmc.tokenizers import load_tokenizer

    try:
        return bytes.fromhex(load_tokenizer("gpt2").fingerprint)
    except LlmcError:
        # The weights are good without: only, train cannot tell whether the data belongs to them.
        return None


def _check_space(path: Path, size: int) -> None:
    """Refuse what cannot fit, before minutes are spent on it.

    Raises:
        BadData: the disk has less room.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BadData(
            f"the model takes {size / 1e9:,.2f} GB, and the disk of {path} has only "
            f"{free / 1e9:,.2f} GB left: free some space or choose another --out"
        )
