"""Encode documents, a batch at a time, with tiktoken or, if it is installed, gigatoken.

Encoding a batch is one call that releases Python's lock.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from llmc.errors import BadData, LlmcError, Usage
from llmc.installation import install_command
from llmc.kinds import is_failure
from llmc.text.conversations import is_packed
from llmc.text.documents import ENDOFTEXT
from llmc.text.source import Part
from llmc.text.utf8 import well_formed
from llmc.tokens.byte_level import merges_of
from llmc.tokens.files import token_dtype
from llmc.tokens.held import CharacterCoder, HeldCoder, HuggingFaceCoder
from llmc.tokens.runs import Unencodable, encode_carefully, failures_explained, naming
from llmc.tokens.tokenizer import PATTERN, Tokenizer
from llmc.tokens.vocabulary import PATTERNS, TOKENIZER_FILE, file_form

if TYPE_CHECKING:
    import tiktoken

    from llmc.tokens.files import Ids
    from llmc.tokens.masks import Marked

BATCH_CHARACTERS = 1 << 18

# Where a document may be cut so that its pieces have the tokens of the whole. No match of GPT-2's
# pattern continues from a non-space to a space, and none looks back. tiktoken's newer patterns may
# join newlines to the punctuation before them, but no blank.
CUT_ANYWHERE = re.compile(r"(?<=\S)[ \n]")
CUT_AT_BLANKS = re.compile(r"(?<=\S) ")

FAST_SCHEMES = {"cl100k_base": "cl100k", "o200k_base": "o200k"}  # gigatoken's names of patterns
FROM_FILES = ("bpe", "tiktoken")  # names of tokenizers whose tokens may be anybody's
SAMPLES = 8
OWN_ENCODINGS = 16  # threads with an encoding of their own; GPT-2's takes 11 MB and 30 ms


# Text in order: documents, or their pieces, each with whether it begins a document.
Texts = Iterable[str | tuple[bool, str]]
Batch = list[tuple[bool, str]]


@dataclass(frozen=True)
class Encoded:
    """An encoded batch: ids (n,), and the number of bytes of its text in UTF-8."""

    # Integers, or of conversations records of an id and its byte of the mask.
    ids: Marked
    text_bytes: int


Encode = Callable[[Batch], Encoded]


def batches(texts: Texts, cuts: re.Pattern[str] | None) -> Iterator[Batch]:
    """Group documents into batches of about ``BATCH_CHARACTERS``; cut longer ones at ``cuts``."""
    batch: Batch = []
    size = 0
    for start, piece in pieces(texts, cuts, BATCH_CHARACTERS):
        batch.append((start, piece))
        size += len(piece)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Conversations(Unencodable):
    """A text that holds conversations among other records."""

    advice = "name the files of one kind, or the field of the text with --field"


def check_text(batch: Batch) -> None:
    """Refuse conversations, which an encoder of text would read as JSON.

    Raises:
        Conversations: a document is one.
    """
    if any(start and is_packed(text) for start, text in batch):
        raise Conversations("it holds conversations after other text")


def pieces(texts: Texts, cuts: re.Pattern[str] | None, size: int) -> Iterator[tuple[bool, str]]:
    """Yield documents in pieces of about ``size`` characters, with whether a piece begins one.

    Where the pieces are cut depends on the documents alone, not on the pieces they come in: at
    ``cuts`` (None: nowhere), with at least ``size`` characters, except for a document's last.
    """
    begun, start, held, searched = False, True, "", 0
    for text in texts:
        begins, piece = (True, text) if isinstance(text, str) else text
        if begins:
            if begun:
                yield start, held
            begun, start, held, searched = True, True, "", 0
        held += piece
        at = 0
        while cuts is not None and len(held) - at > 2 * size:
            found = cuts.search(held, max(at + size, searched))
            if found is None:
                searched = len(held)
                break
            yield start, held[at : found.start()]
            start, at = False, found.start()
        if at:
            held, searched = held[at:], max(0, searched - at)
    if begun:
        yield start, held


def cuts_of(tokenizer: Tokenizer, *, special: bool = False) -> re.Pattern[str] | None:
    """Return a pattern of the places where documents may be cut; None: no safe place is known.

    With ``special``, special tokens in documents are tokens, and must not be cut.
    """
    if special and any(re.search(r"\s", text) for text in tokenizer.special_tokens):
        return None
    if isinstance(tokenizer.encoding, CharacterCoder):
        return CUT_ANYWHERE
    if isinstance(tokenizer.encoding, HuggingFaceCoder):
        return CUT_AT_BLANKS if tokenizer.encoding.splits_at_blanks else None
    if tokenizer.pattern == PATTERN:
        return CUT_ANYWHERE
    return CUT_AT_BLANKS if tokenizer.pattern in PATTERNS.values() else None


def tiktoken_encoder(tokenizer: Tokenizer, *, special: bool = False) -> Encode:
    """Return a function that encodes batches with tiktoken, ``<|endoftext|>`` before each document.

    With ``special``, the text of a special token in a document becomes that token.
    """
    import numpy as np

    encoding_here = _per_thread(tokenizer)
    allowed = set(tokenizer.special_tokens) if special else {ENDOFTEXT}

    def joined_ids(text: str) -> Ids:
        return encoding_here().encode_to_numpy(text, allowed_special=allowed, disallowed_special=())

    def one_by_one(batch: Batch) -> Ids:
        tokens = set(tokenizer.special_tokens) if special else set()
        arrays = [np.empty(0, np.uint32)]
        for start, text in batch:
            ids = encode_carefully(tokenizer, encoding_here(), well_formed(text), tokens)
            arrays.append(np.array([tokenizer.eot] * start + ids, np.uint32))
        return np.concatenate(arrays)

    return _encoder(tokenizer, joined_ids, one_by_one, special=special)


class HeldEncoder:
    """Encodes batches with a tokenizer that is held as a document.

    With ``special``, the text of a special token becomes that token.

    Attributes:
        lost_bytes: bytes of text so far that no token stands for: the vocabulary lacks them.
    """

    def __init__(self, tokenizer: Tokenizer, *, special: bool) -> None:
        self.lost_bytes = 0
        self._tokenizer, self._special = tokenizer, special
        self._sizes = tokenizer.byte_lengths()
        if special:
            for text, token in tokenizer.special_tokens.items():
                self._sizes[token] = len(text.encode())
        self._lock = threading.Lock()

    def __call__(self, batch: Batch) -> Encoded:
        """Encode a batch.

        Raises:
            BadData: a tokenizer of characters does not have one of them.
            Unencodable: the library cannot encode it.
        """
        import numpy as np

        check_text(batch)
        coder = self._tokenizer.encoding
        assert isinstance(coder, HeldCoder)
        batch = [(start, well_formed(text)) for start, text in batch]
        size = _utf8_length(batch)
        arrays = [np.empty(0, np.int64)]
        kept = 0
        with failures_explained(self._tokenizer.name):
            many = coder.many([text for _, text in batch], special=self._special)
        for (start, text), ids in zip(batch, many, strict=True):
            found = np.array(ids, np.int64)
            # A prefix space stands for no byte of the text.
            kept += min(int(self._sizes[found].sum()), len(text.encode()))
            arrays += [np.full(int(start), self._tokenizer.eot, np.int64), found]
        with self._lock:
            self.lost_bytes += size - kept
        return Encoded(np.concatenate(arrays).astype(token_dtype(self._tokenizer.vocab_size)), size)


def exact_encoder(tokenizer: Tokenizer, *, special: bool = False) -> Encode:
    """Return the encoder of a tokenizer: its document's, or tiktoken."""
    if tokenizer.document is not None:
        return HeldEncoder(tokenizer, special=special)
    return tiktoken_encoder(tokenizer, special=special)


