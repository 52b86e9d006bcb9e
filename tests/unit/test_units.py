"""Quantities as people type them; those that are shown are in test_training_view.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.units import count_of, seconds_of, typed_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1d2h3m4.5s", 93784.5),
        ("3600", 3600), ("0", 0), ("0.5", 0.5), ("1.5h", 5400),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "1x", "1h1h", "30m1h", "-1h", "nan", "1h30", "1 h", "1e3s", "2h "]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: write it as 2h"):
        seconds_of(text)


@given(st.integers(1, 10**8))
def test_a_time_is_typed_as_it_is_read(seconds: int) -> None:
    assert seconds_of(typed_time(seconds)) == seconds


def test_less_than_a_second_is_typed_too() -> None:
    assert seconds_of(typed_time(0.25)) == 0.25


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0), ("250000", 250_000), ("1e6", 10**6), ("1.5e3", 1500), ("10M", 10**7),
        ("1.5B", 15 * 10**8), ("32k", 32_000), ("0.1k", 100), ("1_000", 1000), ("2E+3", 2000),
        ("65k", 65_000), ("1e4", 10_000), ("4G", 4 * 10**9),
    ],
)  # fmt: skip
def test_counts(text: str, count: int) -> None:
    assert count_of(text) == count


@pytest.mark.parametrize(
    "text", ["", "M", "1.5", "0.0001k", "-1", "1e-3", "1e99", "10m", "1 M", "nan", "x"]
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        count_of(text)
