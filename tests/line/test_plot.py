from __future__ import annotations

import html
import importlib.util
import json
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from llmc.errors import BadData, Usage
from llmc.paths import CONFIG, METRICS
from llmc.train.curves import Line, chart, extremes, moving_mean, plain
from llmc.train.history import read_run
from llmc.train.plots import (
    MOST_RUNS,
    Axis,
    Metric,
    default_window,
    number,
    plot_of,
    tick,
    write_picture,
)
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.past_runs import a_past_run, loss
from tests.helpers.places import ROOT
from tests.helpers.terminal import in_terminal
from tests.helpers.workspace import ok

MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
needs_matplotlib = pytest.mark.skipif(not MATPLOTLIB, reason="matplotlib is not installed")


@pytest.fixture
def two(llmc: Llmc) -> Llmc:
    runs = llmc.workspace / "runs"
    a_past_run(runs, "slow", lift=1, updated=1e9)
    a_past_run(runs, "fast", updated=2e9)
    return llmc


def test_in_a_pipe_it_draws_the_newest_run(two: Llmc) -> None:
    done = ok(two("plot"))
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "Loss: fast",
        "loss (nats per token); line: mean of 2 steps; marks: validation",
    ]
    assert max(map(cell_len, lines)) <= 80
    assert lines[2].split()[0] == number(loss(0) + 0.1)
    assert sum(line.count("●") for line in lines) == 6
    assert lines[-1].split() == ["0", "steps", "100"]
    assert done.stderr == "next: llmc plot --out loss.html\n"
    assert "\x1b" not in done.stdout


def test_several_runs_differ_without_colours(two: Llmc) -> None:
    lines = ok(two("plot", "fast", "slow", "fast")).stdout.splitlines()
    assert lines[-2:] == ["a ● fast", "b ▲ slow"]
    picture = "\n".join(lines[2:-4])
    for sign in "ab●▲":
        assert sign in picture
    rows = {sign: [i for i, line in enumerate(lines[:-4]) if sign in line] for sign in "●▲"}
    assert sum(rows["▲"]) / len(rows["▲"]) < sum(rows["●"]) / len(rows["●"])  # higher up: worse


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_in_a_terminal_it_fits(two: Llmc, columns: int) -> None:
    shown = in_terminal(two, columns, "plot", "slow", "fast", lines=24)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "").splitlines()
    assert max(map(cell_len, lines[2:-1])) <= min(columns, 120)
    assert len(lines) <= 23
    assert "\x1b[34m" in shown and "\x1b[31m" in shown


@pytest.mark.parametrize(
    ("flags", "x_title", "ends"),
    [
        (["--x", "tokens"], "tokens seen", ["0", "12,800"]),
        (["--x", "time"], "training time (seconds)", ["0", "1"]),
        (["--metric", "lr"], "steps", ["0", "99"]),
        (["--metric", "grad_norm", "--log-y"], "steps", ["0", "99"]),
        (["--log-x"], "steps", ["1", "100"]),
    ],
)
def test_what_is_drawn_over_what(
    two: Llmc, flags: list[str], x_title: str, ends: list[str]
) -> None:
    line = ok(two("plot", *flags)).stdout.splitlines()[-1]
    assert line.split() == [ends[0], *x_title.split(), ends[1]]


def test_json_has_the_numbers_that_are_drawn(two: Llmc) -> None:
    done = ok(two("plot", "slow", "fast", "--json", "--x", "time", "--smooth", "1", "--quiet"))
    told = json.loads(done.stdout)
    assert (told["metric"], told["x"], told["file"]) == ("loss", "time", None)
    slow, fast = told["runs"]
    assert (slow["run"], fast["run"], slow["window"]) == ("slow", "fast", 1)
    assert slow["points"] == slow["smoothed"]
    assert [y for _, y in fast["points"]] == [loss(step) for step in range(100)]
    assert [x for x, _ in fast["points"]] == pytest.approx([step / 100 for step in range(100)])
    assert fast["validation"][-1] == pytest.approx([1.0, loss(100) + 0.1])
    assert done.stderr == ""


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
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no matplotlib')")
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
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


def test_wrong_wishes(two: Llmc) -> None:
    said = {
        ("plot", "none"): (3, "no runs/none/metrics.jsonl: 'llmc runs' lists the runs there are"),
        ("plot", "--out", "a.gif"): (2, "--out a.gif must end in .svg, .png, .pdf or .html"),
        ("plot", "--metric", "beauty"): (2, "beauty"),
        ("plot", "--smooth", "0"): (2, "--smooth"),
        ("plot", "--out", "a.svg", "--tensorboard", "b"): (2, "exclude each other"),
    }
    for words, (code, sentence) in said.items():
        assert sentence in assert_one_sentence(two(*words), code)
    assert not (two.workspace / "b").exists()
    a_past_run(two.workspace / "other", "fast")
    error = assert_one_sentence(two("plot", "fast", "other/fast", "--tensorboard", "b"), 2)
    assert "two runs are called fast" in error
    assert not (two.workspace / "b").exists()
    for index in range(MOST_RUNS):
        a_past_run(two.workspace / "runs", f"r{index}", steps=2)
    many = [f"r{index}" for index in range(MOST_RUNS)]
    ok(two("plot", *many))
    assert "name 7 at most" in assert_one_sentence(two("plot", *many, "fast"), 2)


