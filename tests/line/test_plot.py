from __future__ import annotations

import json
import re

import pytest
from rich.cells import cell_len

from llmc.errors import BadData, Usage
from llmc.paths import METRICS
from llmc.train.history import read_run
from llmc.train.plots import (
    MOST_RUNS,
    number,
    plot_of,
)
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.past_runs import a_past_run, loss
from tests.helpers.terminal import in_terminal
from tests.helpers.workspace import ok


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
    assert "fast: line 107 of metrics.jsonl is not a measurement" in done.stderr
    assert "●" in done.stdout
