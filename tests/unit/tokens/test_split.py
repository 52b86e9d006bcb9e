"""The validation split is a sample of documents: by a seeded hash, from everywhere in the text."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmc.paths import Workspace
from llmc.tokens import split
from llmc.tokens.dataset import tokenize
from llmc.tokens.files import TokenFile, read_tokens, write_tokens
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.split import draw, tokens_of

EOT, V = 0, 60_000


def stream(lengths: list[int], seed: int = 1) -> NDArray[np.int64]:
    """Return documents of so many tokens, end-of-text first in each."""
    random = np.random.default_rng(seed)
    return np.concatenate([[EOT, *random.integers(1, V, n - 1)] for n in lengths])


def written(folder: Path, *pieces: NDArray[Any]) -> list[TokenFile]:
    return [write_tokens(folder / f"{i}.bin", [ids], V) for i, ids in enumerate(pieces)]


def divided(files: list[TokenFile], target: int, seed: int = 1) -> tuple[list[int], list[int]]:
    """Return the tokens to validate and to train on."""
    both: list[list[int]] = [[], []]
    sample, start = draw(files, EOT, target, seed), 0
    for file in files:
        bounds = sample.of(start, start + file.tokens)
        start += file.tokens
        for place, within in enumerate((True, False)):
            for ids in tokens_of(read_tokens(file.path), bounds, within=within):
                both[place] += ids.tolist()
    return both[0], both[1]


def documents(ids: Any) -> list[tuple[int, ...]]:
    """Return the documents of a stream that begins with one."""
    cuts = np.flatnonzero(np.asarray(ids) == EOT)[1:]
    return [tuple(piece.tolist()) for piece in np.split(np.asarray(ids), cuts)]


@pytest.mark.parametrize("size", [12, 40, 400])
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_whole_documents_of_about_so_many_tokens(
    tmp_path: Path, size: int, fraction: float
) -> None:
    lengths = np.random.default_rng(2).integers(4, size, 300).tolist()
    ids = stream(lengths)
    target = round(fraction * len(ids))
    val, train = divided(written(tmp_path, ids), target)
    assert abs(len(val) - target) <= size or target < 1.5 * size
    assert sorted(documents(val) + documents(train)) == sorted(documents(ids))
    assert train[0] == val[0] == EOT
    everything = documents(ids)
    for part in (val, train):  # in the order of the text
        places = [everything.index(document) for document in documents(part)]
        assert places == sorted(places)


def test_they_come_from_everywhere_whatever_the_order(tmp_path: Path) -> None:
    lengths = [50] * 400
    ids = stream(lengths)
    val, _ = divided(written(tmp_path, ids), 2000)
    everything = documents(ids)
    places = [everything.index(document) for document in documents(val)]
    for part in range(4):
        assert 3 <= sum(part * 100 <= place < part * 100 + 100 for place in places) <= 20
    order = np.random.default_rng(3).permutation(400)
    shuffled = np.concatenate([everything[place] for place in order])
    again, _ = divided(written(tmp_path, shuffled), 2000)
    assert sorted(documents(again)) == sorted(documents(val))
    other, _ = divided(written(tmp_path, ids), 2000, seed=2)
    assert documents(other) != documents(val)


def test_a_document_stays_in_its_split_when_others_come(tmp_path: Path) -> None:
    ids = stream([50] * 400)
    before, _ = divided(written(tmp_path, ids), 2000)
    more = np.concatenate([ids, stream([50] * 400, seed=5)])
    val, train = divided(written(tmp_path, more), 4000)
    stayed = set(documents(before)) & set(documents(val))
    assert len(stayed) >= 0.7 * len(documents(before))
    assert not set(documents(val)) & set(documents(train))


def test_equal_documents_are_in_the_same_split(tmp_path: Path) -> None:
    ids = np.tile(stream([30] * 200), 2)
    val, train = divided(written(tmp_path, ids), 1200)
    assert not set(documents(val)) & set(documents(train))


@pytest.mark.parametrize("length", [9, 41, 574, 5000, 100_000])
def test_one_document_gives_runs_from_several_places(tmp_path: Path, length: int) -> None:
    ids = stream([length])
    target = max(2, length // 10)
    sample = draw(files := written(tmp_path, ids), EOT, target)
    val, train = divided(files, target, split.SEED)
    assert len(val) == target and len(val) + len(train) == length
    assert train[0] == EOT  # a sample without a prompt begins with it
    count = len(sample.bounds)
    assert count == min(max(target // 128, 1), 10)
    for i, (low, high) in enumerate(sample.bounds):  # one in each of as many equal parts
        assert i * (length - 1) // count <= low - 1 and high - 1 <= (i + 1) * (length - 1) // count


def test_a_long_document_among_short_ones_gives_its_share(tmp_path: Path) -> None:
    ids = stream([9000, *[10] * 100])
    sample = draw(written(tmp_path, ids), EOT, 1000)
    long = sample.bounds[sample.bounds[:, 0] < 9000]
    assert (long[:, 1] - long[:, 0]).sum() == 900
    assert sample.documents == 10


@pytest.mark.parametrize("count", [2, 7, 50])
def test_how_the_stream_is_cut_into_files_does_not_matter(tmp_path: Path, count: int) -> None:
    ids = stream(np.random.default_rng(4).integers(2, 60, 300).tolist())
    whole = divided(written(tmp_path, ids), 900)
    assert divided(written(tmp_path, *np.array_split(ids, count)), 900) == whole


def test_stretches_of_a_large_text_are_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "STRETCH", 500)
    ids = stream([20] * 1000)
    files = written(tmp_path, *np.array_split(ids, 40))
    val, train = divided(files, 800)
    assert abs(len(val) - 800) <= 16 * 20
    assert sorted(documents(val) + documents(train)) == sorted(documents(ids))
    sample = draw(files, EOT, 800)
    touched = sum(len(sample.of(500 * i, 500 * i + 500)) > 0 for i in range(40))
    assert touched <= 32  # the others are not written again


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(0, 300),
    st.integers(0, 5),
)
def test_every_token_is_in_one_split(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], target: int, drop: int
) -> None:
    ids = stream(lengths)[drop:]
    if not len(ids):
        return
    folder = tmp_path_factory.mktemp("split")
    val, train = divided(written(folder, *np.array_split(ids, 1 + target % 3)), target)
    assert sorted([*val, *train]) == sorted(ids.tolist())
    assert train or len(ids) <= 3


@given(st.lists(st.integers(0, 3000), max_size=8), st.booleans())
def test_ranges_within_and_outside(edges: list[int], within: bool) -> None:
    ids = np.arange(3000)
    edges = sorted(edges)[: len(edges) // 2 * 2]
    bounds = np.array(edges, np.int64).reshape(-1, 2)
    inside = np.zeros(3000, bool)
    for low, high in bounds:
        inside[low:high] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "SLICE", 701)
        found = [int(i) for piece in tokens_of(ids, bounds, within=within) for i in piece]
    assert found == ids[inside == within].tolist()


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2", "bpe:260", "characters"])
@pytest.mark.parametrize("words", [3, 40, 4000])
def test_a_single_document_begins_the_training_split(
    tmp_path: Path, tokenizer: str, words: int
) -> None:
    """A sample without a prompt begins with end-of-text, which therefore has to be trained."""
    text = "".join(f"word {number} of one document. " for number in range(words))
    (tmp_path / "a.txt").write_text(text)
    if tokenizer == "characters":
        ids = {character: index for index, character in enumerate(["\n", *sorted(set(text))])}
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": ids}))
        tokenizer = str(tmp_path / "meta.pkl")
    options = TokenizeOptions(tokenizer=tokenizer)
    made = tokenize(Workspace(tmp_path), [str(tmp_path / "a.txt")], options).manifest
    assert read_tokens(made.train_path)[0] == made.tokenizer.eot
    assert made.val.tokens > 0


def test_memory_does_not_grow_with_the_number_of_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of lines has millions of documents; those that cannot be chosen are forgotten."""
    lines = np.random.default_rng(1).integers(1, V, (100_000, 4))
    lines[:, 0] = EOT
    files = written(tmp_path, lines.ravel())
    monkeypatch.setattr(split, "SLICE", 1 << 15)
    tracemalloc.start()
    try:
        sample = draw(files, EOT, 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sample.tokens == 1000 and sample.documents == 250
    assert peak < 4e6, peak  # all documents at once take 10 MB


@given(
    lengths=st.lists(st.integers(2, 40), min_size=2, max_size=60),
    share=st.integers(2, 12),
    size=st.integers(1, 50),
)
def test_documents_are_looked_at_in_pieces_of_any_size(
    lengths: list[int], share: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = written(tmp_path_factory.mktemp("split"), stream(lengths))
    whole = draw(files, EOT, sum(lengths) // share)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(split, "SLICE", size)
        pieces = draw(files, EOT, sum(lengths) // share)
    assert pieces.documents == whole.documents
    assert pieces.bounds.tolist() == whole.bounds.tolist()
