from __future__ import annotations

import json
import re
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from llmc.cli.commands.runs import COLUMNS, Sort, ago, fitting, ordered, progress, table
from llmc.paths import METRICS, Workspace
from llmc.train.history import all_runs, read_run
from llmc.units import short
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.past_runs import TINY_PARAMETERS, a_past_run, loss
from tests.helpers.terminal import in_terminal
from tests.helpers.workspace import ok, prepared_workspace


@pytest.fixture
def several(llmc: Llmc) -> Llmc:
    runs = llmc.workspace / "runs"
    now = time.time()
    a_past_run(runs, "texts-1", updated=now - 7200)
    a_past_run(runs, "texts-2", planned=4000, saved=80, lift=-0.5, updated=now - 300)
    a_past_run(runs, "never", steps=10, planned=20, saved=None, val_every=0, updated=now - 86400)
    a_past_run(runs, "broken", updated=now - 90)
    with (runs / "broken" / METRICS).open("a") as file:
        file.write("nonsense\n")
    return llmc


def shown(llmc: Llmc, columns: int, *flags: str) -> list[str]:
    text = in_terminal(llmc, columns, "runs", *flags)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "").splitlines()


def test_at_120_columns_all_is_there(several: Llmc) -> None:
    lines = shown(several, 120)
    assert max(map(cell_len, lines)) <= 120
    titles = "run when model data steps loss best val last val tokens time tok/s state"
    assert lines[0].split() == titles.split()
    assert [line.split()[0] for line in lines[1:5]] == ["broken", "texts-2", "texts-1", "never"]
    recent = sum(map(loss, range(95, 100))) / 5
    assert (
        lines[3].split()
        == (
            f"texts-1 2 h {TINY_PARAMETERS} texts 100 {recent:.3f} {loss(100) + 0.1:.3f} "
            f"{loss(100) + 0.1:.3f} 12.8k 00:01 12.8k finished"
        ).split()
    )
    assert "100/4,000" in lines[2] and lines[2].endswith("interrupted")
    assert lines[4].split()[-6:] == ["–", "1.28k", "00:00", "12.8k", "never", "saved"]
    assert lines[5] == "broken: line 107 of metrics.jsonl is not a measurement"
    assert lines[6] == "next: llmc plot broken"


def test_at_80_columns_the_most_telling_ones(several: Llmc) -> None:
    lines = shown(several, 80)
    assert max(map(cell_len, lines)) <= 80
    assert lines[0].split() == [
        "run",
        "when",
        "model",
        "steps",
        "loss",
        "best",
        "val",
        "last",
        "val",
        "time",
        "state",
    ]
    assert "100/4,000" in lines[2] and lines[2].endswith("interrupted")
    assert "not shown, too narrow: data, tokens, tok/s" in lines


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_numbers_are_never_cut(several: Llmc, width: int) -> None:
    a_past_run(several.workspace / "runs", "a-name-that-is-much-too-long-for-a-table-of-runs")
    runs = all_runs(Workspace(several.workspace))
    columns = fitting(runs, width)
    assert {column.title for column in columns} >= {"run", "steps", "loss", "best val"}
    assert (len(columns) == len(COLUMNS)) == (width >= 120)
    console = Console(width=max(width, 46), record=True, file=StringIO())
    console.print(table(runs, columns, width))
    text = console.export_text()
    assert max(map(cell_len, text.splitlines())) <= max(width, 46)
    assert "100/4,000" in text
    assert f"{loss(100) + 0.1:.3f}" in text


def test_a_pipe_gets_every_number_whole(several: Llmc) -> None:
    done = ok(several("runs"))
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    by_name = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert by_name["texts-1"]["train_loss"] == repr(loss(99))
    assert by_name["texts-2"]["state"] == "interrupted"
    assert by_name["never"]["val_loss"] == ""
    assert "line 107" in by_name["broken"]["problems"]
    assert done.stderr == "next: llmc plot broken\n"


