"""``llmc export-weights``: weights from elsewhere, random or a run's, in a format to choose."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmc.cli.context import Context
from llmc.config import load_preset, overridden
from llmc.engine.build import ensure_native
from llmc.engine.process import Engine
from llmc.errors import BadData, MissingOutput, Usage
from llmc.model import ModelConfig, parameter_count
from llmc.weights.base import Origin
from llmc.weights.export import (
    TARGETS,
    Source,
    check_target,
    find_source,
    target_bytes,
    write_gguf_file,
    write_hf,
    write_llm_c,
    write_llmc,
    written_files,
)
from llmc.weights.lookup import TOKENIZER_SUFFIX
from llmc.weights.random import MOST_SEED, RandomModel
from llmc.weights.tokenizer import (
    carried_tokenizer,
    carries_tokenizer,
    source_fingerprint,
    source_tokenizer,
    vocabulary_of,
)

if TYPE_CHECKING:
    from llmc.tokens.tokenizer import Tokenizer

DEFAULT_PRESET = "gpt2-124m"
INT32_MAX = 2**31 - 1
STATE_BATCH, STATE_TOKENS = 4, 64  # llm.c's own debug state has 4 rows of 64 tokens


def export_weights(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE|NAME",
            help="A run, by name or folder; a Hugging Face folder; a file: llm.c checkpoint, "
            ".safetensors, GGUF, PyTorch's .bin or .pt, nanoGPT's ckpt.pt; gpt2, gpt2-medium, "
            "gpt2-large or gpt2-xl (after llmc fetch); or random[:PRESET], by default "
            "random:gpt2-124m.",
        ),
    ],
    *,
    to: Annotated[
        Literal["llmc", "llm.c", "hf", "gguf"],
        typer.Option(
            help="llmc: a checkpoint to train from. llm.c: a folder with the files its programs "
            "open. hf: a folder for Hugging Face's transformers. gguf: a file for llama.cpp.",
        ),
    ] = "llmc",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file or folder. Default: models/NAME.bin, NAME-llm.c, NAME-hf or NAME.gguf."
        ),
    ] = None,
    dtype: Annotated[
        Literal["fp32", "bf16", "f16", "q8_0"],
        typer.Option(
            help="How weights are stored. llmc and llm.c: fp32 or bf16; hf: f16 too; gguf: all."
        ),
    ] = "fp32",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="gpt2|byte|FILE",
            help="What the weights were trained with. Default: what is recorded with them.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --to llm.c: tokens whose first batch makes the debug_state file, computed "
            "by the engine.",
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Of a random model.")] = None,
    heads: Annotated[int | None, typer.Option(help="Of a random model.")] = None,
    channels: Annotated[int | None, typer.Option(help="Of a random model.")] = None,
    context: Annotated[int | None, typer.Option(help="Positions of a random model.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Tokens of a random model.")] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=MOST_SEED, help="Of a random model; same seed, same weights."),
    ] = 1337,
) -> None:
    """Write weights as a checkpoint to train from, or for another program.

    A file of weights without a config.json beside it is taken to have heads of 64 channels, as
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
    path = export(
        here,
        source,
        to=to,
        out=out,
        dtype=dtype,
        overrides=overrides,
        seed=seed,
        tokenizer_spec=tokenizer,
        data=data,
    )
    if to == "llmc":
        here.ui.next(f"llmc train --model {here.workspace.shown(path)}")


def export(
    here: Context,
    source: str,
    *,
    to: str = "llmc",
    out: Path | None = None,
    dtype: str = "fp32",
    overrides: Mapping[str, int | None] | None = None,
    seed: int = 1337,
    tokenizer: bytes | None = None,
    tokenizer_spec: str | None = None,
    data: Path | None = None,
) -> Path:
    """Write the weights of ``source`` and return the path of the file or folder.

    Args:
        here: the workspace, and the voice that tells what was chosen.
        source: as the command takes it.
        to: a key of ``TARGETS``.
        out: the file or folder; by default in ``models/``, named after the source.
        dtype: how the weights are stored; which ones a format takes, ``TARGETS`` says.
        overrides: dimensions of a random model, named as in ``ModelConfig``; None: the preset's.
        seed: of a random model.
        tokenizer: the 32-byte fingerprint of the tokenizer that the model is for, if known.
            Published weights get that of GPT-2's tokenizer by themselves.
        tokenizer_spec: the tokenizer that the model is for, by name or file.
        data: a token file whose first batch makes llm.c's debug state.

    Raises:
        Usage: the source is unknown, flags do not go together, or the place holds other things.
        MissingOutput: the published weights have not been fetched.
        BadData: the weights are damaged or not GPT-2's, their tokenizer is not known or the format
            cannot hold it, or the disk is full.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    if data is not None and to != "llm.c":
        raise Usage(f"--data makes llm.c's debug state: leave it out with --to {to}")
    found = _found(here, source, given, seed)
    weights = found.weights
    check_target(to, dtype, weights.config)
    path = out or here.workspace.models / f"{found.name}{TARGETS[to].ending}"
    if _is_source(path, weights.path):
        raise Usage(f"{path} is the source itself: name another place with --out")
    _check_space(path, target_bytes(to, dtype, weights.config))
    known = _tokenizer(here, found, tokenizer_spec, needed=to != "llmc")
    if known is not None:
        tokenizer = bytes.fromhex(known.fingerprint)
    elif tokenizer is None:
        tokenizer = source_fingerprint(here.workspace, found)
    plan = Plan(found, path, to, dtype, known, replace(weights.origin, tokenizer=tokenizer))
    if to == "llmc":
        write_llmc(path, weights, dtype, plan.origin)
        _keep_tokenizer(here, plan)
    else:
        _write_elsewhere(here, plan, data)
    _tell(here, plan, source)
    return path


def _is_source(path: Path, weights: Path) -> bool:
    """Return whether a place is the weights' own file or folder."""
    if not (path.exists() and weights.exists()):
        return False
    return path.samefile(weights.parent if path.is_dir() else weights)


