"""Which tokenizer a checkpoint speaks, found in the workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from llmc.errors import LlmcError
from llmc.paths import Workspace
from llmc.tokens.manifest import load_manifest
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer, recorded_tokenizer
from llmc.weights.checkpoint import read_header

# Of a tokenizer that came with weights: NAME.bin has its own in NAME.tiktoken.
TOKENIZER_SUFFIX = ".tiktoken"


def tokenizer_of(workspace: Workspace, checkpoint: Path) -> Tokenizer | None:
    """Return the tokenizer whose fingerprint the checkpoint carries, None where none is found.

    Raises:
        BadData: the checkpoint is damaged.
    """
    header = read_header(checkpoint)
    return tokenizer_with(workspace, header.tokenizer, header.config.vocab_size, beside=checkpoint)


def tokenizer_with(
    workspace: Workspace, fingerprint: bytes | None, vocab_size: int, *, beside: Path
) -> Tokenizer | None:
    """Return the tokenizer with a fingerprint, None where none is found.

    Args:
        workspace: where it is looked for.
        fingerprint: its 32 bytes; None if the weights do not tell.
        vocab_size: of the model: GPT-2's vocabulary speaks for itself.
        beside: the weights; a tokenizer's file may lie beside them, called as they are.
    """
    for tokenizer in _candidates(workspace, beside.with_suffix(TOKENIZER_SUFFIX)):
        if fingerprint is None:
            # llm.c's own checkpoints say nothing.
            if tokenizer.name == "gpt2" and tokenizer.vocab_size == vocab_size:
                return tokenizer
        elif tokenizer.fingerprint == fingerprint.hex():
            return tokenizer
    return None


def _candidates(workspace: Workspace, beside: Path) -> Iterator[Tokenizer]:
    """Yield every tokenizer that can be found; what is broken is nobody's tokenizer."""
    manifests = workspace.data.glob("*/manifest.json")
    records = workspace.runs.glob("*/tokenizer.json")
    exported = workspace.models.glob(f"*{TOKENIZER_SUFFIX}")
    places: list[Callable[[], Tokenizer | None]] = [
        partial(load_tokenizer, "byte"),
        partial(load_tokenizer, str(beside)),
        *(partial(_dataset_tokenizer, path.parent) for path in manifests),
        *(partial(recorded_tokenizer, path.parent) for path in records),
        *(partial(load_tokenizer, str(path)) for path in exported),
        partial(load_tokenizer, "gpt2"),  # last: it may ask the network
    ]
    for load in places:
        try:
            found = load()
        except LlmcError:
            continue
        if found is not None:
            yield found


def _dataset_tokenizer(folder: Path) -> Tokenizer:
    return load_manifest(folder).load_tokenizer()