def fast_encoder(tokenizer: Tokenizer, scheme: str, exact: Encode) -> Encode:
    """Return a function that encodes batches with gigatoken, as :func:`tiktoken_encoder` does.

    ``scheme`` is gigatoken's name of the tokenizer's pattern. ``exact`` encodes text that contains
    ``<|endoftext|>``, which gigatoken cannot.
    """
    import numpy as np
    from gigatoken import Tokenizer as Fast

    # It loads files only. Its other loaders treat special tokens in a text as tokens.
    with tempfile.TemporaryDirectory(prefix="llmc-") as folder:
        path = Path(folder) / TOKENIZER_FILE
        path.write_bytes(file_form(tokenizer.ranks))
        backend = Fast.from_tiktoken(
            path, pretokenizer=scheme, special_tokens={ENDOFTEXT: tokenizer.eot}
        ).backend

    def joined_ids(text: str) -> Ids:
        # A batch of one: the call for a single text does not release Python's lock.
        (ids,) = backend.encode_batch([text.encode()], parallel=False)
        return np.asarray(ids)

    return _encoder(tokenizer, joined_ids, lambda batch: exact(batch).ids)


def _encoder(
    tokenizer: Tokenizer,
    joined_ids: Callable[[str], Ids],
    otherwise: Callable[[Batch], Ids],
    *,
    special: bool = False,
) -> Encode:
    """Return a function that encodes batches.

    ``joined_ids`` encodes a batch as one text, in which ``<|endoftext|>`` begins each document.
    ``otherwise`` encodes one on which that fails and, unless ``special``, one whose documents
    contain ``<|endoftext|>``.
    """
    dtype = token_dtype(tokenizer.vocab_size)

    def encode(batch: Batch) -> Encoded:
        check_text(batch)
        try:
            size = _utf8_length(batch)
        except UnicodeEncodeError:
            batch = [(start, well_formed(text)) for start, text in batch]
            size = _utf8_length(batch)
        # No prefix of <|endoftext|> is also a suffix: a document's end cannot complete one.
        joined = "".join(part for start, text in batch for part in (ENDOFTEXT * start, text))
        is_framed = special or joined.count(ENDOFTEXT) == sum(start for start, _ in batch)
        try:
            ids = joined_ids(joined) if is_framed else otherwise(batch)
        except BaseException as error:
            if not is_failure(error) or isinstance(error, LlmcError):
                raise
            ids = otherwise(batch)
        return Encoded(ids.astype(dtype), size)

    return encode


