"""Which model goes with which data: the one to start from is found, and both are compared."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llmc.errors import BadData, LlmcError, MissingOutput
from llmc.paths import BEST, CHECKPOINT, Workspace
from llmc.tokens.added import added_to
from llmc.tokens.manifest import Manifest, load_manifest
from llmc.tokens.prepared import prepared_model
from llmc.train.mixture import Portion
from llmc.train.start import Data
from llmc.weights.checkpoint import CheckpointHeader, read_header
from llmc.weights.tokenizer import tokenizer_of

SMALL = "stories-1m"  # the preset of a model for a dataset that has none


def find_model(
    workspace: Workspace, model: Path | None, data: Data, preset: str | None = None
) -> Path:
    """Return the checkpoint to start from: named, prepared with the data, or the newest that fits.

    Raises:
        MissingOutput: there is none; the command that makes one has the shape of ``preset``.
    """
    if model is not None:
        if not model.is_file():
            raise MissingOutput(
                f"there is no file {model}: make one with 'llmc export-weights MODEL'"
            )
        return model
    for text in data.train:
        if (prepared := prepared_model(workspace, text.folder)) is not None:
            return prepared
    models = sorted(
        workspace.models.glob("*.bin"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    misfits = []
    for each in models:
        with suppress(LlmcError):
            header = read_header(each)
            if not any(_fault(header, manifest) for manifest in data.manifests):
                return each
            misfits.append(each)
    for each in misfits:
        if any(lacking_tokens(workspace, each, manifest) for manifest in data.manifests):
            return each  # what it lacks is named next
    if models and not misfits:
        return models[0]  # its damage is named next
    raise _no_model(workspace, data, preset or SMALL, there_are_others=bool(models))


def _no_model(
    workspace: Workspace, data: Data, preset: str, *, there_are_others: bool
) -> MissingOutput:
    where, way = workspace.shown(workspace.models), "run 'llmc train --for TIME', which chooses one"
    if not data.manifests:  # nothing is known of the tokens
        return MissingOutput(
            f"no model in {where}: {way}, or 'llmc export-weights random' first, or name one with "
            "--model"
        )
    folder = workspace.shown(data.manifests[0].folder)
    fits = f" has the tokenizer of {folder}" if there_are_others else ""
    error = MissingOutput(f"no model in {where}{fits}: {way}, name one with --model, or make one")
    error.commands = (shlex.join(["llmc", "prepare", folder, "--model", f"random:{preset}"]),)
    return error


def dataset_for(workspace: Workspace, header: CheckpointHeader) -> Path | None:
    """Return the newest dataset that a model can be trained on; None if there is none."""
    for folder in workspace.datasets():
        with suppress(LlmcError):
            if _fault(header, load_manifest(folder)) is None:
                return folder
    return None


def model_for(workspace: Workspace, made: Manifest) -> Path | None:
    """Return the model that training on a dataset starts from; None if there is none that fits."""
    with suppress(LlmcError):
        text = Portion(made.train_path, manifest=made)
        path = find_model(workspace, None, Data(made.dataset, (text,), manifests=(made,)))
        if _fault(read_header(path), made) is None:
            return path
    return None


def _fault(header: CheckpointHeader, made: Manifest) -> str | None:
    """Return what keeps a model from a dataset: ``tokenizer`` or ``vocabulary``; None: nothing."""
    if header.tokenizer is not None and header.tokenizer.hex() != made.tokenizer.fingerprint:
        return "tokenizer"
    return "vocabulary" if made.tokenizer.vocab_size > header.config.vocab_size else None


def lacking_tokens(workspace: Workspace, path: Path, made: Manifest) -> tuple[str, ...]:
    """Return the tokens that a dataset's tokenizer has after those of a model's.

    Empty if the two tokenizers differ in anything else, or one is not known.
    """
    with suppress(LlmcError):
        if (own := tokenizer_of(workspace, path)) is not None:
            return added_to(own, made.load_tokenizer()) or ()
    return ()


def _growing_command(workspace: Workspace, path: Path, names: Sequence[str]) -> str:
    """Return the command that writes a copy of a model with more tokens."""
    of_run = path.resolve().parent.parent == workspace.runs.resolve()
    source = path.parent.name if of_run else workspace.shown(path)
    words = ["llmc", "export-weights", source]
    if of_run and path.name == CHECKPOINT and path.with_name(BEST).is_file():
        words.append("--last")
    return shlex.join(words + [word for name in names for word in ("--add-tokens", name)])


def check_match(workspace: Workspace, data: Data, path: Path, header: CheckpointHeader) -> None:
    """Refuse data and a model with different tokens.

    Raises:
        BadData: the tokenizer of any of the data differs, or the model knows too few tokens.
    """
    advice = "prepare the data with the model's tokenizer, or choose another model"
    shown = workspace.shown(path)
    for manifest in data.manifests:
        tokenizer, folder = manifest.tokenizer, workspace.shown(manifest.folder)
        fault = _fault(header, manifest)
        if fault is not None and (lacking := lacking_tokens(workspace, path, manifest)):
            raise BadData(
                f"{shown} lacks the tokens {', '.join(lacking)} of {folder}: run "
                f'"{_growing_command(workspace, path, lacking)}" and take the file that it writes'
            )
        if fault == "tokenizer":
            raise BadData(
                f"{shown} was made for another tokenizer than {folder} ({tokenizer.name}): {advice}"
            )
        if fault == "vocabulary":
            raise BadData(
                f"{folder} uses {tokenizer.vocab_size:,} tokens, but {shown} knows only "
                f"{header.config.vocab_size:,}: {advice}"
            )
