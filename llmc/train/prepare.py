"""Everything before training, in order: fetch, tokenize, export weights, build the engine.

What an earlier call made and is still whole is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from llmc.tokens.manifest import Manifest
from llmc.tokens.prepared import record_prepared
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_json import Unheld
from llmc.train.start import Data, check_match
from llmc.weights.checkpoint import CheckpointHeader, read_header, verify_checksum
from llmc.weights.export import export_weights
from llmc.weights.sources import PUBLISHED, find_weights
from llmc.weights.tokenizer import carried_tokenizer, find_tokenizer


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
    tokenizer: str | None = None,
    model: str | None = None,
    source: str | None = None,
    report: Report = SILENT,
) -> Prepared:
    """Fetch and tokenize a text, export the weights to start from and build the engine.

    Args:
        workspace: where everything goes.
        inputs: a registered dataset, or files, folders and glob patterns.
        tokenizer: as :func:`llmc.tokens.dataset.tokenize` takes it. Default: the model's.
        model: a checkpoint, a published model or ``random[:PRESET]``.
        source: a local copy or a mirror of the registered dataset.
        report: receives notes and progress.

    Raises:
        LlmcError: a stage failed, or tokenizer and model do not fit each other.
    """
    recipe = recipe_of(inputs)
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
    manifest = _dataset(workspace, inputs, chosen, source, report)
    weights = _weights(workspace, model, manifest, report)
    data = Data(manifest.dataset, manifest.train_path, manifest.val_path, manifest)
    check_match(workspace, data, weights, read_header(weights))
    record_prepared(workspace, manifest.folder, weights)
    kind, _, preset = model.partition(":")
    config = preset if kind == "random" and preset else None
    return Prepared(manifest, weights, ensure_native(report=report), config)


def _has_any_tokenizer(model: str) -> bool:
    """Return whether a model can be made for any tokenizer, as random ones are."""
    return model.partition(":")[0] == "random"


def _tokenizer_of(workspace: Workspace, model: str) -> str | Tokenizer:
    """Return the tokenizer that a model was trained with.

    Raises:
        BadData: it is unknown, or llmc cannot hold it.
    """
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
    tokenizer: str | Tokenizer,
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
    made = find_tokenized(workspace, inputs, tokenizer)
    if made is None:
        options = TokenizeOptions(tokenizer=tokenizer)
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
        out = workspace.models / f"{recipe.name}-{manifest.dataset}.bin"
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
