"""llmc sweep: trials of several settings, their table, and how a stopped sweep continues."""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from llmc.train.history import read_run
from llmc.train.sweep import trials
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import metrics, ok, prepared_workspace, started

SHORT = ("sweep", "--config", "tiny.toml", "--steps", "6", "--val-every", "3")


@pytest.fixture
def llmc(tmp_path: Path, cache: Path) -> Llmc:
    return prepared_workspace(tmp_path / "workspace", cache)


def table(llmc: Llmc, *args: str) -> list[dict[str, Any]]:
    told: dict[str, Any] = json.loads(ok(llmc(*SHORT, *args, "--json")).stdout)
    return list(told["rows"])


def test_every_combination_is_a_run_and_the_lowest_loss_comes_first(llmc: Llmc) -> None:
    rows = table(llmc, "--lr", "1e-3,1e-2", "--batch-size", "1,2")
    assert len(rows) == 4
    assert [row["val_loss"] for row in rows] == sorted(row["val_loss"] for row in rows)
    for row in rows:
        (name,) = row["runs"]
        run = read_run(llmc.workspace / "runs" / name)
        assert run.settings["train"]["lr"] == row["settings"]["lr"]
        assert run.settings["train"]["batch_size"] == row["settings"]["batch_size"]
        assert (run.val_loss, run.done) == (row["val_loss"], 6)


def test_a_trial_has_the_bits_of_the_run_alone(llmc: Llmc) -> None:
    table(llmc, "--lr", "1e-3,1e-2")
    alone = ("--steps", "6", "--val-every", "3", "--lr", "1e-2", "--run", "alone")
    ok(llmc("train", "--config", "tiny.toml", *alone))
    folder = llmc.workspace / "runs"
    ours, single = (folder / name / "model.bin" for name in ("sweep-lr0.01-seed1337", "alone"))
    assert ours.read_bytes() == single.read_bytes()


def test_seeds_have_a_mean_and_its_standard_error(llmc: Llmc) -> None:
    for row in table(llmc, "--lr", "1e-3,1e-2", "--seeds", "3", "--seed", "5"):
        names = [f"sweep-lr{row['settings']['lr']}-seed{seed}" for seed in (5, 6, 7)]
        assert row["runs"] == names
        assert row["val_loss"] == pytest.approx(statistics.fmean(row["losses"]))
        error = statistics.stdev(row["losses"]) / math.sqrt(3)
        assert row["val_error"] == pytest.approx(error)


def test_the_same_command_runs_only_what_is_missing(llmc: Llmc) -> None:
    first = table(llmc, "--lr", "1e-3,1e-2")
    before = {row["runs"][0]: metrics(llmc, row["runs"][0]) for row in first}
    assert table(llmc, "--lr", "1e-3,1e-2") == first
    more = table(llmc, "--lr", "1e-3,1e-2,2e-2")
    assert {row["settings"]["lr"] for row in more} == {1e-3, 1e-2, 2e-2}
    assert {name: metrics(llmc, name) for name in before} == before


def test_ctrl_c_prints_the_command_that_continues(llmc: Llmc) -> None:
    args = ("--config", "tiny.toml", "--lr", "1e-3,1e-2", "--steps", "3000")
    more = ("--val-every", "1000", "--shuffle", "off")
    with started(llmc, "sweep", *args, *more) as child:
        log = llmc.workspace / "runs" / "sweep-lr0.001-seed1337" / "metrics.jsonl"
        while not log.is_file() or log.stat().st_size < 10_000:
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    again = re.search(r"llmc (sweep --config tiny.toml .*--lr 0.001,0.01.*)", said)
    assert again is not None and "--shuffle off" in again[1]
    ok(llmc(*shlex.split(again[1])))
    steps = [line["step"] for line in metrics(llmc, log.parent.name) if "train_loss" in line]
    assert steps == list(range(3000))


