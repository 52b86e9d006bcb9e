"""Loss curves as text, for a terminal or a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
# A braille character is a grid of 2 by 4 dots: the bit of the dot at (column, row), from U+2800 on.
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))

Point = tuple[float, float]


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last values in one line, ``width`` characters at most, lowest to highest."""
    shown = [value for value in _thinned(values, width) if math.isfinite(value)]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def curve(
    train: Sequence[Point], val: Sequence[Point] = (), *, width: int = 76, height: int = 12
) -> str:
    """Draw losses over steps with axes: training as a line of dots, validation as circles.

    Args:
        train: (step, loss) pairs in order of steps.
        val: the same, fewer of them.
        width: characters, axis included.
        height: lines of the picture, without the axis.
    """
    points = [point for point in [*train, *val] if math.isfinite(point[1])]
    if not points:
        return ""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    label = max(len(f"{high:.2f}"), len(f"{low:.2f}"))
    columns = max(8, width - label - 2)

    def place(x: float, y: float) -> tuple[int, int]:
        across = (x - left) / (right - left) if right > left else 0.0
        down = (high - y) / (high - low) if high > low else 0.5
        return round(across * (2 * columns - 1)), round(down * (4 * height - 1))

    cells = [[0x2800] * columns for _ in range(height)]
    for column, row in _joined([place(x, y) for x, y in train if math.isfinite(y)]):
        cells[row // 4][column // 2] |= DOTS[column % 2][row % 4]
    picture = [[chr(cell) for cell in line] for line in cells]
    for x, y in val:
        if math.isfinite(y):
            column, row = place(x, y)
            picture[row // 4][column // 2] = "●"
    ticks = {0: f"{high:.2f}", height // 2: f"{(high + low) / 2:.2f}", height - 1: f"{low:.2f}"}
    lines = [
        f"{ticks.get(row, ''):>{label}} ┤{''.join(line).rstrip(chr(0x2800))}"
        for row, line in enumerate(picture)
    ]
    start, end = f"{left:g}", f"{right:g}"
    lines.append(f"{'':>{label}} └{'─' * columns}")
    lines.append(f"{'':>{label}}  {start}{end:>{columns - len(start)}}")
    return "\n".join(lines)


def _joined(dots: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the dots and those on the straight lines between them."""
    yield from dots[:1]
    for (x0, y0), (x1, y1) in pairwise(dots):
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(1, count + 1):
            yield x0 + round((x1 - x0) * i / count), y0 + round((y1 - y0) * i / count)


def smoothed(points: Sequence[Point], count: int) -> list[Point]:
    """Return at most ``count`` points, each the mean of neighbours: what a noisy curve does."""
    if len(points) <= count:
        return list(points)
    means = []
    for index in range(count):
        begin, end = index * len(points) // count, (index + 1) * len(points) // count
        part = points[begin:end]
        means.append((part[-1][0], sum(y for _, y in part) / len(part)))
    return means


def _thinned(values: Sequence[float], count: int) -> list[float]:
    return [y for _, y in smoothed([(0.0, value) for value in values], count)]
