"""Curves as text, for a terminal or a file; and how many points become few."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter

from llmc.train.metrics import Point

BARS = "▁▂▃▄▅▆▇█"
# A braille character is a grid of 2 by 4 dots: the bit of the dot at (column, row), from U+2800 on.
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
BLANK = 0x2800

TRACE_POINTS = 512

# A picture: lines of pieces of text, each with the colour that rich knows by that name, or "".
Picture = list[list[tuple[str, str]]]


@dataclass(frozen=True)
class Line:
    """One curve of a chart."""

    points: Sequence[Point]  # (x, y) pairs in order of x, joined
    spots: Sequence[Point] = ()  # more pairs, each drawn as ``spot`` over all curves
    # A letter set into the curve in places, which tells it from others without colour.
    mark: str = ""
    spot: str = "●"  # the sign for ``spots``
    style: str = ""  # rich's name of a colour
    spot_style: str = ""  # that of the spots; the curve's unless it is named


@dataclass(frozen=True)
class Scale:
    """An axis: from the numbers ``low`` to ``high`` onto 0 to 1."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return where ``value`` lies; 0 where the scale has no length."""
        low, high, at = (
            math.log10(each) if self.log else each for each in (self.low, self.high, value)
        )
        return (at - low) / (high - low) if high > low else 0.0

    @property
    def middle(self) -> float:
        """The number halfway."""
        return math.sqrt(self.low * self.high) if self.log else self.low / 2 + self.high / 2


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values in one line, as means if they are more than ``width``, lowest to highest."""
    means = smoothed([(0.0, value) for value in values], width)
    shown = [value for _, value in means if math.isfinite(value)]
    if not shown:
        return ""
    scale = Scale(min(shown), max(shown))
    return "".join(BARS[round(scale(value) * (len(BARS) - 1))] for value in shown)


def curve(
    train: Sequence[Point], val: Sequence[Point] = (), *, width: int = 76, height: int = 12
) -> str:
    """Draw (step, loss) pairs with axes: training as a line of dots, validation as circles."""
    return plain(chart([Line(train, val)], width=width, height=height))


def chart(
    lines: Sequence[Line],
    *,
    width: int = 76,
    height: int = 12,
    log_x: bool = False,
    log_y: bool = False,
    x_text: Callable[[float], str] = "{:g}".format,
    y_text: Callable[[float], str] = "{:.2f}".format,
    x_title: str = "",
) -> Picture:
    """Draw curves in braille with axes, without what these cannot show: a NaN, 0 in logarithms.

    A later curve is drawn over an earlier one. ``width`` and ``height`` are in characters, the axis
    to the left included, the two lines of the axis below not. ``log_x`` and ``log_y`` make equal
    ratios equally far apart. ``x_text`` and ``y_text`` write the numbers of the axes.

    Returns:
        ``height + 2`` lines; none where there is no point to show.
    """
    joined = [drawable(line.points, log_x, log_y) for line in lines]
    spots = [drawable(line.spots, log_x, log_y) for line in lines]
    points = [point for part in (*joined, *spots) for point in part]
    if not points:
        return []
    xs, ys = zip(*points, strict=True)
    across, up = Scale(min(xs), max(xs), log_x), Scale(min(ys), max(ys), log_y)
    ticks = {0: y_text(up.high), height // 2: y_text(up.middle), height - 1: y_text(up.low)}
    label = max(map(len, ticks.values()))
    canvas = _Canvas(across, up, max(8, width - label - 2), height)
    for line, part in zip(lines, joined, strict=True):
        canvas.join(part, line.style)
    for index, (line, part) in enumerate(zip(lines, joined, strict=True)):
        if line.mark and part:
            # A third of a curve apart, where a mark does not hide another curve's.
            for place in (third * len(lines) + index + 1 for third in range(3)):
                canvas.put(part[len(part) * place // (3 * len(lines) + 1)], line.mark, line.style)
    for line, part in zip(lines, spots, strict=True):
        for point in part:
            canvas.put(point, line.spot, line.spot_style or line.style)
    picture: Picture = [
        [(f"{ticks.get(row, ''):>{label}} ┤", "dim"), *canvas.row(row)] for row in range(height)
    ]
    start, end = x_text(across.low), x_text(across.high)
    room = canvas.columns - len(start) - len(end)
    title = x_title if len(x_title) + 2 <= room else ""
    picture.append([(f"{'':>{label}} └{'─' * canvas.columns}", "dim")])
    picture.append([(f"{'':>{label}}  {start}{title:^{max(room, 1)}}{end}", "dim")])
    return picture


def drawable(points: Sequence[Point], log_x: bool, log_y: bool) -> list[Point]:
    """Return the points that axes can show: finite, and positive on a logarithmic axis."""
    return [
        (x, y)
        for x, y in points
        if math.isfinite(x + y) and (x > 0 or not log_x) and (y > 0 or not log_y)
    ]


class _Canvas:
    """A grid of characters, each with its colour: braille dots for curves, and signs over them."""

    def __init__(self, across: Scale, up: Scale, columns: int, height: int) -> None:
        self.across, self.up = across, up
        self.columns, self.height = columns, height
        self.cells = [[(chr(BLANK), "")] * columns for _ in range(height)]

    def place(self, point: Point) -> tuple[int, int]:
        """Return the dot (column, row) of a point: 2 by 4 dots a character."""
        x, y = point
        down = 1 - self.up(y) if self.up.high > self.up.low else 0.5
        return round(self.across(x) * (2 * self.columns - 1)), round(down * (4 * self.height - 1))

    def join(self, points: Sequence[Point], style: str) -> None:
        """Draw a curve through the points, before any sign."""
        for column, row in _joined([self.place(point) for point in points]):
            dots = ord(self.cells[row // 4][column // 2][0]) | DOTS[column % 2][row % 4]
            self.cells[row // 4][column // 2] = chr(dots), style

    def put(self, point: Point, sign: str, style: str) -> None:
        """Set a sign at a point, over the curves."""
        column, row = self.place(point)
        self.cells[row // 4][column // 2] = sign, style

    def row(self, row: int) -> Iterator[tuple[str, str]]:
        """Yield one line as pieces of one colour each, without the blanks at its end."""
        inked = [i for i, (sign, _) in enumerate(self.cells[row]) if sign != chr(BLANK)]
        end = inked[-1] + 1 if inked else 0
        for style, cells in groupby(self.cells[row][:end], key=itemgetter(1)):
            yield "".join(sign for sign, _ in cells), style


def plain(picture: Picture) -> str:
    """Return a picture without its colours."""
    return "\n".join("".join(text for text, _ in line) for line in picture)


def _joined(dots: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the dots and those on the straight lines between them."""
    yield from dots[:1]
    for (x0, y0), (x1, y1) in pairwise(dots):
        count = max(abs(x1 - x0), abs(y1 - y0), 1)
        for i in range(1, count + 1):
            yield x0 + round((x1 - x0) * i / count), y0 + round((y1 - y0) * i / count)


