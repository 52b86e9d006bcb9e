"""Which tokenizer a checkpoint speaks, found in the workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from llmc.errors import LlmcError
from llmc.formats.checkpoint import read_header
from llmc.manifest import load_manifest
from llmc.paths import Workspace
from llmc.tokenizers import Tokenizer, load_tokenizer, recorded_tokenizer


def tokenizer_of(workspace: Workspace, checkpoint: Path) -> Tokenizer | None:
    """Return the tokenizer whose fingerprint the checkpoint carries, None where none is found.

    Raises:
        BadData: the checkpoint is damaged.
    """
    header = read_header(checkpoint)
    for tokenizer in _candidates(workspace):
        if header.tokenizer is None:
            # llm.c's own checkpoints say nothing; GPT-2's vocabulary speaks for itself.
            if tokenizer.name == "gpt2" and tokenizer.vocab_size == header.config.vocab_size:
                return tokenizer
        elif tokenizer.fingerprint == header.tokenizer.hex():
            return tokenizer
    return None


def _candidates(workspace: Workspace) -> Iterator[Tokenizer]:
    """Yield every tokenizer that can be found; what is broken is nobody's tokenizer."""
    manifests = workspace.data.glob("*/manifest.json")
    records = workspace.runs.glob("*/tokenizer.json")
    places: list[Callable[[], Tokenizer | None]] = [
        partial(load_tokenizer, "byte"),
        *(partial(_dataset_tokenizer, path.parent) for path in manifests),
        *(partial(recorded_tokenizer, path.parent) for path in records),
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
