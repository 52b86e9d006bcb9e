"""Draw docs/measured/training.svg: the training view of a real run, moving.

    make setup && .venv/bin/llmc --workspace build/demo prepare stdlib
    .venv/bin/pip install pyte
    .venv/bin/python tools/training_svg.py build/demo

The demo trains in a pseudo-terminal, pyte reads what it prints, and the frames become one SVG with
CSS keyframes. Borders, bars and Braille dots are drawn as shapes, so they join in every font.
``--keep FILE`` keeps the recorded frames, ``--from FILE`` draws kept ones again.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import pyte

OUT = Path(__file__).resolve().parents[1] / "docs" / "measured" / "training.svg"
COLUMNS, LINES = 88, 30
PRESET = "python-stdlib"
FRAMES, FRAME_SECONDS, HOLD_SECONDS = 32, 0.35, 3.0
CELL_W, CELL_H, FONT = 8.4, 18.0, 14
PAD, TITLE_H = 14.0, 34.0
BACKGROUND, FOREGROUND, DIM = "#16181d", "#d7dae0", "#8b919c"
NAMED = {"default": FOREGROUND, "cyan": "#56b6c2", "brown": "#e5c07b", "red": "#e06c75",
         "green": "#98c379", "blue": "#61afef", "magenta": "#c678dd", "white": FOREGROUND,
         "black": "#3a3f4b"}  # fmt: skip
# The arms of a box-drawing character: left, right, up, down.
ARMS = {"─": "lr", "━": "lr", "│": "ud", "┃": "ud", "├": "udr", "┤": "udl", "┬": "lrd",
        "┴": "lru", "┼": "lrud", "╭": "rd", "╮": "ld", "╰": "ru", "╯": "lu", "┌": "rd",
        "┐": "ld", "└": "ru", "┘": "lu", "╸": "l", "╺": "r", "╴": "l", "╶": "r"}  # fmt: skip
HEAVY = "━┃╸╺"
ROUND = "╭╮╰╯"
# The bit of a Braille dot, by its row and column.
DOTS = [(0, 0, 0x01), (1, 0, 0x02), (2, 0, 0x04), (0, 1, 0x08), (1, 1, 0x10), (2, 1, 0x20),
        (3, 0, 0x40), (3, 1, 0x80)]  # fmt: skip

Run = tuple[str, str, str]  # text, colour, style: "b" bold, "i" italic
Row = list[Run]


def record(workspace: Path) -> list[tuple[float, list[Row]]]:
    """Train the demo in a pseudo-terminal and return its pictures with their times in seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("data", "models"):  # so that the run is the first one of its workspace
            (Path(scratch) / name).symlink_to((workspace / name).resolve())
        return _recorded(Path(scratch))


