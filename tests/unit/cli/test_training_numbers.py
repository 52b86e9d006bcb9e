"""The numbers of the live view: durations, sizes, sparklines, curves, means."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.train.curves import BARS, TRACE_POINTS, Trace, curve, smoothed, sparkline
from llmc.units import clock, duration, megabytes


def test_a_trace_is_short_and_keeps_the_mean() -> None:
    trace, points = Trace(), []
    for number in range(5000):
        points.append((float(number), float(number % 7)))
        if number % 97 == 0:
            trace.follow(points)
    means = trace.follow(points)
    assert len(means) <= 2 * TRACE_POINTS
    assert trace.stride == 8
    assert [x for x, _ in means] == [8.0 * i + 7 for i in range(len(means))]
    for index in (0, 17, len(means) - 1):
        part = [y for _, y in points[8 * index : 8 * index + 8]]
        assert means[index][1] == pytest.approx(sum(part) / 8)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "00:00"), (59.6, "01:00"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (0.34, "0.3 s"), (9.94, "9.9 s"), (9.95, "00:10"), (75, "01:15")],
)
def test_short_durations_have_a_decimal(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0.0 MB"), (61_540_000, "61.5 MB"), (2_210_000_000, "2.21 GB")]
)
def test_sizes(count: float, shown: str) -> None:
    assert megabytes(count) == shown


Losses = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=300)


@given(values=Losses, width=st.integers(1, 100))
def test_a_sparkline_is_as_wide_as_it_may_be(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) <= width
    assert set(line) <= set(BARS)


@given(losses=Losses, width=st.integers(40, 120), height=st.integers(4, 20))
def test_a_curve_fits_whatever_the_losses(losses: list[float], width: int, height: int) -> None:
    short = [loss if abs(loss) < 1e6 else float("nan") for loss in losses]
    points = list(enumerate(short))
    picture = curve(points, points[::10], width=width, height=height)
    lines = picture.splitlines()
    assert all(len(line) <= width for line in lines)
    assert len(lines) in (0, height + 2)
    assert bool(lines) == any(not math.isnan(loss) for loss in short)


def test_a_curve_shows_where_it_began_and_ended() -> None:
    lines = curve([(0, 4.0), (10, 1.0)], [(0, 3.0)], width=40, height=6).splitlines()
    assert lines[0].startswith("4.00 ┤⠉")
    assert lines[5].startswith("1.00 ┤")
    assert lines[5].endswith("⣀")
    assert len(lines[5]) == 40
    assert lines[2].startswith("     ┤●")
    # A straight line from corner to corner: as many dots in every row of characters.
    ink = [sum(0x2800 < ord(c) < 0x2900 for c in line) for line in lines[:6]]
    assert max(ink) - min(ink) <= 1
    assert lines[7].split() == ["0", "10"]


def test_smoothing_keeps_the_mean_and_the_end() -> None:
    points = [(float(x), float(x % 3)) for x in range(300)]
    few = smoothed(points, 100)
    assert few[0] == (2.0, 1.0)
    assert few[-1] == (299.0, 1.0)
    assert len(few) == 100
    assert smoothed(points, 300) == points
