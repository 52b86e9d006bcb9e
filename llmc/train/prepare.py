"""Everything before training, in order: fetch, tokenize, export weights, build the engine.

What an earlier call made and is still whole is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmc.engine.build import ensure_native
from llmc.errors import BadData, LlmcError, Usage
from llmc.fetch.named import fetch_named
from llmc.fetch.registry import FETCHED, LOCAL, STDLIB
from llmc.paths import Workspace
from llmc.preset import load_preset
from llmc.report import SILENT, Report
from llmc.setting import overridden
from llmc.tokens.added import added_to, for_chat
from llmc.tokens.dataset import find_tokenized, tokenize
from llmc.tokens.existing import dataset_named
from llmc.tokens.manifest import Manifest, verify
from llmc.tokens.options import AUTO, TokenizeOptions
from llmc.tokens.prepared import prepared_model, record_prepared
from llmc.tokens.template import template_named
from llmc.tokens.tokenizer import Tokenizer, bpe_vocab_size, load_tokenizer
from llmc.tokens.tokenizer_json import Unheld
from llmc.train.match import check_match
from llmc.train.mixture import Portion
from llmc.train.start import Data
from llmc.weights.checkpoint import (
    CheckpointHeader,
    CheckpointModel,
    read_header,
    verify_checksum,
)
from llmc.weights.export import export_weights, write_random
from llmc.weights.grow import grown
from llmc.weights.sources import DEFAULT_PRESET, PUBLISHED, FoundWeights, find_weights
from llmc.weights.tokenizer import carried_tokenizer, find_tokenizer

DEFAULTS = TokenizeOptions()
GPT2 = "gpt2"


@dataclass(frozen=True)
class Recipe:
    """What a dataset is prepared with by default."""

    tokenizer: str = GPT2
    model: str | None = GPT2  # None: training chooses the shape of a random one
    config: str | None = None  # the preset to train with


SCRATCH = Recipe(AUTO, None)


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs."""

    manifest: Manifest
    model: Path | None  # the checkpoint to start from; None: training makes it
    binary: Path  # the engine
    config: str | None  # the preset to train with; None: the defaults


def recipe_of(inputs: list[str]) -> Recipe:
    """Return the defaults of a dataset.

    Those that are fetched finetune GPT-2. A small model learns ``stdlib`` from scratch, as it does
    any other text.
    """
    if inputs == [STDLIB]:
        preset = load_preset("python-stdlib")
        return Recipe(preset.tokenizer or GPT2, f"random:{preset.name}", preset.name)
    return Recipe() if any(name in FETCHED for name in inputs) else SCRATCH


def _finetunes(workspace: Workspace, inputs: list[str], options: TokenizeOptions) -> bool:
    """Return whether a text without a recipe is for GPT-2: its weights are there, and know English.

    What was prepared before they came stays as it is.
    """
    if options.tokenizer is not None or not (workspace.models / f"{GPT2}.bin").is_file():
        return False
    return find_tokenized(workspace, inputs, replace(options, tokenizer=AUTO)) is None


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
    recipe = recipe_of(inputs)
    if recipe == SCRATCH and model is None and _finetunes(workspace, inputs, options):
        recipe = Recipe()
    chosen = _tokenizer(workspace, options.tokenizer, model, recipe, report)
    if model is None and (model := _model(recipe, chosen)) is not None:
        _note_default(model, report)
    if model in PUBLISHED and chosen != GPT2:
        raise _other_tokens(model, str(chosen), ", or --tokenizer gpt2")
    options = replace(options, tokenizer=chosen, or_fewer=options.tokenizer is None)
    manifest = _dataset(workspace, inputs, options, source, report)
    return _with_model(workspace, manifest, model, report)


def _tokenizer(
    workspace: Workspace,
    named: str | Tokenizer | None,
    model: str | None,
    recipe: Recipe,
    report: Report,
) -> str | Tokenizer:
    """Return the tokenizer that is named, or that of the model, or the dataset's default."""
    if named is not None:
        return named
    if model is None:
        if recipe.tokenizer != AUTO:
            report.note(f"tokenizer: {recipe.tokenizer} (the default; --tokenizer names another)")
        return recipe.tokenizer
    kind, _, preset = model.partition(":")
    if kind == "random":  # it is made for any tokenizer
        own = load_preset(preset or DEFAULT_PRESET).tokenizer
        return own or (recipe.tokenizer if recipe.model is not None else AUTO)
    chosen = _tokenizer_of(workspace, model)
    report.note(f"tokenizer: {load_tokenizer(chosen).name}, of {model}")
    return chosen


def _model(recipe: Recipe, tokenizer: str | Tokenizer) -> str | None:
    """Return the default model for these tokens; None: training chooses one."""
    if recipe.model is None:
        return GPT2 if tokenizer == GPT2 else None
    return None if recipe.model in PUBLISHED and tokenizer != GPT2 else recipe.model


def _note_default(model: str, report: Report) -> None:
    report.note(f"model: {model} (the default; --model names another)")


def _other_tokens(model: str | None, tokenizer: str, more: str = "") -> Usage:
    """Return the refusal of a published model for data of another tokenizer."""
    return Usage(
        f"{model} was trained on GPT-2's tokens, not on {tokenizer}'s: "
        f"choose another --model, such as random:gpt2-124m{more}"
    )


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
    if asked is not None and not _is_made_with(asked, made):
        raise Usage(
            f"{own}, with the tokenizer {made.tokenizer.name}: leave out --tokenizer, or name its "
            "text with another --out"
        )
    verify(made)
    report.note(f"{shown} is tokenized and whole, with the tokenizer {made.tokenizer.name}")
    recipe = recipe_of([made.dataset])
    if model is None:
        before = prepared_model(workspace, made.folder)
        model = (
            str(before)
            if before is not None
            else _model(recipe, GPT2 if _is_gpt2s(made) else made.tokenizer.name)
        )
        if model is not None:
            _note_default(model, report)
    return _with_model(workspace, made, model, report)