def _recorded(workspace: Path) -> list[tuple[float, list[Row]]]:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "llmc", "--workspace", str(workspace), "train"]
    command += ["--config", PRESET, "--data", "stdlib"]
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=subprocess.DEVNULL,
        env={**env, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(follower)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    began, seen = time.monotonic(), []
    while True:
        try:
            chunk = os.read(leader, 1 << 16)
        except OSError:
            break
        if not chunk:
            break
        stream.feed(re.sub(rb"\x1b\[([\d;]+)m", _without_dim, chunk))
        rows = list(_panel(screen))
        if rows and (not seen or rows != seen[-1][1]):
            seen.append((time.monotonic() - began, rows))
    if process.wait() != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return seen


def _without_dim(found: re.Match[bytes]) -> bytes:
    """Write dim, which pyte does not keep, as a grey."""
    parts = found[1].split(b";")
    if parts[0] == b"38" or b"2" not in parts:
        return found[0]
    at = parts.index(b"2")
    return b"\x1b[" + b";".join([*parts[:at], b"38;5;245", *parts[at + 1 :]]) + b"m"


def _panel(screen: Any) -> Iterator[Row]:
    """Return the rows of the frame on the screen; none where the frame is not whole."""
    tops = [y for y, line in enumerate(screen.display) if line.startswith("╭")]
    ends = [y for y, line in enumerate(screen.display) if line.startswith("╰")]
    if not tops or not ends or ends[-1] < tops[-1]:
        return
    for y in range(tops[-1], ends[-1] + 1):
        row: Row = []
        for x in range(COLUMNS):
            cell = screen.buffer[y][x]
            style = ("b" if cell.bold else "") + ("i" if cell.italics else "")
            colour = NAMED.get(cell.fg, f"#{cell.fg}")
            colour = DIM if colour == "#8a8a8a" else colour
            if row and row[-1][1:] == (colour, style):
                row[-1] = (row[-1][0] + cell.data, colour, style)
            else:
                row.append((cell.data, colour, style))
        yield row


def choose(seen: list[tuple[float, list[Row]]]) -> list[list[Row]]:
    """Return frames at equal distances in time, the last one included."""
    first, last = seen[0][0], seen[-1][0]
    frames, at = [], 0
    for n in range(FRAMES):
        moment = first + (last - first) * n / (FRAMES - 1)
        while at + 1 < len(seen) and seen[at + 1][0] <= moment:
            at += 1
        frames.append(seen[at][1])
    return frames


def draw(frames: list[list[Row]]) -> str:
    """Return the SVG: each distinct line once for every stretch of frames that shows it."""
    height = max(map(len, frames))
    total = FRAMES * FRAME_SECONDS + HOLD_SECONDS
    frames = [_padded(frame, height) for frame in frames]
    body, spans = [], set()
    for y in range(height):
        start = 0
        for n in range(1, len(frames) + 1):
            if n < len(frames) and frames[n][y] == frames[start][y]:
                continue
            shapes = "".join(_shapes(frames[start][y], y))
            if (start, n) == (0, len(frames)):
                body.append(shapes)
            elif shapes:
                spans.add((start, n))
                last = " z" if n == len(frames) else ""
                body.append(f'<g class="f s{start}_{n}{last}">{shapes}</g>')
            start = n
    width = COLUMNS * CELL_W + 2 * PAD
    tall = TITLE_H + height * CELL_H + PAD
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {tall:.0f}" '
        f'role="img" aria-label="llmc train: progress, numbers, loss curve and a sample">\n'
        f"<style>\n{_css(sorted(spans), total)}</style>\n"
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>\n'
        + "".join(
            f'<circle cx="{18 + 16 * n}" cy="17" r="5" fill="{colour}"/>'
            for n, colour in enumerate(("#e06c75", "#e5c07b", "#98c379"))
        )
        + f'<text x="50%" y="22" text-anchor="middle" fill="{DIM}">llmc train --config {PRESET}'
        f'</text>\n<g transform="translate({PAD:g} {TITLE_H:g})">\n' + "\n".join(body) + "\n</g>\n"
        "</svg>\n"
    )


def _padded(frame: list[Row], height: int) -> list[Row]:
    """Return the frame with empty lines inside its border, as high as the others."""
    border = frame[1][0][1], frame[1][0][2]
    empty: Row = [("│" + " " * (_edge(frame[0]) - 1) + "│", *border)]
    return [*frame[:-1], *[empty] * (height - len(frame)), frame[-1]]


def _edge(row: Row) -> int:
    return len("".join(text for text, _, _ in row).rstrip()) - 1


def _css(spans: Iterable[tuple[int, int]], total: float) -> str:
    lines = [
        f"text{{font:{FONT}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',"
        "monospace;white-space:pre}",
        ".b{font-weight:bold}.i{font-style:italic}",
        f".f{{visibility:hidden;animation:{total:g}s step-end infinite}}",
        ".d{stroke-width:3.2px;stroke-linecap:round;vector-effect:non-scaling-stroke}",
        "@media (prefers-reduced-motion:reduce){",
        ".f{animation:none!important}.z{visibility:visible}}",
    ]
    for start, end in spans:
        shown, gone = (100 * n * FRAME_SECONDS / total for n in (start, end))
        name = f"s{start}_{end}"
        steps = f"{shown:.2f}%{{visibility:visible}}"
        if start:
            steps = "0%{visibility:hidden}" + steps
        if end < FRAMES:
            steps += f"{gone:.2f}%{{visibility:hidden}}"
        else:
            steps += "100%{visibility:visible}"
        lines.append(f"@keyframes {name}{{{steps}}}.{name}{{animation-name:{name}}}")
    return "\n".join(lines) + "\n"


