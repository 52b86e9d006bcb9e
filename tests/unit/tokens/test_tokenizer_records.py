"""What records a tokenizer brings the same one back or is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry

from llmc.errors import BadData
from llmc.tokens.bpe import train_bpe
from llmc.tokens.recorded import load_recorded, record_tokenizer, recorded_tokenizer, save_tokenizer
from llmc.tokens.tokenizer import PATTERN, Tokenizer, load_tokenizer
from tests.helpers.awkward import SOURCES


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
