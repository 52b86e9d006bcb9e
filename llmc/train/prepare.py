"""Everything before training, in order: fetch, tokenize, export weights, build the engine.

What an earlier call made and is still whole is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmc.config import load_preset, overridden
from llmc.engine.build import ensure_native
from llmc.errors import BadData, LlmcError, Usage
from llmc.fetch.named import fetch_named
from llmc.fetch.registry import FETCHED, STDLIB
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.tokens.dataset import TokenizeOptions, find_tokenized, tokenize
from llmc.tokens.existing import dataset_named
from llmc.tokens.manifest import Manifest, verify
from llmc.tokens.prepared import prepared_model, record_prepared
from llmc.tokens.tokenizer import Tokenizer, bpe_vocab_size, load_tokenizer
from llmc.tokens.tokenizer_json import Unheld
from llmc.train.mixture import Portion
from llmc.train.start import Data, check_match
from llmc.weights.checkpoint import CheckpointHeader, read_header, verify_checksum
from llmc.weights.export import export_weights
from llmc.weights.sources import DEFAULT_PRESET, PUBLISHED, find_weights
from llmc.weights.tokenizer import carried_tokenizer, find_tokenizer

DEFAULTS = TokenizeOptions()


@dataclass(frozen=True)
class Recipe:
    """What a dataset is prepared with by default."""

    tokenizer: str = "gpt2"
    model: str = "gpt2"
    config: str | None = None  # the preset to train with


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs."""

    manifest: Manifest
    model: Path  # the checkpoint to start from
    binary: Path  # the engine
    config: str | None  # the preset to train with; None: the defaults


def recipe_of(inputs: list[str]) -> Recipe:
    """Return the defaults of a dataset: GPT-2's, or for ``stdlib`` a small model from scratch."""
    if inputs == [STDLIB]:
        preset = load_preset("python-stdlib")
        return Recipe(preset.tokenizer or "gpt2", f"random:{preset.name}", preset.name)
    return Recipe()


def prepare(
    workspace: Workspace,
    inputs: list[str],
    *,
    options: TokenizeOptions = DEFAULTS,
    model: str | None = None,
    source: str | None = None,
    report: Report = SILENT,
) -> Prepared:
    """Fetch and tokenize a text, export the weights to start from and build the engine.

    Args:
        workspace: where everything goes.
        inputs: what :func:`llmc.tokens.dataset.tokenize` takes; or a dataset's own folder.
        options: how text becomes a dataset. Default tokenizer: the model's.
        model: a checkpoint, a published model or ``random[:PRESET]``.
        source: a local copy or a mirror of the registered dataset.
        report: receives notes and progress.

    Raises:
        LlmcError: a stage failed, or tokenizer and model do not fit each other.
    """
    if options.part is not None:
        raise Usage("--shard makes a part of a dataset: 'llmc tokenize' makes it")
    if (made := dataset_named(inputs)) is not None:
        if source is not None:
            raise Usage("--source is a copy of a named dataset's text: leave it out")
        return _completed(workspace, made, options, model, report)
    recipe, tokenizer = recipe_of(inputs), options.tokenizer
    if tokenizer is None and model is not None and not _has_any_tokenizer(model):
        chosen: str | Tokenizer = _tokenizer_of(workspace, model)
        report.note(f"tokenizer: {load_tokenizer(chosen).name}, of {model}")
    elif tokenizer is None:
        chosen = recipe.tokenizer
        report.note(f"tokenizer: {chosen} (the default; --tokenizer names another)")
    else:
        chosen = tokenizer
    if model is None:
        model = recipe.model
        report.note(f"model: {model} (the default; --model names another)")
    if model in PUBLISHED and chosen != "gpt2":
        raise Usage(
            f"{model} was trained on GPT-2's tokens, not on {chosen}'s: "
            "choose another --model, such as random:gpt2-124m, or --tokenizer gpt2"
        )
    options = replace(options, tokenizer=chosen)
    manifest = _dataset(workspace, inputs, options, source, report)
    return _with_model(workspace, manifest, model, recipe, report)