@dataclass(frozen=True)
class Plan:
    """An export: which weights, where to, how, and the tokenizer and origin that go along."""

    source: Source
    path: Path
    to: str
    dtype: str
    tokenizer: Tokenizer | None
    origin: Origin


def _found(here: Context, source: str, given: Mapping[str, int], seed: int) -> Source:
    """Return the weights that the source names, random ones included.

    Raises:
        LlmcError: there are none, they are damaged, or dimensions are given for them.
    """
    kind, _, preset = source.partition(":")
    if kind == "random":
        name, config = _random_model(preset or DEFAULT_PRESET, given)
        return Source(name, RandomModel(config, seed))
    if given:
        flag = next(iter(given)).replace("_", "-")
        raise Usage(f"--{flag} shapes a random model; {source} has a shape of its own")
    found = find_source(here.workspace, source)
    for note in found.weights.notes:
        here.ui.note(f"{source}: {note}")
    return found


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


def _tokenizer(
    here: Context, source: Source, spec: str | None, *, needed: bool
) -> Tokenizer | None:
    """Return the tokenizer named, or where the format carries one, that of the weights.

    Raises:
        Usage: there is no tokenizer of that name.
        BadData: it knows more tokens than the model.
    """
    if spec is not None:
        from llmc.tokens.tokenizer import load_tokenizer

        found: Tokenizer | None = load_tokenizer(spec)
    else:
        found = source_tokenizer(here.workspace, source) if needed else None
    size = source.weights.config.vocab_size
    if found is not None and found.vocab_size > size:
        raise BadData(
            f"the tokenizer {found.name} has {found.vocab_size:,} tokens, the model {size:,}: "
            "name the one it was trained with (--tokenizer)"
        )
    return found


def _write_elsewhere(here: Context, plan: Plan, data: Path | None) -> None:
    """Write what is for other programs, and say what it lacks.

    Raises:
        LlmcError: it cannot be written.
    """
    weights, path, dtype = plan.source.weights, plan.path, plan.dtype
    vocabulary = vocabulary_of(plan.tokenizer) if plan.tokenizer is not None else None
    if vocabulary is None:
        unknown = f"the tokenizer of {plan.source.name} is not known: name it with --tokenizer"
        if plan.to == "gguf":
            raise BadData(f"{unknown}; llama.cpp opens no model without one")
        here.ui.note(f"{unknown}; without it, {path.name} has none")
    if plan.to == "llm.c":
        debug_state = _debug_state(here, data, weights.config) if data is not None else None
        write_llm_c(path, weights, dtype, vocabulary, debug_state)
    elif plan.to == "hf":
        write_hf(path, weights, dtype, vocabulary, plan.origin)
    elif vocabulary is not None:
        name = plan.source.name
        write_gguf_file(path, weights, dtype, vocabulary, name=name, origin=plan.origin)


def _keep_tokenizer(here: Context, plan: Plan) -> None:
    """Put the tokenizer that came with the weights beside their checkpoint, if it is no common one.

    Raises:
        BadData: it is damaged, or the place cannot be written.
    """
    from llmc.tokens.tokenizer import save_tokenizer

    own = plan.tokenizer or carried_tokenizer(plan.source)
    if own is None:
        if carries_tokenizer(plan.source):
            here.ui.note(
                f"the tokenizer of {plan.source.name} is none that llmc can hold: left out"
            )
        return
    if own.name != "bpe" or plan.origin.tokenizer != bytes.fromhex(own.fingerprint):
        return
    place = plan.path.with_suffix(TOKENIZER_SUFFIX)
    save_tokenizer(own, place)
    here.ui.note(f"wrote {here.workspace.shown(place)}, its tokenizer")


def _debug_state(here: Context, data: Path, config: ModelConfig) -> Callable[[Path, Path], None]:
    """Return what writes the debug state of a checkpoint.

    Raises:
        MissingOutput: there is no such token file.
        CompileFailed: there is no engine.
    """
    if not data.is_file():
        raise MissingOutput(f"there is no file {data}: make token files with 'llmc tokenize PATH'")
    binary = ensure_native(report=here.ui)
    T = min(STATE_TOKENS, config.context)

    def write(checkpoint: Path, state: Path) -> None:
        files = ["--model", str(checkpoint), "--data", str(data), "--out", str(state)]
        shape = ["--batch-size", str(STATE_BATCH), "--seq-len", str(T)]
        with Engine([str(binary), "debug-state", *files, *shape]) as engine:
            for _ in engine:
                pass

    return write


def _tell(here: Context, plan: Plan, typed: str) -> None:
    """Say what was written."""
    config, path = plan.source.weights.config, plan.path
    count = parameter_count(config)
    size = sum(file.stat().st_size for file in written_files(path, plan.to))
    here.ui.note(
        f"{typed}: {config.layers} layers, {config.heads} heads, {config.channels} channels, "
        f"context {config.context}, vocabulary {config.vocab_size}: {count:,} parameters"
    )
    here.ui.note(f"wrote {here.workspace.shown(path)} ({plan.dtype}, {size:,} bytes)")
    here.ui.result(
        {
            "model": str(path),
            "source": typed,
            "to": plan.to,
            "dtype": plan.dtype,
            "parameters": count,
            "bytes": size,
            "tokenizer": plan.origin.tokenizer.hex() if plan.origin.tokenizer else None,
        }
    )


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