def test_a_run_without_numbers_is_no_plot(two: Llmc) -> None:
    a_past_run(two.workspace / "runs", "empty", steps=0, val_every=0)
    for flags in ([], ["--out", "a.html"], ["--tensorboard", "tb"]):
        error = assert_one_sentence(two("plot", "empty", *flags), 1)
        assert "nothing was measured in empty" in error
    assert sorted(path.name for path in two.workspace.iterdir()) == ["runs"]
    run = read_run(a_past_run(two.workspace / "runs", "one", steps=1))
    with pytest.raises(BadData, match="nothing above 0"):
        plot_of([run], "grad_norm", log_x=True)  # step 0 is all there is
    assert plot_of([run]).curves[0].raw == [(0, loss(0))]
    run.settings = {}
    with pytest.raises(Usage, match="use --x steps"):
        plot_of([run], x="tokens")


def test_a_broken_run_is_drawn_as_far_as_it_goes(two: Llmc) -> None:
    with (two.workspace / "runs" / "fast" / METRICS).open("a") as file:
        file.write("nonsense\n")
    done = ok(two("plot", "fast"))
    assert "fast: line 107 of metrics.jsonl is no measurement" in done.stderr
    assert "●" in done.stdout


def test_tensorboard_reads_what_was_written(two: Llmc) -> None:
    script = """
import json, sys, warnings
warnings.simplefilter("ignore")
try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    sys.exit(9)
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
tags = events.Tags()["scalars"]
told = {tag: [(e.wall_time, e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
print(json.dumps(told))
"""
    for _ in range(2):  # written again, nothing is there twice
        done = ok(two("plot", "fast", "slow", "--tensorboard", "tb"))
    assert "next: tensorboard --logdir tb" in done.stderr
    (path,) = (two.workspace / "tb" / "fast").iterdir()
    read = subprocess.run(
        [sys.executable, "-c", script, str(path.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    if read.returncode == 9:
        pytest.skip("tensorboard is not installed")
    assert read.returncode == 0, read.stderr
    told: dict[str, list[Any]] = json.loads(read.stdout)
    assert set(told) == {
        "loss/train", "loss/validation", "gradient norm", "learning rate", "tokens per second",
    }  # fmt: skip
    run = read_run(two.workspace / "runs" / "fast")
    train = told["loss/train"]
    assert [step for _, step, _ in train] == run.steps
    assert [value for _, _, value in train] == [float32(y) for y in run.measured["train_loss"]]
    assert [time for time, _, _ in train] == pytest.approx(
        [run.started + step / 100 for step in range(100)], abs=1e-3
    )
    assert [(s, v) for _, s, v in told["loss/validation"]] == [(s, float32(v)) for s, v in run.val]
    assert len(told["learning rate"]) == 100


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_a_missing_tensorboard_is_one_sentence(two: Llmc, tmp_path: Path) -> None:
    (tmp_path / "tensorboard.py").write_text("raise ImportError('no tensorboard')")
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = two("plot", "fast", "--tensorboard", "tb", env=path)
    assert "tensorboard" in assert_one_sentence(done, 2)
    assert not (two.workspace / "tb").exists()


def test_a_missing_wandb_is_one_sentence(two: Llmc, tmp_path: Path) -> None:
    (tmp_path / "wandb.py").write_text("raise ImportError('no wandb')")
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    error = assert_one_sentence(two("plot", "--wandb", "w", env=path), 2)
    assert re.search(r"--wandb needs the package wandb: .*pip install wandb", error)
    assert not (two.workspace / "w").exists()


def test_wandb_gets_an_offline_run(two: Llmc) -> None:
    # Its file is a log as LevelDB has it: blocks of 32 KiB, pieces of records in them.
    script = """
import json, struct, sys
from wandb.proto.wandb_internal_pb2 import Record
data, at, record = open(sys.argv[1], "rb").read(), 7, b""
while at < len(data):
    if 32768 - at % 32768 < 7:
        at += 32768 - at % 32768
    length, kind = struct.unpack_from("<HB", data, at + 4)
    record += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):  # whole, or the last piece
        told, record = Record.FromString(record), b""
        if told.WhichOneof("record_type") == "history":
            items = told.history.item
            told = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
            print(json.dumps(told))
"""
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("wandb is not installed")
    done = ok(two("plot", "fast", "--wandb", "w", "--json"))
    (place,) = (two.workspace / path for path in json.loads(done.stdout)["written"])
    (path,) = place.glob("*.wandb")
    read = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr
    told = [json.loads(line) for line in read.stdout.splitlines()]
    run = read_run(two.workspace / "runs" / "fast")
    losses = [line["loss/train"] for line in told if "loss/train" in line]
    assert losses == run.measured["train_loss"]
    assert [line["loss/validation"] for line in told if "loss/validation" in line] == [
        loss for _, loss in run.val
    ]


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