def _shapes(row: Row, y: int) -> Iterator[str]:
    """Return what draws a line: texts by words, lines of boxes and dots as paths by colour."""
    x = 0
    strokes: dict[tuple[str, float], list[str]] = {}
    dots: dict[str, list[str]] = {}
    for text, colour, style in row:
        plain = ""
        for n, sign in enumerate(text):
            left, top = (x + n) * CELL_W, y * CELL_H
            if sign in ARMS:
                width = 2.4 if sign in HEAVY else 1.2
                strokes.setdefault((colour, width), []).append(_arms(sign, left, top))
            elif 0x2800 < ord(sign) <= 0x28FF:
                dots.setdefault(colour, []).extend(
                    f"M{2 * (x + n) + c} {r}h0" for r, c, bit in DOTS if ord(sign) - 0x2800 & bit
                )
            plain += sign if sign not in ARMS and not 0x2800 <= ord(sign) <= 0x28FF else " "
        classes = f' class="{" ".join(style)}"' if style else ""
        for word in re.finditer(r"\S+(?: \S+)*", plain):
            left = (x + word.start()) * CELL_W
            yield (
                f'<text x="{left:.1f}" y="{y * CELL_H + 13.5:g}" fill="{colour}"{classes} '
                f'textLength="{len(word[0]) * CELL_W:.1f}">{escape(word[0])}</text>'
            )
        x += len(text)
    for (colour, width), paths in strokes.items():
        yield f'<path d="{_joined(paths)}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
    for colour, places in dots.items():
        # One unit is the distance of two dots; a line of no length with round ends is a dot.
        across, down = CELL_W / 2, CELL_H / 4
        place = f"matrix({across:g} 0 0 {down:g} {across / 2:g} {y * CELL_H + down / 2:g})"
        yield f'<path d="{"".join(places)}" class="d" stroke="{colour}" transform="{place}"/>'


def _arms(sign: str, left: float, top: float) -> str:
    """Return the path of one box-drawing character; its arms end at the borders of its cell."""
    mid_x, mid_y = left + CELL_W / 2, top + CELL_H / 2
    ends = {"l": (left, mid_y), "r": (left + CELL_W, mid_y), "u": (mid_x, top),
            "d": (mid_x, top + CELL_H)}  # fmt: skip
    arms = ARMS[sign]
    if sign in ROUND:
        (ax, ay), (bx, by) = ends[arms[0]], ends[arms[1]]
        return f"M{ax:.1f} {ay:.1f}Q{mid_x:.1f} {mid_y:.1f} {bx:.1f} {by:.1f}"
    if arms == "lr":
        return f"M{left:.1f} {mid_y:.1f}H{left + CELL_W:.1f}"
    if arms == "ud":  # a little longer than the cell: no gap where a renderer rounds
        return f"M{mid_x:.1f} {top - 0.4:.1f}v{CELL_H + 0.8:g}"
    return "".join(f"M{mid_x:.1f} {mid_y:.1f}L{x:.1f} {y:.1f}" for x, y in (ends[a] for a in arms))


def _joined(paths: list[str]) -> str:
    """Return the paths as one, neighbouring horizontal lines joined."""
    joined: list[str] = []
    for path in paths:
        start, _, end = path.partition("H")
        if (
            end
            and joined
            and joined[-1].partition("H")[2] + start[start.index(" ") :] == (start[1:])
        ):
            joined[-1] = joined[-1].partition("H")[0] + "H" + end
        else:
            joined.append(path)
    return "".join(joined)


def main() -> None:
    """Record or read the frames, and draw them."""
    parser = argparse.ArgumentParser(description="Draw docs/measured/training.svg")
    parser.add_argument("workspace", type=Path, nargs="?", default=Path("build/demo"))
    parser.add_argument("--keep", type=Path, help="keep the recorded frames in this file")
    parser.add_argument("--from", type=Path, dest="kept", help="draw the frames of this file")
    flags = parser.parse_args()
    if flags.kept:
        frames = json.loads(flags.kept.read_text("utf-8"))
        frames = [[[tuple(run) for run in row] for row in frame] for frame in frames]
    else:
        frames = choose(record(flags.workspace))
    if flags.keep:
        flags.keep.write_text(json.dumps(frames), "utf-8")
    OUT.write_text(draw(frames), "utf-8")
    print(f"wrote {OUT} ({OUT.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