def _is_made_with(asked: str | Tokenizer, made: Manifest) -> bool:
    """Return whether a dataset has this tokenizer, or it with the tokens of its chat template."""
    if bpe_vocab_size(asked) is not None:
        return False
    named, name = load_tokenizer(asked), made.tokenizer.template
    whole = named if name is None else for_chat(named, template_named(name))
    return whole.fingerprint == made.tokenizer.fingerprint


def _is_gpt2s(made: Manifest) -> bool:
    """Return whether a dataset's tokens are GPT-2's, and perhaps more after them."""
    name = made.tokenizer.name
    return name == GPT2 or (
        name.startswith(f"{GPT2}+")
        and added_to(load_tokenizer(GPT2), made.load_tokenizer()) is not None
    )


def _with_model(
    workspace: Workspace, manifest: Manifest, model: str | None, report: Report
) -> Prepared:
    """Export the weights that a dataset is trained from, and build the engine."""
    if model is None:
        record_prepared(workspace, manifest.folder, None)
        return Prepared(manifest, None, ensure_native(report=report), None)
    if model in PUBLISHED and not _is_gpt2s(manifest):
        raise _other_tokens(model, manifest.tokenizer.name)
    weights = _weights(workspace, model, manifest, report)
    data = Data(manifest.dataset, (Portion(manifest.train_path),), manifests=(manifest,))
    check_match(workspace, data, weights, read_header(weights))
    record_prepared(workspace, manifest.folder, weights)
    kind, _, preset = model.partition(":")
    config = preset if kind == "random" and preset else None
    return Prepared(manifest, weights, ensure_native(report=report), config)


def _tokenizer_of(workspace: Workspace, model: str) -> str | Tokenizer:
    """Return the tokenizer that a model was trained with."""
    if model in PUBLISHED:
        return GPT2
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
    names = [name for name in inputs if name in FETCHED or name in LOCAL]
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
    kind, _, preset = model.partition(":")
    if kind == "random":
        return _random(workspace, preset, manifest, report)
    exported = None
    if Path(model).suffix == ".bin":
        read_header(Path(model))
    elif model in PUBLISHED:
        fetch_named(workspace, model, report=report)
        out = workspace.models / f"{model}.bin"
        exported = out if _whole(out) is not None else None
    source = str(exported or model)
    if (made := _with_more_tokens(workspace, source, manifest, report)) is not None:
        return made
    if Path(model).suffix == ".bin":
        return Path(model)
    if exported is not None:
        report.note(f"{workspace.shown(exported)} is exported and whole")
        return exported
    return export_weights(workspace, model, report=report).path


def _with_more_tokens(
    workspace: Workspace, source: str, manifest: Manifest, report: Report
) -> Path | None:
    """Return a copy of a model with the tokens that a dataset has after those of the model.

    It is written unless it is there. Returns None if that is not how the two differ.
    """
    found, wanted = find_weights(workspace, source), manifest.tokenizer.fingerprint
    known = found.weights.origin.tokenizer
    if known is not None and known.hex() == wanted:
        return None
    own = find_tokenizer(workspace, found)
    names = added_to(own, manifest.load_tokenizer()) if own is not None else None
    if own is None or not names:
        return None
    copy, _ = grown(found, own, names)
    out = workspace.models / f"{copy.name}.bin"
    if _is_copy(out, copy, wanted):
        report.note(f"{workspace.shown(out)} is exported and whole")
        return out
    report.note(f"{source} lacks the tokens {', '.join(names)} of the data: a copy gets them")
    is_file = isinstance(found.weights, CheckpointModel) and found.folder is None
    dtype = read_header(found.weights.path).dtype if is_file else "fp32"
    return export_weights(
        workspace, source, out=out, dtype=dtype, tokenizer=own, add_tokens=names, report=report
    ).path


def _is_copy(path: Path, found: FoundWeights, fingerprint: str) -> bool:
    """Return whether a checkpoint is whole and has these weights, by tensors of every position."""
    import numpy as np

    header = _whole(path)
    if header is None or header.tokenizer != bytes.fromhex(fingerprint):
        return False
    there, weights = CheckpointModel(path), found.weights
    return header.config == weights.config and all(
        np.array_equal(there.read(name), weights.read(name)) for name in ("wpe", "lnfw", "lnfb")
    )


def _random(workspace: Workspace, preset: str, manifest: Manifest, report: Report) -> Path:
    """Return random weights of a preset's shape for a dataset, written unless they are there."""
    recipe = load_preset(preset or DEFAULT_PRESET)
    shape = overridden(recipe.model, {"vocab_size": manifest.tokenizer.vocab_size})
    # Two datasets of one text have different folders.
    out = workspace.models / f"{recipe.name}-{manifest.folder.resolve().name}.bin"
    fingerprint = manifest.tokenizer.fingerprint
    header = _whole(out)
    if header is None or header.config != shape or header.tokenizer != bytes.fromhex(fingerprint):
        return write_random(workspace, shape, out, fingerprint=fingerprint, report=report)
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
