"""tiktoken's encodings: by name, by their file and pattern, and their records."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry

from llmc.errors import BadData, Usage
from llmc.tokens.recorded import load_recorded, record_tokenizer, recorded_tokenizer, save_tokenizer
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_files import decoding_tokenizer
from llmc.tokens.vocabulary import PATTERNS, PUBLISHED_FILES
from tests.helpers.awkward import AWKWARD, SOURCES

# ---- tiktoken's encodings by name


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> str:
    """An encoding such as cl100k_base: its own pattern, ids left out, the end not the last."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {b"12": 256, b"ab": 258, b"  ": 259}

    def constructor() -> dict[str, object]:
        return {
            "name": "odd",
            "pat_str": r"\p{N}{1,2}|[^\p{N}]+",
            "mergeable_ranks": ranks,
            "special_tokens": {"<|endoftext|>": 257, "<|prompt|>": 270},
        }

    tiktoken.registry._find_constructors()
    constructors = {**(tiktoken.registry.ENCODING_CONSTRUCTORS or {}), "odd": constructor}
    monkeypatch.setattr(tiktoken.registry, "ENCODING_CONSTRUCTORS", constructors)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    return "odd"


def test_an_encoding_comes_by_its_name(odd: str) -> None:
    tokenizer = load_tokenizer(odd)
    assert (tokenizer.name, tokenizer.eot, tokenizer.vocab_size) == ("odd", 257, 271)
    assert tokenizer.special_tokens == {"<|endoftext|>": 257, "<|prompt|>": 270}
    theirs = tiktoken.get_encoding(odd)
    for text in [*AWKWARD, "ab123  4<|prompt|>"]:
        assert tokenizer.encode(text) == theirs.encode_ordinary(text)
        assert tokenizer.detokenize(tokenizer.encode(text)) == text.encode()
    assert tokenizer.detokenize([49, 260, 256, 269, 270]) == b"112<|prompt|>"
    with pytest.raises(BadData, match="token 271 is not in the odd vocabulary"):
        tokenizer.detokenize([271])
    assert len(tokenizer.tokens()) == 259
    serialised = tokenizer.pattern + "\n"
    for token, rank in sorted(tokenizer.ranks.items(), key=lambda item: item[1]):
        serialised += base64.b64encode(token).decode() + f" {rank}\n"
    serialised += "<|endoftext|> 257\n<|prompt|> 270\n"
    assert tokenizer.fingerprint == hashlib.sha256(serialised.encode()).hexdigest()


def test_an_encoding_s_record_brings_it_back_without_its_name(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(odd)
    record_tokenizer(tokenizer, tmp_path)
    save_tokenizer(tokenizer, tmp_path / "data" / "tokenizer.tiktoken")
    monkeypatch.undo()  # nobody knows the name any more
    with pytest.raises(Usage, match="no tokenizer 'odd'"):
        load_tokenizer(odd)
    assert recorded_tokenizer(tmp_path) == tokenizer
    loaded = load_recorded(tmp_path / "data", "odd", tokenizer.fingerprint, "tokenizer.tiktoken")
    assert loaded == load_tokenizer(str(tmp_path / "tokenizer.tiktoken")) == tokenizer
    assert loaded.encode("ab123") == [258, 256, 51]
    (tmp_path / "tokenizer.json").unlink()  # the tokens alone have a gap that nothing explains
    with pytest.raises(BadData, match="id 258 is out of order"):
        load_tokenizer(str(tmp_path / "tokenizer.tiktoken"))


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "("},
        {"pattern": None},
        {"special_tokens": {"<|endoftext|>": 7}},
        {"special_tokens": {"<|endoftext|>": -7}},
        {"special_tokens": {"<|prompt|>": 270}},
        {"special_tokens": "<|endoftext|>"},
        {"fingerprint": "0"},
    ],
)
def test_a_tampered_record_of_an_encoding_is_refused(
    odd: str, tmp_path: Path, change: dict[str, object]
) -> None:
    record_tokenizer(load_tokenizer(odd), tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadData):
        recorded_tokenizer(tmp_path)


def test_r50k_base_is_gpt2_by_another_name(gpt2: Tokenizer) -> None:
    assert load_tokenizer("r50k_base") == gpt2


