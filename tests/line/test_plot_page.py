"""The pictures and the page of ``llmc plot``."""

from __future__ import annotations

import html
import importlib.util
import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmc.paths import CONFIG
from llmc.train.history import read_run
from llmc.train.plots import (
    Axis,
    Metric,
    plot_of,
    write_picture,
)
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.past_runs import a_past_run, loss
from tests.helpers.workspace import ok, without_package

MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None

needs_matplotlib = pytest.mark.skipif(not MATPLOTLIB, reason="matplotlib is not installed")


@needs_matplotlib
def test_a_picture_is_written_whole(two: Llmc) -> None:
    out = two.workspace / "pictures" / "loss.PNG"
    done = ok(two("plot", "slow", "fast", "--out", out))
    assert "drew pictures/loss.PNG" in done.stderr
    assert done.stdout == ""
    told = out.read_bytes()
    assert struct.unpack(">4x4s8xII", told[:24]) == (b"\r\n\x1a\n", 1600, 900)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


NAMES = ["_hidden", "$a_b$", "日本", "<b> &", *"cde"]


@needs_matplotlib
@pytest.mark.parametrize(
    ("kind", "metric", "x", "log"),
    [
        ("svg", "loss", "steps", True),
        ("pdf", "lr", "tokens", False),
        ("png", "loss", "time", False),
    ],
)
def test_a_picture_takes_every_name_and_scale(
    tmp_path: Path, kind: str, metric: Metric, x: Axis, log: bool
) -> None:
    runs = [read_run(a_past_run(tmp_path, name, steps=30)) for name in NAMES]
    plot = plot_of(runs, metric, x, log_x=log, log_y=log, title="A <b> $title$ & more")
    first, second = (tmp_path / f"{name}.{kind}" for name in "ab")
    write_picture(plot, first)
    write_picture(plot, second)
    told = first.read_bytes()
    assert told == second.read_bytes()  # the same numbers make the same file
    assert told[:4] == {"svg": b"<?xm", "png": b"\x89PNG", "pdf": b"%PDF"}[kind]
    if kind == "svg":
        comments = [data for data in Comments(told.decode()).found if data in (*NAMES, plot.title)]
        assert comments == [plot.title, *NAMES]


class Comments(HTMLParser):
    """What matplotlib says next to the glyphs that it draws."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_comment(self, data: str) -> None:
        self.found.append(html.unescape(data.strip()))


def test_without_matplotlib_a_picture_says_what_is_missing(two: Llmc, tmp_path: Path) -> None:
    path = without_package(tmp_path, "matplotlib")
    error = assert_one_sentence(two("plot", "--out", "a.png", env=path), 2)
    assert re.search(r"pip install .*\[plot\]", error)
    assert not (two.workspace / "a.png").exists()
    ok(two("plot", "--out", "a.html", env=path))


class Page(HTMLParser):
    """Collects what a page would load from elsewhere, its data and its table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.rows: list[list[str]] = []
        self.inside = ""
        self.data = ""
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [name for name, _ in attrs if name in ("src", "href", "srcset", "action")]
        if tag == "script":
            self.scripts += 1
            self.inside = "data" if ("id", "data") in attrs else "script"
        if tag == "tr":
            self.rows.append([])
        self.inside = "cell" if tag in ("th", "td") else self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "data":
            self.data += data
        if self.inside == "cell":
            self.rows[-1].append(data)


EVIL = "</script><script>alert(1)<!--"


def test_a_page_asks_nothing_of_anyone_and_believes_no_name(two: Llmc) -> None:
    runs = two.workspace / "runs"
    evil = a_past_run(runs, "<img src=x onerror=alert(1)>", steps=3000, val_every=500)
    config = evil / CONFIG
    config.write_text(config.read_text().replace("batch_size = 4", "batch_size = 'x'"))
    done = ok(two("plot", "fast", evil.name, "--out", "loss.html", "--title", EVIL))
    text = (two.workspace / "loss.html").read_text(encoding="utf-8")
    assert "drew loss.html" in done.stderr
    page = Page(text)
    assert page.asked == []
    assert page.scripts == 2
    assert "default-src 'none'" in text
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)", text)
    assert "{{" not in text
    data = json.loads(page.data)
    assert [run["name"] for run in data["runs"]] == ["fast", evil.name]
    fast, other = data["runs"]
    assert (fast["tokens_per_step"], other["tokens_per_step"]) == (128, None)
    assert set(fast["curves"]) == {"loss", "grad_norm", "lr", "tokens_per_second"}
    raw = fast["curves"]["loss"]["raw"]
    assert raw["step"] == list(range(100))
    assert raw["y"] == pytest.approx([loss(step) for step in range(100)], rel=1e-5)
    assert raw["seconds"] == pytest.approx([step / 100 for step in range(100)])
    assert len(other["curves"]["loss"]["raw"]["y"]) <= 1200
    assert max(other["curves"]["loss"]["raw"]["y"]) == pytest.approx(loss(0), rel=1e-5)
    assert page.rows[1][0] == "fast"
    assert page.rows[2][0] == evil.name
    assert page.rows[1][1:4] == [
        "100",
        f"{sum(map(loss, range(95, 100))) / 5:.4f}",
        f"{loss(100) + 0.1:.4f}",
    ]
