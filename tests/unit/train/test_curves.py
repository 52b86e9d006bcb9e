"""Means, peaks, scales and marks of curves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from llmc.train.curves import Line, chart, extremes, moving_mean, plain
from llmc.train.plots import (
    default_window,
    number,
    tick,
)

Points = st.lists(
    st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6)), max_size=200, unique_by=lambda p: p[0]
).map(lambda points: sorted((float(x), y) for x, y in points))


@given(points=Points, window=st.integers(1, 50), count=st.integers(2, 50))
def test_means_lie_between_what_they_are_of(
    points: list[tuple[float, float]], window: int, count: int
) -> None:
    means = moving_mean(points, window, count)
    assert len(means) <= count
    assert [x for x, _ in means] == sorted({x for x, _ in means})
    if points:
        assert means[0] == points[0]  # what the run began with
        assert means[-1][0] == points[-1][0]
        low, high = min(y for _, y in points), max(y for _, y in points)
        assert all(low - 1e-6 <= y <= high + 1e-6 for _, y in means)
    if window == 1 and len(points) <= count:
        assert means == points


def test_a_mean_is_of_its_neighbours() -> None:
    points = [(float(x), float(x * x)) for x in range(10)]
    assert moving_mean(points, 3, 100)[1:] == [
        (float(x), ((x - 1) ** 2 + x**2 + (x + 1) ** 2) / 3 if x < 9 else (64 + 81) / 2)
        for x in range(1, 10)
    ]


@given(points=Points, count=st.integers(1, 60))
def test_no_peak_is_lost(points: list[tuple[float, float]], count: int) -> None:
    kept = extremes(points, count)
    assert len(kept) <= max(count, 2)
    assert set(kept) <= set(points)
    assert kept == sorted(kept)
    for extreme in (min, max):
        if points:
            assert extreme(y for _, y in kept) == extreme(y for _, y in points)


@given(
    series=st.lists(Points, max_size=3), log_x=st.booleans(), log_y=st.booleans(),
    width=st.integers(20, 120), height=st.integers(2, 20),
)  # fmt: skip
def test_a_chart_fits_whatever_the_numbers(
    series: list[list[tuple[float, float]]], log_x: bool, log_y: bool, width: int, height: int
) -> None:
    lines = [Line(points, points[::7], mark="a") for points in series]
    picture = chart(lines, width=width, height=height, log_x=log_x, log_y=log_y, y_text=number)
    rows = plain(picture).splitlines() if picture else []
    assert len(rows) in (0, height + 2)
    assert all(cell_len(row) <= max(width, 24) for row in rows)


def test_a_logarithmic_chart_is_straight_where_ratios_are_equal() -> None:
    points = [(float(x), 10.0 ** (-x / 10)) for x in range(41)]
    rows = plain(chart([Line(points)], width=60, height=6, log_y=True, y_text=number)).splitlines()
    assert rows[0].startswith("   1.00 ┤")
    assert rows[3].startswith("1.0e-02 ┤")
    assert rows[5].startswith("1.0e-04 ┤")
    ink = [sum(0x2800 < ord(c) < 0x2900 for c in row) for row in rows[:6]]
    assert max(ink) - min(ink) <= 2


def test_windows_and_numbers() -> None:
    steps = [0, 1, 50, 51, 100, 101, 250, 800, 4000, 10**6]
    assert [default_window(n) for n in steps] == [1, 1, 1, 2, 2, 5, 5, 20, 100, 20000]
    numbers = [0, 2.3456, 12.5, 12345.6, 6e-4, 1.23e6, -3.0]
    shown = ["0.00", "2.35", "12.50", "12,346", "6.0e-04", "1.23M", "-3.00"]
    assert [number(x) for x in numbers] == shown
    ticks = [0, 2.5, 4000, 1.5e6, 2e9, 3e-4, 0.1 + 0.2, 0.25]
    assert [tick(x) for x in ticks] == ["0", "2.5", "4,000", "1.5M", "2B", "3e-04", "0.3", "0.25"]