def test_an_encoding_that_cannot_be_had_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(BadData, match=r"cl100k_base is not in tiktoken's cache.*network"):
        load_tokenizer("cl100k_base")


def test_an_encoding_without_an_end_of_text_is_refused(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    constructor = tiktoken.registry.ENCODING_CONSTRUCTORS["odd"]  # type: ignore[index]
    monkeypatch.setitem(
        tiktoken.registry.ENCODING_CONSTRUCTORS,  # type: ignore[arg-type]
        "odd",
        lambda: {**constructor(), "special_tokens": {}},
    )
    with pytest.raises(BadData, match=r"no <\|endoftext\|> token"):
        load_tokenizer(odd)


def test_a_file_without_its_pattern_asks_for_it(tmp_path: Path, bpe: Tokenizer) -> None:
    path = tmp_path / "mine.tiktoken"
    save_tokenizer(bpe, path)
    with pytest.raises(Usage, match="--pattern gpt2, cl100k, o200k or a regular expression"):
        load_tokenizer(str(path))
    assert load_tokenizer(str(path), pattern="gpt2") == bpe
    assert decoding_tokenizer(str(path)).detokenize([65, 256]) == bpe.detokenize([65, 256])
    with pytest.raises(Usage, match="not a regular expression"):
        load_tokenizer(str(path), pattern="(")


@pytest.mark.parametrize("name", ["cl100k", "o200k", r"\w+|\s+|[^\w\s]+"])
def test_a_pattern_that_is_given_splits_as_tiktoken_does(
    name: str, tmp_path: Path, bpe: Tokenizer
) -> None:
    path = tmp_path / "mine.tiktoken"
    save_tokenizer(bpe, path)
    found = load_tokenizer(str(path), pattern=name)
    theirs = tiktoken.Encoding(
        "theirs",
        pat_str=PATTERNS.get(name, name),
        mergeable_ranks=dict(bpe.ranks),
        special_tokens={"<|endoftext|>": 599},
    )
    for text in [*AWKWARD, *SOURCES]:
        assert found.encode(text) == theirs.encode_ordinary(text)
    assert (found.eot, found.fingerprint != bpe.fingerprint) == (599, True)
    (tmp_path / "run").mkdir()
    record_tokenizer(found, tmp_path / "run")
    assert recorded_tokenizer(tmp_path / "run") == found


@pytest.mark.parametrize("beside", ["manifest.json", "mine.bin"])
def test_what_records_the_fingerprint_vouches_for_the_pattern(
    beside: str, tmp_path: Path, bpe: Tokenizer
) -> None:
    save_tokenizer(bpe, tmp_path / "mine.tiktoken")
    of_checkpoint = bytes(200) + bytes.fromhex(bpe.fingerprint)
    content = bpe.fingerprint.encode() if beside == "manifest.json" else of_checkpoint
    (tmp_path / beside).write_bytes(content)
    assert load_tokenizer(str(tmp_path / "mine.tiktoken")) == bpe


def test_a_published_file_is_known_by_its_hash(
    tmp_path: Path, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cl100k_base.tiktoken"
    save_tokenizer(bpe, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(PUBLISHED_FILES, digest, ("cl100k_base", "cl100k", {"<|endoftext|>": 900}))
    found = load_tokenizer(str(path))
    assert (found.name, found.eot, found.pattern) == ("cl100k_base", 900, PATTERNS["cl100k"])


def test_the_patterns_and_hashes_are_tiktoken_s(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: Any = importlib.import_module("tiktoken_ext.openai_public")
    hashes: list[str] = []

    def remember(_url: str, expected_hash: str) -> dict[bytes, int]:
        hashes.append(expected_hash)
        return {}

    monkeypatch.setattr(theirs, "load_tiktoken_bpe", remember)
    for make in (theirs.r50k_base, theirs.p50k_base, theirs.cl100k_base, theirs.o200k_base):
        made = make()
        name, pattern, special = PUBLISHED_FILES[hashes[-1]]
        assert name in (made["name"], "gpt2")
        assert (PATTERNS[pattern], special) == (made["pat_str"], made["special_tokens"])


def test_a_pattern_for_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    for spec in ("gpt2", "byte", str(tmp_path / "tokenizer.json")):
        with pytest.raises(Usage, match="--pattern"):
            load_tokenizer(spec, pattern="gpt2")
