"""Weights by name or path, whatever their format; and the same weights in another format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc.config import nearest
from llmc.errors import BadData, MissingOutput, Usage
from llmc.model import ModelConfig
from llmc.paths import CHECKPOINT, Workspace, folder_written_whole, written_whole
from llmc.tokens.byte_level import Vocabulary
from llmc.weights.base import KINDS, CheckpointModel, Origin, Weights, stored_bytes
from llmc.weights.checkpoint import MAGIC, TOKEN_MAGICS, checkpoint_bytes, write_checkpoint
from llmc.weights.safetensors import INDEX_SUFFIX

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")

# The names that llm.c's programs open.
LLMC_FP32, LLMC_BF16 = "gpt2_124M.bin", "gpt2_124M_bf16.bin"
LLMC_TOKENIZER, LLMC_STATE = "gpt2_tokenizer.bin", "gpt2_124M_debug_state.bin"
OTHER_FILES_BYTES = 16 << 20  # tokenizers and the like, beside the weights


@dataclass(frozen=True)
class Source:
    """Weights that were found.

    Attributes:
        name: what files made of them are called after.
        weights: opened.
        folder: the run they come from, if they do.
    """

    name: str
    weights: Weights
    folder: Path | None = None


@dataclass(frozen=True)
class Target:
    """A format to write.

    Attributes:
        dtypes: how it can store the weights.
        ending: what its default name in ``models/`` ends with.
        files: where it is a folder, the files that may be in it.
    """

    dtypes: tuple[str, ...]
    ending: str
    files: tuple[str, ...] = ()


TARGETS = {
    "llmc": Target(("fp32", "bf16"), ".bin"),
    "llm.c": Target(("fp32", "bf16"), "-llm.c", (LLMC_FP32, LLMC_BF16, LLMC_TOKENIZER, LLMC_STATE)),
    "hf": Target(
        ("fp32", "bf16", "f16"),
        "-hf",
        (
            *("config.json", "generation_config.json", "model.safetensors"),
            *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
        ),
    ),
    "gguf": Target(("fp32", "bf16", "f16", "q8_0"), ".gguf"),
}


def find_source(workspace: Workspace, source: str) -> Source:
    """Return the weights that a name or a path means: published ones, a run, a folder, a file.

    Raises:
        Usage: it is none of these, or a file of another kind.
        MissingOutput: the published weights have not been fetched.
        BadData: the weights are damaged or not GPT-2's.
    """
    if source in PUBLISHED:
        folder = workspace.models / source
        if not (folder / "model.safetensors").is_file():
            raise MissingOutput(
                f"no weights in {workspace.shown(folder)}: run 'llmc fetch {source}' first"
            )
        return Source(source, open_weights(folder))
    path = Path(source)
    if not path.exists():
        run = workspace.runs / source
        if Path(source).name == source and (run / CHECKPOINT).is_file():
            return Source(source, CheckpointModel(run / CHECKPOINT), run)
        runs = [found.parent.name for found in workspace.runs.glob(f"*/{CHECKPOINT}")]
        known = [*PUBLISHED, "random", *sorted(runs)]
        raise Usage(f"no weights '{source}', by name or path{nearest(source, known)}")
    if path.is_dir() and (path / CHECKPOINT).is_file():
        return Source(path.resolve().name, CheckpointModel(path / CHECKPOINT), path)
    name = path.resolve().name
    for ending in (".safetensors" + INDEX_SUFFIX, ".bin" + INDEX_SUFFIX):
        name = name.removesuffix(ending)
    return Source(name if path.is_dir() else Path(name).stem, open_weights(path))


def open_weights(path: Path) -> Weights:
    """Return the weights in a folder or file; what it is, its first bytes tell.

    Raises:
        Usage: it is none of the formats.
        MissingOutput: the folder has no weights.
        BadData: they are damaged or not GPT-2's.
    """
    from llmc.weights.huggingface import HuggingFaceModel

    if path.is_dir() or path.name.endswith((".safetensors", INDEX_SUFFIX)):
        return HuggingFaceModel(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error
    if head == b"GGUF":
        from llmc.weights.gguf import GgufModel

        return GgufModel(path)
    if int.from_bytes(head, "little") in (MAGIC, *TOKEN_MAGICS):
        return CheckpointModel(path)
    if head.startswith((b"PK", b"\x80")):
        return _pickled(path)
    raise Usage(
        f"{path} is not weights that llmc knows: a run, a Hugging Face folder, or a file that is "
        "an llm.c checkpoint, .safetensors, GGUF, or a .bin, .pt or ckpt.pt of PyTorch"
    )


def _pickled(path: Path) -> Weights:
    from llmc.weights.huggingface import HuggingFaceModel
    from llmc.weights.nanogpt import NanoGptModel, is_nanogpt
    from llmc.weights.torch import TorchTensors, load_pickle, tensors_in

    loaded = load_pickle(path)
    if is_nanogpt(loaded):
        return NanoGptModel(path, loaded)
    return HuggingFaceModel.of(TorchTensors(path, tensors_in(path, loaded)))


def check_target(to: str, dtype: str, config: ModelConfig) -> None:
    """Refuse a type of numbers that the format cannot hold.

    Raises:
        Usage: it cannot.
    """
    dtypes = TARGETS[to].dtypes
    if dtype not in dtypes:
        raise Usage(f"--to {to} takes --dtype {' or '.join(dtypes)}, not {dtype}")
    if to == "gguf":
        from llmc.weights.gguf import check_kind

        check_kind(config, KINDS[dtype])


def target_bytes(to: str, dtype: str, config: ModelConfig) -> int:
    """Return how much room the export takes; of a checkpoint to the byte, else a little more."""
    if to in ("llmc", "llm.c"):
        return checkpoint_bytes(config, dtype)
    if to == "gguf":
        from llmc.weights.gguf import gguf_bytes

        return gguf_bytes(config, KINDS[dtype]) + OTHER_FILES_BYTES
    widest = checkpoint_bytes(config, "fp32") // 4
    return stored_bytes(widest, KINDS[dtype]) + OTHER_FILES_BYTES


def write_llmc(path: Path, weights: Weights, dtype: str, origin: Origin) -> None:
    """Write a checkpoint with llmc's extension.

    Raises:
        BadData: the weights are damaged, or the disk is full.
    """
    write_checkpoint(
        path,
        weights.config,
        weights.slices(),
        dtype=dtype,
        tokenizer=origin.tokenizer,
        step=origin.step,
        val_loss=origin.val_loss,
    )


def write_llm_c(
    path: Path,
    weights: Weights,
    dtype: str,
    vocabulary: Vocabulary | None,
    debug_state: Callable[[Path, Path], None] | None = None,
) -> None:
    """Write a folder with the files that llm.c's programs open, under the names they open.

    The checkpoint is without llmc's extension: byte for byte what llm.c's own script writes.

    Args:
        path: the folder.
        weights: the model.
        dtype: ``fp32`` or ``bf16``.
        vocabulary: the tokenizer's; without one, llm.c prints ids.
        debug_state: given the checkpoint and a path, writes there what one batch does.

    Raises:
        BadData: the weights are damaged, a token is too long, or the disk is full.
    """
    from llmc.tokens.tokenizer_bin import write_tokenizer_bin

    with folder_written_whole(path, TARGETS["llm.c"].files) as folder:
        checkpoint = folder / (LLMC_BF16 if dtype == "bf16" else LLMC_FP32)
        if vocabulary is not None:
            write_tokenizer_bin(folder / LLMC_TOKENIZER, vocabulary.tokens, vocabulary.specials[-1])
        write_checkpoint(checkpoint, weights.config, weights.slices(), dtype=dtype, extension=False)
        if debug_state is not None:
            debug_state(checkpoint, folder / LLMC_STATE)


def write_hf(
    path: Path, weights: Weights, dtype: str, vocabulary: Vocabulary | None, origin: Origin
) -> None:
    """Write a folder that Hugging Face's AutoModelForCausalLM and AutoTokenizer open.

    Raises:
        BadData: the weights are damaged, a number does not fit, or the disk is full.
    """
    from llmc.tokens.tokenizer_json import write_tokenizer_json
    from llmc.weights.huggingface_folder import write_hf_folder

    weights.verify()
    eot = vocabulary.specials[-1] if vocabulary is not None else None
    with folder_written_whole(path, TARGETS["hf"].files) as folder:
        if vocabulary is not None:
            write_tokenizer_json(folder, vocabulary, weights.config.context)
        write_hf_folder(folder, weights, KINDS[dtype], eot=eot, origin=origin)


def write_gguf_file(
    path: Path,
    weights: Weights,
    dtype: str,
    vocabulary: Vocabulary,
    *,
    name: str,
    origin: Origin,
) -> None:
    """Write a GGUF file that llama.cpp opens.

    Raises:
        BadData: the weights are damaged, a number does not fit, or the disk is full.
    """
    from llmc.weights.gguf import write_gguf

    weights.verify()
    with written_whole(path) as partial:
        write_gguf(partial, weights, KINDS[dtype], vocabulary, name=name, origin=origin)


def written_files(path: Path, to: str) -> Sequence[Path]:
    """Return the files of an export, its weights among them."""
    if path.is_dir():
        return [path / name for name in TARGETS[to].files if (path / name).is_file()]
    return [path]
