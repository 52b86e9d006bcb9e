"""Find weights by name or path, whatever their format."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmc.config import load_preset, nearest, overridden
from llmc.errors import BadData, LlmcError, MissingOutput, Usage
from llmc.fetch.registry import WEIGHTS
from llmc.kinds import HEAD_BYTES, not_data
from llmc.paths import BEST, CHECKPOINT, Workspace
from llmc.report import SILENT, Report
from llmc.weights.base import Weights
from llmc.weights.checkpoint import MAGIC, TOKEN_MAGICS, CheckpointModel, read_header
from llmc.weights.random import RandomModel
from llmc.weights.safetensors import INDEX_SUFFIX

PUBLISHED = tuple(WEIGHTS)
DEFAULT_PRESET = "gpt2-124m"
INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class FoundWeights:
    """Weights that a name or a path stands for."""

    name: str  # the default name of files made from them
    weights: Weights
    folder: Path | None = None  # of the run they belong to


def run_weights(folder: Path, *, last: bool = False, report: Report = SILENT) -> Path:
    """Return the checkpoint that a run offers: the best one if there is one, else the last.

    ``last`` asks for the last one. Where the two are of different steps, ``report`` takes which one
    it is.
    """
    best, newest = folder / BEST, folder / CHECKPOINT
    if last or not best.is_file():
        return newest
    with suppress(LlmcError):  # a damaged file is named when it is opened
        best_step, newest_step = read_header(best).step, read_header(newest).step
        if best_step != newest_step:
            report.note(
                f"weights: step {best_step:,}, which has the run's lowest validation loss "
                f"(--last: step {newest_step:,})"
            )
    return best


def find_weights(
    workspace: Workspace, source: str, *, last: bool = False, report: Report = SILENT
) -> FoundWeights:
    """Return the weights of a published model, a run, a folder or a file.

    A run offers what :func:`run_weights` says; ``last`` asks for its last checkpoint.

    Raises:
        Usage: there are no such weights, the file has another format, or ``last`` is asked of what
            is not a run.
        MissingOutput: the published weights have not been fetched.
        BadData: the weights are damaged or not GPT-2's.
    """
    path, named = Path(source), source in PUBLISHED
    if not path.exists() and path.name == source and not named:
        run = workspace.runs / source
        path = run if (run / CHECKPOINT).is_file() else path
    if not named and (path / CHECKPOINT).is_file():
        file = run_weights(path, last=last, report=report)
        return FoundWeights(path.resolve().name, CheckpointModel(file), path)
    if last:
        raise Usage(f"--last chooses between a run's weights, and {source} is no run: leave it out")
    if named:
        folder = workspace.models / source
        if not (folder / "model.safetensors").is_file():
            raise MissingOutput(
                f"no weights in {workspace.shown(folder)}: run 'llmc fetch {source}' first"
            )
        return FoundWeights(source, open_weights(folder))
    if not path.exists():
        runs = [found.parent.name for found in workspace.runs.glob(f"*/{CHECKPOINT}")]
        known = [*PUBLISHED, "random", *sorted(runs)]
        raise Usage(f"no weights '{source}', by name or path{nearest(source, known)}")
    name = path.resolve().name
    for ending in (".safetensors" + INDEX_SUFFIX, ".bin" + INDEX_SUFFIX):
        name = name.removesuffix(ending)
    return FoundWeights(name if path.is_dir() else Path(name).stem, open_weights(path))


def random_weights(preset: str, shape: Mapping[str, int], seed: int) -> FoundWeights:
    """Return random weights of a preset's shape; the same seed gives the same weights.

    ``preset`` is a name or a TOML file; empty: gpt2-124m. ``shape`` replaces its dimensions.

    Raises:
        Usage: there is no such preset, or the shape is invalid.
    """
    recipe = load_preset(preset or DEFAULT_PRESET)
    config = overridden(recipe.model, shape)
    for key, value in shape.items():
        if value > INT32_MAX:
            raise Usage(f"--{key.replace('_', '-')} must be below 2^31, not {value}")
    return FoundWeights(f"{recipe.name}-random", RandomModel(config, seed))


def open_weights(path: Path) -> Weights:
    """Open the weights in a folder or file; the format is detected from the first bytes.

    Raises:
        Usage: the format is unknown.
        MissingOutput: the folder has no weights.
        BadData: the weights are damaged or not GPT-2's.
    """
    from llmc.weights.huggingface import HuggingFaceModel

    if path.is_dir() or path.name.endswith((".safetensors", INDEX_SUFFIX)):
        return HuggingFaceModel(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error
    if (sentence := not_data(head, str(path))) is not None:
        raise BadData(sentence)
    if head.startswith(b"GGUF"):
        from llmc.weights.gguf import GgufModel

        return GgufModel(path)
    if int.from_bytes(head[:4], "little") in (MAGIC, *TOKEN_MAGICS):
        return CheckpointModel(path)
    if head.startswith((b"PK", b"\x80")):
        from llmc.weights.nanogpt import NanoGptModel, is_nanogpt
        from llmc.weights.torch import load_pickle, tensors_in

        loaded = load_pickle(path)
        if is_nanogpt(loaded):
            return NanoGptModel(path, loaded)
        return HuggingFaceModel(path, tensors_in(path, loaded))
    raise Usage(
        f"{path} is not weights that llmc knows: a run, a Hugging Face folder, or a file that is "
        "an llm.c checkpoint, .safetensors, GGUF, or a .bin, .pt or ckpt.pt of PyTorch"
    )