def test_json(several: Llmc) -> None:
    done = ok(several("runs", "--json", "--sort", "name", "--quiet"))
    assert done.stderr == ""
    runs = json.loads(done.stdout)["runs"]
    assert [run["run"] for run in runs] == ["broken", "never", "texts-1", "texts-2"]
    one = runs[3]
    assert one["updated"].endswith("+00:00")
    del one["updated"], one["folder"]
    assert one == {
        "run": "texts-2",
        "state": "interrupted",
        "problems": [],
        "dataset": "texts",
        "parameters": TINY_PARAMETERS,
        "steps": 100,
        "planned_steps": 4000,
        "saved_step": 80,
        "offered_step": 80,
        "ended": None,
        "skipped_updates": 0,
        "train_loss": loss(99) - 0.5,
        "recent_train_loss": pytest.approx(sum(map(loss, range(95, 100))) / 5 - 0.5),
        "recent_steps": 5,
        "val_loss": loss(100) - 0.5 + 0.1,
        "best_val_loss": loss(100) - 0.5 + 0.1,
        "best_val_step": 100,
        "tokens": 12800,
        "seconds": pytest.approx(1.0),
        "tokens_per_second": pytest.approx(12800),
        "val_error": None,
        "best_val_error": None,
    }
    assert runs[1]["best_val_loss"] is None


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [
        ("name", "a", "none"),
        ("loss", "b", "none"),
        ("val", "b", "none"),
        ("steps", "c", "none"),
        ("tokens", "c", "none"),
        ("time", "c", "none"),
        ("when", "a", "none"),
    ],
)
def test_orders(tmp_path: Path, sort: Sort, first: str, last: str) -> None:
    a_past_run(tmp_path, "a", updated=3e9)
    a_past_run(tmp_path, "b", lift=-1, updated=2e9)
    a_past_run(tmp_path, "c", steps=200, lift=2, updated=1e9)
    a_past_run(tmp_path, "none", steps=0, val_every=0, updated=0.5e9)
    runs = [read_run(path) for path in sorted(tmp_path.iterdir(), reverse=True)]
    names = [run.name for run in ordered(runs, sort)]
    assert (names[0], names[-1]) == (first, last)


def test_reverse(several: Llmc) -> None:
    names = [
        run["run"] for run in json.loads(several("runs", "--json", "--sort", "name").stdout)["runs"]
    ]
    turned = json.loads(several("runs", "--json", "--sort", "name", "--reverse").stdout)["runs"]
    assert [run["run"] for run in turned] == names[::-1]


def test_without_runs_it_says_what_to_do(llmc: Llmc) -> None:
    done = ok(llmc("runs"))
    assert len(done.stdout.splitlines()) == 1
    assert "next: llmc prepare stdlib" in done.stderr  # there is no dataset either
    assert json.loads(ok(llmc("runs", "--json")).stdout) == {"runs": []}
    assert "--sort" in assert_one_sentence(llmc("runs", "--sort", "beauty"), 2)


def test_a_real_run(tmp_path: Path, cache: Path) -> None:
    llmc = prepared_workspace(tmp_path / "workspace", cache)
    ok(llmc("train", "--config", "tiny.toml", "--run", "real", "--quiet"))
    (run,) = json.loads(ok(llmc("runs", "--json")).stdout)["runs"]
    assert (run["state"], run["steps"], run["planned_steps"], run["dataset"]) == (
        "finished", 4, 4, "texts",
    )  # fmt: skip
    assert run["tokens"] == 4 * 2 * 16
    assert 0 < run["best_val_loss"] <= run["val_loss"]


def test_how_long_ago() -> None:
    ages = [0, 59, 60, 3599, 7200, 86400 * 3.5]
    assert [ago(1e9, 1e9 + age) for age in ages] == ["now", "now", "1 min", "59 min", "2 h", "3 d"]
    assert re.fullmatch(r"2001-09-\d\d", ago(1e9, 2e9))
    assert ago(0, 1e9) == "–"
    assert ago(2e9, 1e9) == "now"  # a clock that went back


def test_short_counts() -> None:
    counts = [None, 0, 999, 999.6, 1000, 16543, 999_600, 1_063_680, 124_439_808, 1_557_611_200]
    assert [short(count) for count in counts] == [
        "–", "0", "999", "1.00k", "1.00k", "16.5k", "1.00M", "1.06M", "124M", "1.56B",
    ]  # fmt: skip


def test_progress(tmp_path: Path) -> None:
    assert progress(read_run(a_past_run(tmp_path, "a", steps=1200, val_every=0))) == "1,200"
    assert progress(read_run(a_past_run(tmp_path, "b", planned=1200))) == "100/1,200"
