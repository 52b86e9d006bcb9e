"""A text tokenized in parts and joined is the text tokenized at once."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.errors import Usage
from llmc.text.source import Part, documents_of
from llmc.tokens.files import read_tokens
from llmc.tokens.manifest import load_manifest, verify
from llmc.tokens.merge import range_of, read_shard
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import ok
from tests.unit.tokens.test_shards import documents, ids_of, texts

FLAGS = ("--tokenizer", "byte", "--shard-tokens", "3000")


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    of=st.integers(1, 9),
    known=st.booleans(),
    claimed=st.floats(0.2, 2),
)
def test_ranges_are_the_whole_in_order(
    counts: list[int], of: int, known: bool, claimed: float
) -> None:
    """Whatever a part says about its size: a compressed one has more text than bytes."""
    stream = iter(documents(sum(counts)))
    parts = []
    for count in counts:
        some = [next(stream) for _ in range(count)]
        size = round(claimed * sum(len(text.encode()) for text in some)) if known else None
        parts.append(Part("x", size, partial(iter, some)))
    ranges = [range_of(parts, index, of) for index in range(1, of + 1)]
    assert [text for some in ranges for text in documents_of(some)] == list(documents_of(parts))


def test_ranges_are_even(monkeypatch: pytest.MonkeyPatch) -> None:
    text = documents(2000)
    size = sum(len(document.encode()) for document in text)
    one = (Part("one", size, partial(iter, text)),)
    many = [Part("x", len(document.encode()), partial(iter, [document])) for document in text]
    for parts in (one, many):
        for index in range(1, 5):
            some = documents_of(range_of(parts, index, 4))
            assert abs(sum(len(document.encode()) for document in some) - size / 4) < 2000


@pytest.mark.parametrize(
    "text", ["", "1", "0/4", "5/4", "-1/4", "1/0", "a/b", "1/1000000", "1/2/3"]
)
def test_a_shard_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(Usage, match="--shard takes I/N"):
        read_shard(text)


@pytest.mark.parametrize("flags", [(), ("--val-tokens", "5000")])
def test_two_workers_make_what_one_makes(llmc: Llmc, flags: tuple[str, ...]) -> None:
    texts(llmc.workspace / "corpus", 80)
    ok(llmc("tokenize", "corpus", *FLAGS, *flags, "--out", "whole"))
    commands = [
        subprocess.Popen(
            [*llmc.command, "tokenize", "corpus", *FLAGS, "--shard", f"{index}/2"],
            cwd=llmc.workspace,
            env=llmc.env(),
            stderr=subprocess.DEVNULL,
        )
        for index in (1, 2)
    ]
    assert [command.wait(120) for command in commands] == [0, 0]
    folder = llmc.workspace / "data" / "corpus"
    first = load_manifest(folder / "part-001-of-002")
    assert first.part is not None and (first.part.index, first.part.of) == (1, 2)
    error = assert_one_sentence(llmc("train", "--data", folder / "part-001-of-002"), 3)
    assert "llmc tokenize --merge" in error
    done = ok(llmc("tokenize", "--merge", "data/corpus", *flags, "--json"))
    result = json.loads(done.stdout)
    made, whole = load_manifest(folder), load_manifest(llmc.workspace / "whole")
    verify(made)
    assert result["folder"] == str(folder) and result["part"] is None
    assert ids_of(made, made.train) == ids_of(whole, whole.train)
    assert ids_of(made, made.val) == ids_of(whole, whole.val)
    assert (made.source, made.text_bytes, made.tokenizer) == (
        whole.source,
        whole.text_bytes,
        whole.tokenizer,
    )
    assert made.split == whole.split
    verify(first)
    ok(llmc("tokenize", "--merge", "data/corpus", *flags))  # and once more


@pytest.fixture
def parts(llmc: Llmc) -> Path:
    """A dataset in three parts."""
    texts(llmc.workspace / "corpus", 20)
    for index in (1, 2, 3):
        ok(llmc("tokenize", "corpus", "--tokenizer", "byte", "--shard", f"{index}/3"))
    return llmc.workspace / "data" / "corpus"


def test_parts_that_do_not_fit_are_refused(llmc: Llmc, parts: Path) -> None:
    second = parts / "part-002-of-003"
    moved = second.rename(llmc.workspace / "elsewhere")
    error = assert_one_sentence(llmc("tokenize", "--merge", parts), 3)
    assert "1 of 3 parts of corpus are missing (2/3)" in error
    for twins in ((parts, moved, parts / "part-001-of-003"), (parts, moved)):
        ok(llmc("tokenize", "--merge", *twins, "--out", "joined"))
    manifest = moved / "manifest.json"
    good = json.loads(manifest.read_text())
    for change, words in (
        ({"source": [{"sha256": "1"}]}, "their text differs"),
        ({"part": {**good["part"], "of": 4}}, "their number of parts differs"),
        ({"part": {**good["part"], "index": 1}}, "are the same part"),
        ({"special": True}, "their treatment of special tokens differs"),
        (
            {"part": None, "val": [{**good["train"][0], "file": "v.bin"}]},
            "is not a part",
        ),
        ({"train": [{**good["train"][0], "sha256": "0" * 64}]}, "is not the file its manifest"),
    ):
        manifest.write_text(json.dumps({**good, **change}))
        done = llmc("tokenize", "--merge", parts, moved, "--out", "never")
        assert done.returncode in (1, 2), done.stderr
        assert words in done.stderr
    assert not (llmc.workspace / "never").exists()
    assert not (parts / "manifest.json").exists()


def test_a_dataset_s_own_validation_text_is_split_and_joined_too(llmc: Llmc) -> None:
    folder = llmc.workspace / "data" / "tinystories"
    folder.mkdir(parents=True)
    for name, count in (("train", 200), ("valid", 20)):
        stories = "<|endoftext|>".join(f"x{text}" for text in documents(count))
        (folder / f"TinyStoriesV2-GPT4-{name}.txt").write_text(stories)
    ok(llmc("tokenize", "tinystories", "--tokenizer", "byte", "--out", "whole"))
    for index in (1, 2, 3):
        ok(llmc("tokenize", "tinystories", "--tokenizer", "byte", "--shard", f"{index}/3"))
    assert_one_sentence(llmc("tokenize", "--merge", folder, "--val-tokens", "9"), 2)
    ok(llmc("tokenize", "--merge", folder))
    made, whole = load_manifest(folder), load_manifest(llmc.workspace / "whole")
    assert len(made.train.shards) == 3  # one file of stories, cut between them
    assert ids_of(made, made.train) == ids_of(whole, whole.train)
    assert ids_of(made, made.val) == ids_of(whole, whole.val)
    assert made.text_bytes == whole.text_bytes


def test_more_workers_than_text_leave_some_idle(llmc: Llmc) -> None:
    (llmc.workspace / "one.txt").write_text("some text in one document")
    for index in (1, 2, 3):
        ok(llmc("tokenize", "one.txt", "--tokenizer", "byte", "--shard", f"{index}/3"))
    ok(llmc("tokenize", "--merge", "data/one"))
    made = load_manifest(llmc.workspace / "data" / "one")
    assert [len(read_tokens(path)) for path in made.files] == [23, 3]
    assert np.concatenate([read_tokens(path) for path in made.files]).max() == 256


def test_flags_that_make_no_sense_with_parts(llmc: Llmc) -> None:
    (llmc.workspace / "x.txt").write_text("text " * 100)
    error = assert_one_sentence(
        llmc("tokenize", "x.txt", "--shard", "1/2", "--tokenizer", "bpe:300"), 2
    )
    assert "bpe:300" in error
    assert_one_sentence(llmc("tokenize", "x.txt", "--shard", "1/2", "--val-tokens", "5"), 2)
    assert_one_sentence(llmc("tokenize", "--merge", "x.txt", "--tokenizer", "byte"), 2)
    assert_one_sentence(llmc("tokenize", "--merge", "nowhere"), 3)
