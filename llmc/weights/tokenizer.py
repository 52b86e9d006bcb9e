"""Find the tokenizer of weights: recorded with them, in the workspace, or by name; convert it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from llmc.errors import BadData, LlmcError
from llmc.paths import Workspace
from llmc.tokens.byte_level import Vocabulary, merges_of
from llmc.tokens.held import HUGGINGFACE
from llmc.tokens.recorded import RECORD_SUFFIX, TOKENS_SUFFIX, recorded_tokenizer
from llmc.tokens.template_files import with_chat_template
from llmc.tokens.tokenizer import GPT2_VOCAB_SIZE, PATTERN, Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_json import (
    Unheld,
    tokenizer_of_vocabulary,
    vocabulary_of_table,
    vocabulary_with,
)
from llmc.weights.checkpoint import read_header
from llmc.weights.random import RandomModel
from llmc.weights.sources import FoundWeights

TOKENIZER_SUFFIXES = (RECORD_SUFFIX, TOKENS_SUFFIX)  # a record names the tokens beside it


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
        beside: the weights; a run's record, ``NAME.tiktoken`` or ``NAME.tokenizer.json`` may lie
            beside them.
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
    exported = [path for end in TOKENIZER_SUFFIXES for path in workspace.models.glob(f"*{end}")]
    places: list[Callable[[], Tokenizer | None]] = [
        *(partial(load_tokenizer, str(beside.with_suffix(end))) for end in TOKENIZER_SUFFIXES),
        partial(recorded_tokenizer, beside.parent),
        partial(load_tokenizer, "byte"),
        *(partial(load_tokenizer, str(path.parent)) for path in manifests),
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


def find_tokenizer(workspace: Workspace, found: FoundWeights) -> Tokenizer | None:
    """Return the tokenizer of weights: the run's, the file's own, or one in the workspace.

    Raises:
        BadData: a recorded tokenizer is broken.
    """
    own = carried_tokenizer(found)
    if isinstance(own, Tokenizer):
        return own
    weights = found.weights
    if own is not None and weights.origin.tokenizer is None:
        return None
    return tokenizer_with(
        workspace, weights.origin.tokenizer, weights.config.vocab_size, beside=weights.path
    )


def carried_tokenizer(found: FoundWeights) -> Tokenizer | Unheld | None:
    """Return the tokenizer in a run, in the weights' own format, or beside a checkpoint.

    Returns None if there is none.

    Raises:
        BadData: it is damaged.
    """
    if found.folder is not None:
        return recorded_tokenizer(found.folder)
    weights = found.weights
    fingerprint = weights.origin.tokenizer
    for suffix in TOKENIZER_SUFFIXES:
        if (beside := weights.path.with_suffix(suffix)).is_file():
            tokenizer = load_tokenizer(str(beside))
            if fingerprint is None or tokenizer.fingerprint == fingerprint.hex():
                return tokenizer
    return weights.tokenizer()


def template_notes(found: FoundWeights) -> tuple[str, ...]:
    """Return a sentence about a chat template beside weights that is not one of llmc's.

    Raises:
        BadData: a recorded tokenizer is broken.
    """
    text = found.weights.chat_template()
    own = carried_tokenizer(found) if text is not None else None
    if not isinstance(own, Tokenizer):
        return ()
    if with_chat_template(replace(own, template=None), text).template is not None:
        return ()
    used = f": {own.template.name} is used, whose tokens it has" if own.template else ""
    return (f"its chat template is none of llmc's, and is left out{used}",)


def fingerprint_of(found: FoundWeights) -> bytes | None:
    """Return the tokenizer fingerprint for a checkpoint of these weights; None if not known.

    A tokenizer that llmc cannot hold has one too: data of another tokenizer is then refused.

    Raises:
        BadData: a recorded tokenizer is broken.
    """
    weights = found.weights
    if isinstance(weights, RandomModel):  # can be trained on any tokens
        return None
    if weights.origin.tokenizer is not None:
        return weights.origin.tokenizer
    if (own := carried_tokenizer(found)) is not None:
        return bytes.fromhex(own.fingerprint)
    if weights.config.vocab_size != GPT2_VOCAB_SIZE:
        return None
    try:
        return bytes.fromhex(load_tokenizer("gpt2").fingerprint)
    except LlmcError:
        # Without it, train cannot check that data and weights belong together.
        return None


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return a tokenizer's tokens and merges, for the files of other programs.

    Raises:
        BadData: these files cannot represent it.
    """
    if tokenizer.name == HUGGINGFACE:
        return vocabulary_of_table(tokenizer)
    tokens, special = tokenizer.tokens(), sorted(tokenizer.special_tokens.values())
    in_order = special == list(range(tokenizer.eot, tokenizer.eot + len(special)))
    if tokenizer.pattern != PATTERN or not in_order or tokenizer.eot != len(tokens):
        raise BadData(
            f"the tokenizer {tokenizer.name} splits text by a rule of its own, which llmc "
            "cannot write for other programs: export with --to llmc"
        )
    return vocabulary_with(tokenizer, merges_of(tokens))


def gguf_vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return a tokenizer as GGUF holds it, after checking that it would be read back the same.

    Raises:
        BadData: llama.cpp would find other tokens.
    """
    vocabulary = vocabulary_of(tokenizer)
    again = tokenizer_of_vocabulary(vocabulary, vocabulary.eot, tokenizer.fingerprint)
    if again.fingerprint != tokenizer.fingerprint:
        raise BadData(
            f"a GGUF file cannot hold the tokenizer {tokenizer.name}: its split pattern, its "
            "unknown token or the way it finds added tokens is not GPT-2's; export with --to hf"
        )
    return vocabulary