def _completed(
    workspace: Workspace,
    made: Manifest,
    options: TokenizeOptions,
    model: str | None,
    report: Report,
) -> Prepared:
    """Make what a dataset lacks to be trained on."""
    shown = workspace.shown(made.folder)
    own = f"{shown} is a dataset that is made already"
    if replace(options, tokenizer=None) != DEFAULTS:
        raise Usage(f"{own}: leave out the options for text, or name its text with another --out")
    if made.part is not None:
        raise Usage(f"{shown} is a part of a dataset: run 'llmc tokenize --merge FOLDER' first")
    asked = options.tokenizer
    if asked is not None and (
        bpe_vocab_size(asked) is not None
        or load_tokenizer(asked).fingerprint != made.tokenizer.fingerprint
    ):
        raise Usage(
            f"{own}, with the tokenizer {made.tokenizer.name}: leave out --tokenizer, or name its "
            "text with another --out"
        )
    verify(made)
    report.note(f"{shown} is tokenized and whole, with the tokenizer {made.tokenizer.name}")
    recipe = recipe_of([made.dataset])
    if model is None:
        before = prepared_model(workspace, made.folder)
        fits = recipe.model not in PUBLISHED or made.tokenizer.name == "gpt2"
        default = recipe.model if fits else f"random:{DEFAULT_PRESET}"
        model = str(before) if before is not None else default
        report.note(f"model: {model} (the default; --model names another)")
    return _with_model(workspace, made, model, recipe, report)


def _with_model(
    workspace: Workspace, manifest: Manifest, model: str, recipe: Recipe, report: Report
) -> Prepared:
    """Export the weights that a dataset is trained from, and build the engine."""
    if model in PUBLISHED and manifest.tokenizer.name != "gpt2":
        raise Usage(
            f"{model} was trained on GPT-2's tokens, not on {manifest.tokenizer.name}'s: "
            "choose another --model, such as random:gpt2-124m"
        )
    weights = _weights(workspace, model, manifest, report)
    data = Data(manifest.dataset, (Portion(manifest.train_path),), manifests=(manifest,))
    check_match(workspace, data, weights, read_header(weights))
    record_prepared(workspace, manifest.folder, weights)
    kind, _, preset = model.partition(":")
    config = preset if kind == "random" and preset else None
    return Prepared(manifest, weights, ensure_native(report=report), config)


def _has_any_tokenizer(model: str) -> bool:
    """Return whether a model can be made for any tokenizer, as random ones are."""
    return model.partition(":")[0] == "random"


def _tokenizer_of(workspace: Workspace, model: str) -> str | Tokenizer:
    """Return the tokenizer that a model was trained with."""
    if model in PUBLISHED:
        return "gpt2"
    found = find_weights(workspace, model)
    if (tokenizer := find_tokenizer(workspace, found)) is not None:
        return tokenizer
    if isinstance(own := carried_tokenizer(found), Unheld):
        raise BadData(
            f"llmc cannot hold the tokenizer of {model}: {own.reason}. Encode the text with the "
            "program it belongs to, and bring the tokens: 'llmc train --data FILE'"
        )
    raise BadData(f"the tokenizer of {model} is unknown: name it with --tokenizer")


def _dataset(
    workspace: Workspace,
    inputs: list[str],
    options: TokenizeOptions,
    source: str | None,
    report: Report,
) -> Manifest:
    names = [name for name in inputs if name in FETCHED or name == STDLIB]
    if source is not None and not names:
        raise Usage(
            f"--source is a copy of a named dataset, and {inputs[0]} is a path: leave it out"
        )
    for name in names:
        fetch_named(workspace, name, source=source, report=report)
    made = find_tokenized(workspace, inputs, options)
    if made is None:
        return tokenize(workspace, inputs, options, report=report).manifest
    report.note(f"{workspace.shown(made.folder)} is tokenized and whole")
    return made


def _weights(workspace: Workspace, model: str, manifest: Manifest, report: Report) -> Path:
    """Return the checkpoint that ``model`` names, exported unless it is there."""
    if Path(model).suffix == ".bin":
        read_header(Path(model))
        return Path(model)
    kind, _, preset = model.partition(":")
    if kind == "random":
        fingerprint = bytes.fromhex(manifest.tokenizer.fingerprint)
        recipe = load_preset(preset or "gpt2-124m")
        shape = {"vocab_size": manifest.tokenizer.vocab_size}
        # Two datasets of one text have different folders.
        out = workspace.models / f"{recipe.name}-{manifest.folder.resolve().name}.bin"
        header, wanted = _whole(out), overridden(recipe.model, shape)
        options: dict[str, Any] = {"out": out, "shape": shape, "fingerprint": fingerprint}
        whole = header is not None and (header.config, header.tokenizer) == (wanted, fingerprint)
    else:
        if model in PUBLISHED:
            fetch_named(workspace, model, report=report)
        out, options = workspace.models / f"{model}.bin", {}
        whole = model in PUBLISHED and _whole(out) is not None
    if not whole:
        return export_weights(workspace, model, report=report, **options).path
    report.note(f"{workspace.shown(out)} is exported and whole")
    return out


def _whole(path: Path) -> CheckpointHeader | None:
    """Return the header of a checkpoint that is there and undamaged, or None."""
    try:
        header = read_header(path)
        verify_checksum(path, header)
    except LlmcError:
        return None
    return header
