"""Tokenizers: GPT-2's, plain bytes, a byte-level BPE trained here, any tiktoken encoding, others'.

A tokenizer is a vocabulary, a pattern that splits text before tokens are looked up, and special
tokens, one of which is ``<|endoftext|>``. GPT-2's tokenizer, the bytes and a trained BPE are plain:
a list of tokens defines them, because a token's id is its place in the list, the pattern is
GPT-2's, and ``<|endoftext|>`` is the only special token and has the last id. tiktoken's other
encodings have their own patterns and special tokens, which a tokenizer.json beside the tokens
records. A Hugging Face tokenizer and a table of characters are held as a document
(:mod:`llmc.tokens.held`).

The fingerprint is the SHA-256 of these UTF-8 bytes: the split pattern, a newline, the file form of
the tokens (:mod:`llmc.tokens.vocabulary`), then for each special token in the order of ids its
text, a space, its id and a newline. Equal fingerprints mean equal ids for every text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmc.errors import BadData, Usage
from llmc.kinds import is_failure
from llmc.text.documents import ENDOFTEXT
from llmc.tokens import vocabulary
from llmc.tokens.template import Template, template_of
from llmc.tokens.vocabulary import PATTERNS, TOKENIZER_FILE, encoding_names, file_form, ranks_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATTERN = PATTERNS["gpt2"]

GPT2_NAMES = ("gpt2", "r50k_base")  # the same vocabulary and pattern
GPT2_VOCAB_SIZE = 50257
SMALLEST_BPE = 258  # the bytes, one merge and end-of-text
WITHOUT_FILE = ("gpt2", "byte")  # they can be had again by name
KNOWN = {  # fingerprint -> name
    "dab4dab7b732ef20044345d12d29e641ff9d3854aea11b42cbabdfc623c6a90c": "gpt2",
    "2309cf2272d54a683a6081f7e6296aaa22fdfce68ff0c5f501e6f80e45c722e3": "byte",
}


class Coder(Protocol):
    """A ``tiktoken.Encoding`` or, for a document, a :class:`llmc.tokens.held.HeldCoder`."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of known ids."""


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and how text becomes ids in it."""

    # ``gpt2``, ``byte``, ``bpe``, ``huggingface``, ``characters`` or the name of a tiktoken
    # encoding.
    name: str
    encoding: Coder = field(repr=False, compare=False)
    # The id that comes before every document: end-of-text, or the newline of a tokenizer that has
    # no end-of-text.
    eot: int
    vocab_size: int  # V, the largest id plus 1
    fingerprint: str  # SHA-256 of everything that decides the ids, in hexadecimal
    # The split pattern, in tiktoken's syntax; empty if llmc does not split by it.
    pattern: str = field(repr=False)
    special_tokens: Mapping[str, int] = field(repr=False)  # text -> id
    # Token -> id, without the special tokens; of tokens with the same bytes, one.
    ranks: Mapping[bytes, int] = field(repr=False, compare=False)
    ends: bool = True  # whether ``eot`` ends a text
    # What defines a tokenizer that is held as a document; None for others.
    document: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    # How the messages of a conversation become tokens; None: it is not for conversations.
    template: Template | None = None

    @property
    def end(self) -> int | None:
        """The id that ends a text; None if none does."""
        return self.eot if self.ends else None

    @property
    def is_plain(self) -> bool:
        """Whether the tokens define it: GPT-2's pattern, ``<|endoftext|>`` alone and last."""
        return (
            self.document is None
            and self.pattern == PATTERN
            and self.special_tokens == {ENDOFTEXT: len(self.ranks)}
        )

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return the ids of ``text``.

        The text of a special token, such as ``<|endoftext|>``, is text like any other, or with
        ``special`` that token.

        Raises:
            BadData: a tokenizer of characters lacks one, or the library cannot encode the text.
        """
        from llmc.tokens.runs import encoded

        return encoded(self, text, set(self.special_tokens) if special else set())

    def known_ids(self, text: str) -> list[int]:
        """Return the ids of a text that comes often; they are remembered."""
        if text not in self._known:
            self._known[text] = self.encode(text)
        return self._known[text]

    @cached_property
    def _known(self) -> dict[str, list[int]]:
        return {}

    def text_sizes(self) -> dict[int, int]:
        """Return id -> bytes of text, of every token but the special ones."""
        sizes = {rank: len(token) for token, rank in self.ranks.items()}
        return sizes | getattr(self.encoding, "twins", {})

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the bytes of text of every token, (V,); special and unused ones have none."""
        import numpy as np

        lengths = np.zeros(self.vocab_size, np.int64)
        for token, size in self.text_sizes().items():
            lengths[token] = size
        return lengths

    def detokenize(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of the ids; UTF-8 unless a character is cut.

        An id that the encoding leaves unused has no bytes: an untrained model may sample one.

        Raises:
            BadData: an id is not in the vocabulary.
        """
        known = list(ids)
        for token in known:
            if not 0 <= token < self.vocab_size:
                raise BadData(
                    f"token {token} is not in the {self.name} vocabulary, whose ids are 0 to "
                    f"{self.vocab_size - 1}; name the right one with --tokenizer"
                )
        if self._unused:
            known = [token for token in known if token not in self._unused]
        return self.encoding.decode_bytes(known)

    @cached_property
    def _unused(self) -> frozenset[int]:
        """The ids below V that no token has."""
        if len(self.ranks) + len(self.special_tokens) == self.vocab_size:
            return frozenset()
        used = {*self.text_sizes(), *self.special_tokens.values()}
        return frozenset(range(self.vocab_size)) - used

    def ids_without_token(self, rows: int) -> str:
        """Return the ids of a model of ``rows`` rows that no token has: ``500-511,600-600``."""
        missing = [*sorted(self._unused), *range(self.vocab_size, rows)]
        ranges: list[tuple[int, int]] = []
        for token in missing:
            if ranges and ranges[-1][1] == token - 1:
                ranges[-1] = (ranges[-1][0], token)
            else:
                ranges.append((token, token))
        return ",".join(f"{first}-{last}" for first, last in ranges)

    def tokens(self) -> list[bytes]:
        """Return the bytes of all tokens but the special ones, in the order of their ids.

        If the tokenizer :attr:`is_plain`, a token's id is its place in this list.
        """
        return sorted(self.ranks, key=self.ranks.__getitem__)


def load_tokenizer(spec: str | Tokenizer, *, pattern: str | None = None) -> Tokenizer:
    """Return the tokenizer that ``spec`` names, or is.

    It is ``gpt2``, ``byte``, a tiktoken encoding, or a file or folder
    (:func:`llmc.tokens.tokenizer_files.tokenizer_at`). ``pattern`` is the split pattern of a file
    in tiktoken's form: a name in ``vocabulary.PATTERNS`` or a regular expression.

    Raises:
        Usage: ``spec`` is none of these; ``bpe:N`` has to be trained (:mod:`llmc.tokens.bpe`); the
            file's pattern is not known, or a pattern is given for anything else.
        BadData: a file is damaged, llmc cannot hold its tokenizer, or a vocabulary is not found.
    """
    from llmc.tokens.tokenizer_files import tokenizer_at

    if isinstance(spec, Tokenizer):
        return spec
    if pattern is not None and not Path(spec).is_file():
        raise Usage(f"--pattern is the split pattern of a file in tiktoken's form, not of '{spec}'")
    if spec in GPT2_NAMES:
        return plain_tokenizer("gpt2", ranks_of(vocabulary.gpt2_tokens()))
    if spec == "byte":
        return plain_tokenizer("byte", ranks_of(vocabulary.single_bytes()))
    if spec.startswith("bpe:"):
        raise Usage(f"'{spec}' is trained by 'llmc tokenize'; name the {TOKENIZER_FILE} it wrote")
    if spec and (found := tokenizer_at(spec, pattern)) is not None:
        return found
    if spec in encoding_names():
        return _named(spec)
    raise Usage(
        f"no tokenizer '{spec}': choose gpt2, byte, bpe:N (such as bpe:2048), auto, one of "
        f"tiktoken's ({', '.join(name for name in encoding_names() if name not in GPT2_NAMES)}), "
        f"a {TOKENIZER_FILE} that 'llmc tokenize' wrote, a Hugging Face tokenizer.json or its "
        "folder, or nanoGPT's meta.pkl"
    )


def bpe_vocab_size(spec: str | Tokenizer) -> int | None:
    """Return N if ``spec`` is ``bpe:N``, else None.

    Raises:
        Usage: N is not a number, or too small for the bytes, one merge and ``<|endoftext|>``.
    """
    if isinstance(spec, Tokenizer) or not spec.startswith("bpe:"):
        return None
    number = spec.removeprefix("bpe:")
    if not number.isdecimal() or not SMALLEST_BPE <= int(number) <= 2**24:
        raise Usage(
            f"'{spec}' is not a tokenizer: N in bpe:N is the size of the vocabulary, "
            f"{SMALLEST_BPE} (the bytes, one merge, <|endoftext|>) or more, such as bpe:2048"
        )
    return int(number)


def _named(name: str) -> Tokenizer:
    found = vocabulary.named_encoding(name)
    if ENDOFTEXT not in found.special_tokens_set:
        raise BadData(f"{name} has no {ENDOFTEXT} token to put between documents: choose another")
    # tiktoken has no public names for these two.
    return assembled(name, found._mergeable_ranks, found._pat_str, found._special_tokens)


def plain_tokenizer(name: str, ranks: Mapping[bytes, int]) -> Tokenizer:
    """Return a tokenizer with GPT-2's pattern and ``<|endoftext|>`` as its last token."""
    return assembled(name, ranks, PATTERN, {ENDOFTEXT: len(ranks)})


def named_if_known(tokenizer: Tokenizer) -> Tokenizer:
    """Return a plain tokenizer under its name if it is GPT-2's or the bytes."""
    name = KNOWN.get(tokenizer.fingerprint)
    return plain_tokenizer(name, tokenizer.ranks) if name is not None else tokenizer


def assembled(
    name: str, ranks: Mapping[bytes, int], pattern: str, special_tokens: Mapping[str, int]
) -> Tokenizer:
    """Assemble a tokenizer and compute its fingerprint.

    Raises:
        ValueError: an id is given twice, or the pattern is not a regular expression.
    """
    import tiktoken

    in_order = sorted(special_tokens.items(), key=lambda item: item[1])
    used = {*ranks.values(), *special_tokens.values()}
    if len(used) < len(ranks) + len(special_tokens):
        raise ValueError("two tokens have the same id")
    vocabulary.check_ids(used)
    try:
        encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=dict(special_tokens)
        )
    except BaseException as error:
        if not is_failure(error):
            raise
        raise ValueError(str(error)) from error
    digest = hashlib.sha256(f"{pattern}\n".encode())
    digest.update(file_form(ranks))
    digest.update("".join(f"{text} {rank}\n" for text, rank in in_order).encode())
    return Tokenizer(
        name=name,
        encoding=encoding,
        eot=special_tokens[ENDOFTEXT],
        vocab_size=max(used) + 1,
        fingerprint=digest.hexdigest(),
        pattern=pattern,
        special_tokens=dict(in_order),
        ranks=ranks,
        template=template_of(special_tokens),
    )