def test_printed_commands_work_as_typed(llmc: Llmc) -> None:
    """Switches and values that are named twice included."""
    args = ("--steps", "5,6", "--lr", "1e-3,1e-3", "--shuffle", "on,off", "--recompute", "on")
    done = ok(llmc("sweep", "--config", "tiny.toml", *args))
    assert done.stdout.startswith("steps\tshuffle\t") or "shuffle" in done.stdout.split("\n")[0]
    train = re.search(r"next: llmc (train .*)", done.stderr)
    assert train is not None and "--recompute" in train[1] and "--lr 0.001 " in train[1] + " "
    ok(llmc(*shlex.split(train[1]), "--run", "best"))
    told = json.loads(ok(llmc("sweep", "--config", "tiny.toml", *args, "--json")).stdout)
    assert {row["settings"]["steps"] for row in told["rows"]} == {5, 6}
    assert all(row["steps"] == [row["settings"]["steps"]] for row in told["rows"])


def test_the_printed_command_trains_the_model_that_was_compared(llmc: Llmc) -> None:
    """On data for which train alone chooses a model by the time."""
    (llmc.workspace / "data" / "texts" / "prepared.json").write_text('{"model": null}')
    (model,) = (llmc.workspace / "models").glob("*.bin")
    args = ("--lr", "1e-3,1e-2", "--batch-size", "2", "--seq-len", "8", "--for", "1s")
    done = ok(llmc("sweep", *args))
    train = re.search(r"next: llmc (train .*)", done.stderr)
    assert train is not None and f"--model models/{model.name} " in train[1]
    ok(llmc(*shlex.split(train[1]), "--run", "best"))
    best, trial = (
        read_run(llmc.workspace / "runs" / name).settings
        for name in ("best", "sweep-lr0.001-seed1337")
    )
    assert best["model"] == trial["model"]
    assert best["train"]["optimizer"] == trial["train"]["optimizer"]


def test_a_time_ends_each_trial_with_its_rate_sunk(llmc: Llmc) -> None:
    told = json.loads(
        ok(
            llmc("sweep", "--config", "tiny.toml", "--lr", "1e-3,1e-2", "--for", "1s", "--json")
        ).stdout
    )
    for row in told["rows"]:
        lines = [line for line in metrics(llmc, row["runs"][0]) if "train_loss" in line]
        assert len(lines) > 4  # the preset's steps do not count
        assert lines[-1]["lr"] < 0.1 * row["settings"]["lr"]


def test_a_loss_that_is_not_finite_is_a_result(llmc: Llmc) -> None:
    done = ok(llmc(*SHORT, "--lr", "1e-3,10", "--weight-decay", "10", "--steps", "40"))
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0][:2] == ["lr", "val loss"] and lines[1][0] == "0.001"
    assert lines[2][:2] == ["10.0", "not finite"]
    assert "llmc train --config tiny.toml --steps 40 --lr 0.001" in done.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "a sweep compares settings"),
        (["--lr", "1e-3,soon"], "--lr"),
        (["--lr", "1e-3,-1"], "lr must be between"),
        (["--lr", "1e-3,1e-2", "--val-every", "0"], "measure none"),
        (["--lr", "1e-3,1e-2", "--seed", "1,2"], "--seeds N"),
        (["--lr", "1e-3,1e-2", "--for", "soon"], "--for"),
        (["--lr", "1e-3,1e-2", "--for", "1s", "--steps", "4"], "--for and --steps"),
    ],
)
def test_what_cannot_be_compared_is_refused(typed: list[str], said: str, llmc: Llmc) -> None:
    assert said in assert_one_sentence(llmc("sweep", "--config", "tiny.toml", *typed), 2)
    assert not (llmc.workspace / "runs").exists()


def test_another_run_of_a_trials_name_is_not_taken_for_it(llmc: Llmc) -> None:
    table(llmc, "--lr", "1e-3,1e-2")
    other = llmc(*SHORT, "--lr", "1e-3,1e-2", "--grad-clip", "1")
    assert "grad_clip 0.0, not 1.0" in assert_one_sentence(other, 2)


def test_values_are_combined_in_order_and_once() -> None:
    made = trials("x", {"lr": (1e-3, 1e-3, 2e-3), "steps": (5,), "seed": (7,)}, 2)
    assert [trial.run for trial in made] == [
        "x-lr0.001-seed7",
        "x-lr0.001-seed8",
        "x-lr0.002-seed7",
        "x-lr0.002-seed8",
    ]
    assert [dict(trial.settings)["steps"] for trial in made] == [5] * 4
