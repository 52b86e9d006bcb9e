"""Find a checkpoint's tokenizer: beside it, in the workspace, or by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from llmc.errors import LlmcError
from llmc.paths import Workspace
from llmc.tokens.manifest import load_manifest
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer, recorded_tokenizer
from llmc.weights.checkpoint import read_header

# The tokenizer of NAME.bin is NAME.tiktoken.
TOKENIZER_SUFFIX = ".tiktoken"


def tokenizer_of(workspace: Workspace, checkpoint: Path) -> Tokenizer | None:
    """Return the tokenizer with the checkpoint's fingerprint; None if there is none.

    Raises:
        BadData: the checkpoint is damaged.
    """
    header = read_header(checkpoint)
    return tokenizer_with(workspace, header.tokenizer, header.config.vocab_size, beside=checkpoint)


def tokenizer_with(
    workspace: Workspace, fingerprint: bytes | None, vocab_size: int, *, beside: Path
) -> Tokenizer | None:
    """Return the tokenizer with a fingerprint; None if there is none.

    Args:
        workspace: the place to look for it.
        fingerprint: its 32 bytes; None if unknown.
        vocab_size: of the model; a vocabulary of GPT-2's size is GPT-2's.
        beside: the weights; a run's record or a file ``NAME.tiktoken`` may lie beside them.
    """
    for tokenizer in _candidates(workspace, beside):
        if fingerprint is None:
            # llm.c's own checkpoints say nothing.
            if tokenizer.name == "gpt2" and tokenizer.vocab_size == vocab_size:
                return tokenizer
        elif tokenizer.fingerprint == fingerprint.hex():
            return tokenizer
    return None


def _candidates(workspace: Workspace, beside: Path) -> Iterator[Tokenizer]:
    """Yield every tokenizer that can be found; broken ones are skipped."""
    manifests = workspace.data.glob("*/manifest.json")
    records = workspace.runs.glob("*/tokenizer.json")
    exported = workspace.models.glob(f"*{TOKENIZER_SUFFIX}")
    places: list[Callable[[], Tokenizer | None]] = [
        partial(load_tokenizer, "byte"),
        partial(load_tokenizer, str(beside.with_suffix(TOKENIZER_SUFFIX))),
        partial(recorded_tokenizer, beside.parent),
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
