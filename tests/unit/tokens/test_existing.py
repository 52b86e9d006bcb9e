"""A dataset that is there already is recognised by its text, not by the words that name it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llmc.errors import Usage
from llmc.paths import Workspace
from llmc.tokens.dataset import find_tokenized, tokenize
from llmc.tokens.options import TokenizeOptions


@pytest.mark.parametrize(
    "spelled", ["texts/", "./texts", "{here}/texts", "link", "texts/../texts", "{here}/link/"]
)
def test_a_folder_is_the_same_text_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b/c.txt"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(f"the text of {name}")
    (tmp_path / "link").symlink_to("texts")

    def tokenized(text: str) -> str:
        options = TokenizeOptions(tokenizer="byte", out=tmp_path / "made")
        return str(tokenize(Workspace(tmp_path), [text], options).manifest.source[0]["sha256"])

    first = tokenized("texts")
    assert tokenized(spelled.format(here=tmp_path)) == first
    assert tokenized("texts/**/*.txt") == first
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    assert tokenized("../texts") == first
    # Older versions recorded the paths as they were below the folder they ran in.
    lines = [
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("texts/a.txt", "texts/b/c.txt")
    ]
    older = hashlib.sha256("".join(lines).encode()).hexdigest()
    manifest = tmp_path / "made" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(first, older))
    monkeypatch.chdir(tmp_path)
    assert tokenized("texts") == first
    (tmp_path / "texts" / "a.txt").write_text("other text")
    with pytest.raises(Usage, match="--force"):
        tokenized("texts")


def test_the_default_takes_the_tokens_that_a_repetitive_text_yields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 KB fit 512 tokens; this text has fewer words. The same call finds its dataset again."""
    monkeypatch.chdir(tmp_path)
    Path("log.txt").write_text("0 ok\n" * 6000)
    auto = TokenizeOptions(tokenizer="auto")
    made = tokenize(Workspace(tmp_path), ["log.txt"], auto).manifest
    assert (made.tokenizer.asked, made.tokenizer.vocab_size) == (512, 259)
    assert made.load_tokenizer().fingerprint == made.tokenizer.fingerprint
    again = find_tokenized(Workspace(tmp_path), ["log.txt"], auto)
    assert again is not None and again.tokenizer == made.tokenizer
    assert tokenize(Workspace(tmp_path), ["log.txt"], auto).manifest == made
    with pytest.raises(Usage, match="another tokenizer"):  # who names 512 tokens gets them or none
        tokenize(Workspace(tmp_path), ["log.txt"], TokenizeOptions(tokenizer="bpe:512"))
