"""Find weights by name or path, whatever their format."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData, LlmcError, MissingOutput, Usage
from llmc.fetch.registry import WEIGHTS
from llmc.kinds import HEAD_BYTES, not_data
from llmc.paths import BEST, CHECKPOINT, Workspace
from llmc.preset import load_preset
from llmc.report import SILENT, Report
from llmc.setting import nearest, overridden
from llmc.weights.base import Weights
from llmc.weights.checkpoint import MAGIC, TOKEN_MAGICS, CheckpointModel, read_header
from llmc.weights.foreign import foreign_file
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
                f"weights: step {best_step:,}, which has the lowest validation loss of those that "
                f"the run saved (--last: step {newest_step:,})"
            )
    return best


def find_weights(
    workspace: Workspace,
    source: str,
    *,
    last: bool = False,
    heads: int | None = None,
    report: Report = SILENT,
) -> FoundWeights:
    """Return the weights of a published model, a run, a folder or a file.

    A run offers what :func:`run_weights` says; ``last`` asks for its last checkpoint. ``heads`` is
    the number of heads of weights that do not record it.

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
        _refuse_heads(source, heads)
        file = run_weights(path, last=last, report=report)
        return FoundWeights(path.resolve().name, CheckpointModel(file), path)
    if last:
        raise Usage(
            f"--last chooses between a run's weights, and {source} is not a run: leave it out"
        )
    if named:
        folder = workspace.models / source
        if not (folder / "model.safetensors").is_file():
            raise MissingOutput(
                f"no weights in {workspace.shown(folder)}: run 'llmc fetch {source}' first"
            )
        return FoundWeights(source, open_weights(folder, heads))
    if not path.exists():
        runs = [found.parent.name for found in workspace.runs.glob(f"*/{CHECKPOINT}")]
        known = [*PUBLISHED, "random", *sorted(runs)]
        raise Usage(f"no weights '{source}', by name or path{nearest(source, known)}")
    name = path.resolve().name
    for ending in (".safetensors" + INDEX_SUFFIX, ".bin" + INDEX_SUFFIX):
        name = name.removesuffix(ending)
    return FoundWeights(name if path.is_dir() else Path(name).stem, open_weights(path, heads))


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


def _refuse_heads(source: object, heads: int | None) -> None:
    if heads is not None:
        raise Usage(
            f"--heads is for weights that do not record it, and {source} does: leave it out"
        )


def open_weights(path: Path, heads: int | None = None) -> Weights:
    """Open the weights in a folder or file; the format is detected from the first bytes.

    ``heads`` is the number of heads of weights that do not record it.

    Raises:
        Usage: the format is unknown, or ``heads`` is given and the weights record it.
        MissingOutput: the folder has no weights.
        BadData: the weights are damaged or not GPT-2's.
    """
    from llmc.weights.huggingface import CONFIG_FILE, HuggingFaceModel

    if not path.is_dir() and (sentence := foreign_file(path)) is not None:
        raise BadData(sentence)
    if path.is_dir() or path.name.endswith((".safetensors", INDEX_SUFFIX)):
        folder = path if path.is_dir() else path.parent
        _refuse_heads(path, heads if (folder / CONFIG_FILE).is_file() else None)
        return HuggingFaceModel(path, heads=heads)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error
    if (sentence := not_data(head, str(path)) or foreign_file(path, head)) is not None:
        raise BadData(sentence)
    if head.startswith((b"PK", b"\x80")):
        return _open_pickle(path, heads)
    _refuse_heads(path, heads)
    if head.startswith(b"GGUF"):
        from llmc.weights.gguf import GgufModel

        return GgufModel(path)
    if int.from_bytes(head[:4], "little") in (MAGIC, *TOKEN_MAGICS):
        return CheckpointModel(path)
    raise Usage(
        f"{path} is not weights that llmc knows: a run, a Hugging Face folder, or a file that is "
        "an llm.c checkpoint, .safetensors, GGUF, or a .bin, .pt or ckpt.pt of PyTorch"
    )


def _open_pickle(path: Path, heads: int | None) -> Weights:
    """Open a file of PyTorch's: nanoGPT's checkpoint, or a state dict in whatever wrapping."""
    from llmc.weights.huggingface import CONFIG_FILE, HuggingFaceModel
    from llmc.weights.nanogpt import NanoGptModel, is_nanogpt, origin_of, recorded_heads
    from llmc.weights.torch import load_pickle, tensors_in

    loaded = load_pickle(path)
    recorded = recorded_heads(loaded)
    is_recorded = recorded is not None or path.with_name(CONFIG_FILE).is_file()
    if is_nanogpt(loaded) or is_recorded:
        _refuse_heads(path, heads)
    if is_nanogpt(loaded):
        return NanoGptModel(path, loaded)
    made = HuggingFaceModel(path, tensors_in(path, loaded), recorded or heads)
    made.origin = origin_of(loaded)
    return made
