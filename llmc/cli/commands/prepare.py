"""``llmc prepare``: everything before training, in order, skipping what is there and valid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llmc.cli.commands.tokenize import summary
from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.config import load_preset, overridden
from llmc.engine.build import ensure_native
from llmc.errors import LlmcError, Usage
from llmc.fetch.named import fetch_named
from llmc.fetch.registry import FETCHED, STDLIB
from llmc.tokens.dataset import TokenizeOptions, find_tokenized, tokenize
from llmc.tokens.manifest import Manifest
from llmc.tokens.prepared import record_prepared
from llmc.train.start import Data, check_match
from llmc.weights.checkpoint import CheckpointHeader, read_header, verify_checksum
from llmc.weights.export import export_weights
from llmc.weights.sources import PUBLISHED


@dataclass(frozen=True)
class Recipe:
    """What a dataset is prepared with unless flags say otherwise."""

    tokenizer: str = "gpt2"
    model: str = "gpt2"
    config: str | None = None  # the preset that `llmc train` is best run with


def recipe_of(inputs: list[str]) -> Recipe:
    """Return the recipe of a dataset: llm.c's, or for the standard library one from scratch."""
    if inputs == [STDLIB]:
        preset = load_preset("python-stdlib")
        return Recipe(preset.tokenizer or "gpt2", f"random:{preset.name}", preset.name)
    return Recipe()


def prepare(
    ctx: typer.Context,
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|PATH",
            help="tinyshakespeare, tinystories, stdlib; or files, folders and glob patterns.",
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="gpt2|byte|bpe:N|NAME|FILE",
            help="Default: gpt2; for stdlib its preset's bpe.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="gpt2|FILE|random[:PRESET]",
            help="Weights to start from. Default: gpt2; for stdlib a small random model.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="PATH|URL", help="A local copy or a mirror of the dataset NAME."),
    ] = None,
) -> None:
    """Fetch and tokenize a text and build the engine."""
    here: Context = ctx.obj
    recipe = recipe_of(inputs)
    chosen_tokenizer, chosen_model = tokenizer or recipe.tokenizer, model or recipe.model
    if tokenizer is None:
        here.ui.note(f"tokenizer: {chosen_tokenizer} (the default; --tokenizer names another)")
    if model is None:
        here.ui.note(f"model: {chosen_model} (the default; --model names another)")
    if chosen_model in PUBLISHED and chosen_tokenizer != "gpt2":
        raise Usage(
            f"{chosen_model}'s weights know GPT-2's tokens only, not {chosen_tokenizer}'s: "
            "choose another --model, such as random:gpt2-124m, or --tokenizer gpt2"
        )
    manifest = _data(here, inputs, chosen_tokenizer, source)
    # One JSON object: the stages' own results stay unsaid.
    silent = Context(here.workspace, Ui(quiet=here.ui.quiet))
    weights = _model(silent, chosen_model, manifest)
    data = Data(manifest.dataset, manifest.train_path, manifest.val_path, manifest)
    check_match(here.workspace, data, weights, read_header(weights))
    record_prepared(here.workspace, manifest.folder, weights)
    binary = ensure_native(report=here.ui)
    here.ui.note("ready to train")
    here.ui.result(
        {
            "dataset": manifest.dataset,
            "folder": str(manifest.folder),
            "train_tokens": manifest.train.tokens,
            "val_tokens": manifest.val.tokens,
            "tokenizer": manifest.tokenizer.name,
            "model": str(weights),
            "binary": str(binary),
        }
    )
    settings = f" --config {recipe.config}" if recipe.config is not None else ""
    here.ui.next(f"llmc train{settings}", "llmc sample --decode")


def _data(here: Context, inputs: list[str], tokenizer: str, source: str | None) -> Manifest:
    """Fetch and tokenize, unless that is done.

    Raises:
        LlmcError: a stage failed.
    """
    names = [name for name in inputs if name in FETCHED or name == STDLIB]
    if source is not None and not names:
        raise Usage(
            f"--source is a copy of a named dataset, and {inputs[0]} is a path: leave it out"
        )
    for name in names:
        fetch_named(here.workspace, name, source=source, report=here.ui)
    made = find_tokenized(here.workspace, inputs, tokenizer)
    if made is not None:
        here.ui.note(f"{here.workspace.shown(made.folder)} is tokenized and whole")
        return made
    options = TokenizeOptions(tokenizer=tokenizer)
    made = tokenize(here.workspace, inputs, options, report=here.ui).manifest
    here.ui.note(summary(here, made))
    return made


def _model(here: Context, source: str, manifest: Manifest) -> Path:
    """Export the weights that ``source`` names, unless that is done; return the checkpoint.

    Raises:
        LlmcError: a stage failed.
    """
    if Path(source).suffix == ".bin":
        read_header(Path(source))
        return Path(source)
    kind, _, preset = source.partition(":")
    fingerprint = bytes.fromhex(manifest.tokenizer.fingerprint)
    if kind == "random":
        recipe = load_preset(preset or "gpt2-124m")
        overrides = {"vocab_size": manifest.tokenizer.vocab_size}
        out = here.workspace.models / f"{recipe.name}-{manifest.dataset}.bin"
        wanted = (overridden(recipe.model, overrides), fingerprint)
        if (header := _whole(out)) is not None and (header.config, header.tokenizer) == wanted:
            here.ui.note(f"{here.workspace.shown(out)} is exported and whole")
            return out
        return export_weights(
            here.workspace,
            source,
            out=out,
            shape=overrides,
            fingerprint=fingerprint,
            report=here.ui,
        ).path
    if source in PUBLISHED:
        fetch_named(here.workspace, source, report=here.ui)
        out = here.workspace.models / f"{source}.bin"
        if _whole(out) is not None:
            here.ui.note(f"{here.workspace.shown(out)} is exported and whole")
            return out
    return export_weights(here.workspace, source, report=here.ui).path


def _whole(path: Path) -> CheckpointHeader | None:
    """Return the header of a checkpoint that is there and undamaged, or None."""
    try:
        header = read_header(path)
        verify_checksum(path, header)
    except LlmcError:
        return None
    return header