class Trace:
    """The means of equal stretches of a growing list: few points, however long it gets."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.stride = 1
        self.seen = 0

    def follow(self, points: Sequence[Point]) -> list[Point]:
        """Take in what ``points`` has grown by; return the means, with the number of each."""
        while self.seen + self.stride <= len(points):
            part = points[self.seen : self.seen + self.stride]
            self.points.append((part[-1][0], math.fsum(y for _, y in part) / self.stride))
            self.seen += self.stride
            if len(self.points) == 2 * TRACE_POINTS:
                pairs = zip(self.points[::2], self.points[1::2], strict=True)
                self.points = [(second[0], (first[1] + second[1]) / 2) for first, second in pairs]
                self.stride *= 2
        return self.points


def smoothed(points: Sequence[Point], count: int) -> list[Point]:
    """Return at most ``count`` points, each the mean of neighbours: what a noisy curve does."""
    if len(points) <= count:
        return list(points)
    parts = _stretches(points, count)
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _stretches(points: Sequence[Point], count: int) -> Iterator[Sequence[Point]]:
    """Yield the points in ``count`` stretches of about one length."""
    for index in range(count):
        yield points[index * len(points) // count : (index + 1) * len(points) // count]


def moving_mean(points: Sequence[Point], window: int, count: int) -> list[Point]:
    """Return at most ``count`` of the points, each as the mean of up to ``window`` around it.

    As many are taken before a point as after it, fewer near the beginning, so that the first drop
    of a loss stays where it is; near the end, those after run out and those before go on.
    """
    reach = window // 2
    indices: Sequence[int] = range(len(points))
    if len(points) > count:
        indices = [round(i * (len(points) - 1) / (count - 1)) for i in range(count)]
    means = []
    for index in indices:
        before = min(reach, index)
        part = [y for _, y in points[index - before : index + before + 1]]
        means.append((points[index][0], math.fsum(part) / len(part)))
    return means


def extremes(points: Sequence[Point], count: int) -> list[Point]:
    """Return at most about ``count`` points: the lowest and the highest of every stretch."""
    stretches = max(count // 2, 1)
    if len(points) <= 2 * stretches:
        return list(points)
    kept = []
    for part in _stretches(points, stretches):
        ys = [y for _, y in part]
        kept += [part[i] for i in sorted({ys.index(min(ys)), ys.index(max(ys))})]
    return kept
