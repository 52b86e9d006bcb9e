"""Find the tokenizer of weights, and convert it for other programs."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData, LlmcError
from llmc.paths import Workspace
from llmc.tokens.byte_level import Vocabulary, merges_of
from llmc.weights.lookup import TOKENIZER_SUFFIX, tokenizer_with
from llmc.weights.random import RandomModel
from llmc.weights.sources import FoundWeights

if TYPE_CHECKING:
    from llmc.tokens.tokenizer import Tokenizer

GPT2_VOCAB_SIZE = 50257


def find_tokenizer(workspace: Workspace, found: FoundWeights) -> Tokenizer | None:
    """Return the tokenizer of weights: the run's, the file's own, or one in the workspace.

    Raises:
        BadData: a recorded tokenizer is broken.
    """
    if (own := carried_tokenizer(found)) is not None:
        return own
    weights = found.weights
    if weights.origin.tokenizer is None and carries_tokenizer(found):
        return None
    return tokenizer_with(
        workspace, weights.origin.tokenizer, weights.config.vocab_size, beside=weights.path
    )


def carried_tokenizer(found: FoundWeights) -> Tokenizer | None:
    """Return the tokenizer in a run, a Hugging Face folder, a GGUF file, or beside a checkpoint.

    Returns None if there is none, or if llmc cannot represent it.

    Raises:
        BadData: it is damaged.
    """
    from llmc.tokens.tokenizer import load_tokenizer, recorded_tokenizer
    from llmc.tokens.tokenizer_json import read_tokenizer_json
    from llmc.weights.gguf import GgufModel
    from llmc.weights.huggingface import HuggingFaceModel

    weights = found.weights
    if found.folder is not None:
        return recorded_tokenizer(found.folder)
    if (beside := weights.path.with_suffix(TOKENIZER_SUFFIX)).is_file():
        return load_tokenizer(str(beside))
    if isinstance(weights, GgufModel):
        vocabulary = weights.vocabulary()
    elif isinstance(weights, HuggingFaceModel):
        vocabulary = read_tokenizer_json(weights.path.parent)
    else:
        return None
    return _tokenizer(vocabulary) if vocabulary is not None else None


def carries_tokenizer(found: FoundWeights) -> bool:
    """Return whether a Hugging Face folder or a GGUF file has a tokenizer."""
    from llmc.tokens.tokenizer_json import TOKENIZER, VOCAB
    from llmc.weights.gguf import GgufModel
    from llmc.weights.huggingface import HuggingFaceModel

    weights = found.weights
    if isinstance(weights, GgufModel):
        return "tokenizer.ggml.tokens" in weights.metadata
    if isinstance(weights, HuggingFaceModel):
        return any((weights.path.parent / name).is_file() for name in (TOKENIZER, VOCAB))
    return False


def fingerprint_of(workspace: Workspace, found: FoundWeights) -> bytes | None:
    """Return the tokenizer fingerprint for a checkpoint of these weights; None if not known.

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
    if carries_tokenizer(found):  # perhaps of GPT-2's size, but another one
        return None
    return gpt2_fingerprint(weights.config.vocab_size)


def gpt2_fingerprint(vocab_size: int) -> bytes | None:
    """Return the fingerprint of GPT-2's tokenizer if a model has its vocabulary, else None."""
    if vocab_size != GPT2_VOCAB_SIZE:
        return None
    from llmc.tokens.tokenizer import load_tokenizer

    try:
        return bytes.fromhex(load_tokenizer("gpt2").fingerprint)
    except LlmcError:
        # Without it, train cannot check that data and weights belong together.
        return None


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Return a tokenizer in the form of Hugging Face's and llama.cpp's files.

    Raises:
        BadData: these files cannot represent it.
    """
    from llmc.text.documents import ENDOFTEXT

    if not tokenizer.is_plain:
        raise BadData(
            f"the tokenizer {tokenizer.name} splits text by a pattern of its own, which llmc "
            "cannot write for other programs: export with --to llmc"
        )
    tokens = tokenizer.tokens()
    return Vocabulary((*tokens, ENDOFTEXT.encode()), (tokenizer.eot,), merges_of(tokens))


def _tokenizer(vocabulary: Vocabulary) -> Tokenizer | None:
    """Return the tokenizer that gives the same ids as a file's; None if llmc has none."""
    from llmc.text.documents import ENDOFTEXT
    from llmc.tokens.tokenizer import load_tokenizer
    from llmc.tokens.vocabulary import TOKENIZER_FILE

    *tokens, end = vocabulary.tokens
    if vocabulary.specials != (len(tokens),) or end != ENDOFTEXT.encode():
        return None
    try:
        if merges_of(tokens) != vocabulary.merges:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / TOKENIZER_FILE
            lines = (base64.b64encode(t) + b" %d\n" % rank for rank, t in enumerate(tokens))
            path.write_bytes(b"".join(lines))
            found = load_tokenizer(str(path))
    except BadData:  # a token that is no merge, a duplicate, or a missing byte
        return None
    for name in ("byte", "gpt2"):
        if found.fingerprint == _fingerprint(name, found.vocab_size):
            return load_tokenizer(name)
    return found


def _fingerprint(name: str, vocab_size: int) -> str | None:
    from llmc.tokens.tokenizer import load_tokenizer

    if name == "gpt2":
        found = gpt2_fingerprint(vocab_size)
        return found.hex() if found is not None else None
    return load_tokenizer(name).fingerprint
