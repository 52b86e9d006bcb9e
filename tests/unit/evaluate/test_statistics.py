"""From losses of tokens to means, standard errors and bits per byte."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from llmc.evaluate.statistics import Tally, proportion, ratio, score, student_t95
from llmc.tokens.bpe import train_bpe
from llmc.tokens.tokenizer import load_tokenizer


def test_the_standard_error_is_the_bootstrap_s() -> None:
    generator = np.random.default_rng(1)
    sizes = generator.integers(5, 200, 80).astype(float)
    sums = sizes * (3 + generator.standard_normal(80) / 3)
    found = ratio(sums, sizes)
    picks = generator.integers(0, 80, (4000, 80))
    means = sums[picks].sum(1) / sizes[picks].sum(1)
    assert found.error is not None
    assert found.value == pytest.approx(sums.sum() / sizes.sum(), rel=1e-12)
    assert found.error == pytest.approx(means.std(), rel=0.06)
    equal = ratio(sums, np.ones(80))  # units of one size: the textbook's error of a mean
    assert equal.error == pytest.approx(sums.std(ddof=1) / math.sqrt(80), rel=1e-12)
    assert ratio(sums[:1], sizes[:1]).error is None


def test_the_standard_error_of_a_share() -> None:
    hits = np.repeat([1.0, 0.0], [27, 73])
    assert proportion(27, 100).error == pytest.approx(hits.std(ddof=1) / 10, rel=1e-12)
    assert proportion(100, 100).error == 0
    assert proportion(1, 1).error is None


@pytest.mark.parametrize(
    ("freedom", "expected"), [(3, 3.182), (9, 2.262), (29, 2.045), (74, 1.993), (10**6, 1.960)]
)
def test_student_s_t_is_the_table_s(freedom: int, expected: float) -> None:
    assert student_t95(freedom) == pytest.approx(expected, rel=0.01)


def tally_of(ids: NDArray[np.int64], losses: NDArray[np.float64], T: int) -> Tally:
    tally = Tally(eot=9, sizes=np.array([1] * 9 + [0]))
    for at in range(0, len(ids), T):
        tally.add(ids[at : at + T], losses[at : at + T].tolist())
    return tally


def test_a_document_is_what_ends_with_end_of_text() -> None:
    generator = np.random.default_rng(2)
    documents = [generator.integers(0, 9, size) for size in generator.integers(0, 60, 40)]
    ids = np.concatenate([np.append(document, 9) for document in documents])
    losses = generator.random(len(ids))
    ends = np.flatnonzero(ids == 9) + 1
    expected = [part.sum() for part in np.split(losses, ends)[:-1]]
    for T in (1, 7, 50, 10_000):
        unit, units = tally_of(ids, losses, T).units(1)
        assert unit == "documents"
        np.testing.assert_allclose(units[:, 0], expected)
        np.testing.assert_array_equal(units[:, 1], [len(d) + 1 for d in documents])
        np.testing.assert_array_equal(units[:, 2], [len(d) for d in documents])


def test_short_documents_are_put_together() -> None:
    ids = np.tile([1, 2, 9], 200)
    unit, units = tally_of(ids, np.ones(600), 10).units(10)
    assert unit == "groups of documents"
    assert units[:, 1].tolist() == [12.0] * 50
    unit, units = tally_of(ids[:-3], np.ones(597), 10).units(10)
    assert units[:, 1].tolist() == [12.0] * 48 + [21.0]  # the rest goes to the last
    assert units[:, 2].sum() == 398


def test_few_documents_give_way_to_windows() -> None:
    ids = np.ones(95, np.int64)
    unit, units = tally_of(ids, np.ones(95), 10).units(10)
    assert (unit, units[:, 1].tolist()) == ("windows", [10.0] * 9 + [5.0])
    unit, units = tally_of(np.ones(1000, np.int64), np.ones(1000), 10).units(10)
    assert (unit, len(units), units[:, 1].sum()) == ("blocks of windows", 30, 1000)
    assert set(units[:, 1]) == {30.0, 40.0}


def test_windows_with_gaps_between_them_are_units() -> None:
    tally = Tally(eot=9)
    for _ in range(12):
        tally.begin_piece()
        tally.add(np.array([1, 9, 3]), [1.0, 2.0, 3.0])
    unit, units = tally.units(1)
    assert (unit, units[:, 0].tolist()) == ("windows", [6.0] * 12)


def test_only_tokens_that_count_are_measured() -> None:
    generator = np.random.default_rng(4)
    ids, losses = generator.integers(0, 10, 900), generator.random(900)
    counts = generator.random(900) < 0.3
    tally = Tally(eot=9, sizes=np.array([2] * 9 + [0]))
    for at in range(0, 900, 50):
        part = zip(losses[at : at + 50].tolist(), counts[at : at + 50], strict=True)
        tally.add(ids[at : at + 50], [loss if counted else None for loss, counted in part])
    found = score(tally, 10)
    assert found.loss.value == pytest.approx(losses[counts].mean(), rel=1e-12)
    assert found.tokens == counts.sum()
    size = 2 * int((ids[counts] != 9).sum())
    assert found.text_bytes == size
    assert found.bits_per_byte is not None
    expected = losses[counts].sum() / math.log(2) / size
    assert found.bits_per_byte.value == pytest.approx(expected, rel=1e-12)


def test_bytes_are_those_of_the_text_whatever_the_tokenizer() -> None:
    texts = [
        "Größe, für 日本 🙂 and the rest of it\n\n",
        "the rest <|endoftext|> of the text",
        "of",
    ]
    for tokenizer in (load_tokenizer("byte"), train_bpe(texts, 262)):
        ids = np.array([i for text in texts for i in (tokenizer.eot, *tokenizer.encode(text))])
        tally = Tally(tokenizer.eot, tokenizer.byte_lengths())
        losses = [math.log(tokenizer.vocab_size)] * (len(ids) - 1)
        tally.add(ids[1:], losses)
        result = score(tally, 8)
        size = sum(len(text.encode()) for text in texts)
        assert result.text_bytes == size
        assert result.bits_per_byte is not None
        expected = (len(ids) - 1) * math.log2(tokenizer.vocab_size) / size
        assert result.bits_per_byte.value == pytest.approx(expected, rel=1e-12)
        assert result.perplexity == pytest.approx(tokenizer.vocab_size)