def _utf8_length(batch: Batch) -> int:
    return sum(len(text) if text.isascii() else len(text.encode()) for _, text in batch)


def _per_thread(tokenizer: Tokenizer) -> Callable[[], tiktoken.Encoding]:
    """Return a function that gives each thread its own encoding.

    A regular expression's scratch space belongs to the thread that first used it; other threads get
    theirs under a lock, which costs a sixth of the speed. After ``OWN_ENCODINGS`` threads they do.
    """
    import tiktoken

    kept = threading.local()
    threads = count()

    def encoding() -> tiktoken.Encoding:
        if not hasattr(kept, "encoding"):
            kept.encoding = cast("tiktoken.Encoding", tokenizer.encoding)
            if 0 < next(threads) < OWN_ENCODINGS:
                kept.encoding = tiktoken.Encoding(
                    tokenizer.name,
                    pat_str=tokenizer.pattern,
                    mergeable_ranks=dict(tokenizer.ranks),
                    special_tokens=dict(tokenizer.special_tokens),
                )
        found: tiktoken.Encoding = kept.encoding
        return found

    return encoding


class ChosenEncoder(NamedTuple):
    """An encoder, and a note about the choice, or an empty string."""

    encode: Encode
    note: str = ""


def choose_encoder(
    tokenizer: Tokenizer, parts: Sequence[Part], *, fast: bool | None, special: bool
) -> ChosenEncoder:
    """Return the encoder of a text: gigatoken if it gives tiktoken's tokens, else tiktoken.

    They are compared on samples of ``parts``. ``fast`` is None for gigatoken if it is installed.

    Raises:
        Usage: ``fast`` is True, and gigatoken is not installed or cannot hold the tokenizer.
        BadData: the text cannot be read.
    """
    import numpy as np

    if fast and tokenizer.document is not None:
        raise Usage(f"--fast cannot encode with the tokenizer {tokenizer.name}: leave it out")
    exact = exact_encoder(tokenizer, special=special)
    if fast is False or tokenizer.document is not None:
        return ChosenEncoder(exact)
    if importlib.util.find_spec("gigatoken") is None:
        if fast:
            raise Usage(f"--fast needs the package gigatoken: {install_command('fast')}")
        return ChosenEncoder(exact)
    scheme = "gpt2" if tokenizer.pattern == PATTERN else FAST_SCHEMES.get(tokenizer.name)
    fault = _unlike_gigatoken(tokenizer)
    if scheme is None or special or fault:
        unheld = "special tokens in a text" if special else tokenizer.name
        fault = fault or f"gigatoken does not support {unheld}"
        return ChosenEncoder(exact, f"using tiktoken: {fault}")
    try:
        quick = fast_encoder(tokenizer, scheme, exact)
        agree = True
        for name, batch in _samples(parts, cuts_of(tokenizer)):
            with naming(name):
                agree = agree and np.array_equal(quick(batch).ids, exact(batch).ids)
    except LlmcError:
        raise
    except BaseException as error:  # whatever fails in it, tiktoken can do the work
        if not is_failure(error):
            raise
        return ChosenEncoder(exact, f"using tiktoken: gigatoken failed ({type(error).__name__})")
    if not agree:
        return ChosenEncoder(exact, "using tiktoken: gigatoken's tokens differ on this text")
    return ChosenEncoder(
        quick, "encoding with gigatoken, which agrees with tiktoken on samples of the text"
    )


def _unlike_gigatoken(tokenizer: Tokenizer) -> str:
    """Return why gigatoken would panic on a tokenizer from a file; empty if it does not."""
    if tokenizer.name not in FROM_FILES:
        return ""
    try:
        merges_of(tokenizer.tokens())
    except BadData as error:
        return f"gigatoken cannot hold the tokenizer ({error})"
    return ""


def _samples(parts: Sequence[Part], cuts: re.Pattern[str] | None) -> Iterator[tuple[str, Batch]]:
    """Yield the name and the first batch of some parts, evenly spaced."""
    for part in parts[:: max(1, len(parts) // SAMPLES)]:
        yield from ((part.name, batch) for batch in islice(batches(part.texts(), cuts), 1))
