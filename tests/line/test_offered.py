"""A run offers the weights with the lowest validation loss, and ``--last`` its last ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmc as library
from llmc.errors import Usage
from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import copy_of, metrics, ok

# The rate is high enough that the validation loss soon rises again.
OVERFITS = ("--lr", "0.05", "--steps", "60", "--val-every", "2", "--patience", "3")


@pytest.fixture(scope="module")
def overfitted(template: Llmc, tmp_path_factory: pytest.TempPathFactory) -> tuple[Llmc, str]:
    """Return a workspace whose run stopped early, and what that run printed."""
    llmc = copy_of(template, tmp_path_factory.mktemp("overfitted") / "workspace")
    done = ok(llmc("train", "--config", "tiny.toml", "--run", "early", *OVERFITS))
    return llmc, done.stderr


@pytest.fixture
def llmc(overfitted: tuple[Llmc, str]) -> Llmc:
    return overfitted[0]


def steps(llmc: Llmc, run: str = "early") -> tuple[int, int]:
    """Return the steps of the best and of the last weights."""
    folder = llmc.workspace / "runs" / run
    return read_header(folder / "best.bin").step, read_header(folder / "model.bin").step


def test_the_best_step_is_the_one_measured_best(llmc: Llmc) -> None:
    val = {line["step"]: line["val_loss"] for line in metrics(llmc, "early") if "val_loss" in line}
    best, last = steps(llmc)
    assert best < last
    assert val[best] == min(val.values())


def test_the_end_of_a_run_says_which_step_is_offered_and_why(
    overfitted: tuple[Llmc, str],
) -> None:
    llmc, said = overfitted
    best, last = steps(llmc)
    assert f"offered: runs/early/best.bin, step {best}: lowest validation loss" in said
    assert f"--last uses step {last}" in said


def test_eval_measures_the_best_weights(llmc: Llmc) -> None:
    def loss(*args: str) -> tuple[float, str]:
        result = json.loads(ok(llmc("eval", *args, "--json")).stdout)
        return result["loss"], Path(result["model"]).name

    best, last = loss("runs/early/best.bin")[0], loss("runs/early/model.bin")[0]
    assert best != last
    assert loss("early") == loss("runs/early") == loss() == (best, "best.bin")
    assert loss("early", "--last") == loss("runs/early", "--last") == (last, "model.bin")
    assert library.evaluate("early", workspace=llmc.workspace).loss == pytest.approx(best)
    after = library.evaluate("early", workspace=llmc.workspace, last=True).loss
    assert after == pytest.approx(last)


def test_sample_writes_with_the_best_weights(llmc: Llmc) -> None:
    def ids(*args: str) -> str:
        return ok(llmc("sample", "--tokens", "40", "--seed", "3", *args)).stdout

    best, last = ids("--model", "runs/early/best.bin"), ids("--model", "runs/early/model.bin")
    assert best != last
    assert ids() == ids("--run", "early") == best
    assert ids("--last") == ids("--run", "early", "--last") == last
    said = ok(llmc("sample", "--tokens", "1")).stderr
    assert f"weights: step {steps(llmc)[0]}" in said
    with library.load("early", workspace=llmc.workspace) as model:
        assert model.model.checkpoint.name == "best.bin"
    with library.load("early", workspace=llmc.workspace, last=True) as model:
        assert model.model.checkpoint.name == "model.bin"


def test_export_writes_the_best_weights(llmc: Llmc) -> None:
    best, last = steps(llmc)
    for args, step in ((["early"], best), (["runs/early"], best), (["early", "--last"], last)):
        ok(llmc("export-weights", *args, "--out", "out.bin"))
        assert read_header(llmc.workspace / "out.bin").step == step


def test_runs_and_inspect_name_the_offered_weights(llmc: Llmc) -> None:
    best, last = steps(llmc)
    (run,) = json.loads(ok(llmc("runs", "--json")).stdout)["runs"]
    assert (run["offered_step"], run["saved_step"]) == (best, last)
    assert "--model runs/early/best.bin" in ok(llmc("inspect", "runs/early")).stderr


@pytest.mark.parametrize(
    "command",
    [
        ("sample", "--model", "runs/early/model.bin"),
        ("serve", "--model", "runs/early/model.bin"),
        ("eval", "runs/early/model.bin"),
        ("export-weights", "runs/early/model.bin"),
        ("export-weights", "random:tiny.toml"),
    ],
)
def test_last_is_refused_where_there_is_no_run(llmc: Llmc, command: tuple[str, ...]) -> None:
    assert "--last" in assert_one_sentence(llmc(*command, "--last"), 2)


def test_the_api_refuses_it_too(llmc: Llmc) -> None:
    with pytest.raises(Usage, match="--last"):
        library.load(llmc.workspace / "runs/early/best.bin", workspace=llmc.workspace, last=True)


def test_a_run_that_kept_no_best_weights_offers_its_last(
    overfitted: tuple[Llmc, str], tmp_path: Path
) -> None:
    """It says what would have kept them, or that the last ones are the best."""
    best, last = steps(overfitted[0])
    llmc = copy_of(overfitted[0], tmp_path / "workspace")
    flags = ("--config", "tiny.toml", "--lr", "0.05", "--steps", str(last), "--val-every", "2")
    said = ok(llmc("train", *flags, "--run", "late")).stderr
    assert f"offered: runs/late/best.bin, step {last}, the last (" in said
    assert f"step {best} had a lower validation loss" in said
    assert "--save-every" in said
    said = ok(llmc("train", *flags, "--val-every", "0", "--run", "blind")).stderr
    assert f"offered: runs/blind/model.bin, step {last}, the last\n" in said
    said = ok(llmc("train", "--config", "tiny.toml", "--run", "good")).stderr
    assert "offered: runs/good/best.bin, step 4: lowest validation loss" in said
    assert "--last" not in said
    assert "weights:" not in ok(llmc("sample", "--run", "good", "--tokens", "1")).stderr


def test_a_run_that_only_made_its_model_worse_says_so(llmc: Llmc) -> None:
    worse = ("--steps", "9", "--val-every", "2", "--patience", "1", "--lr", "9")
    done = ok(llmc("train", "--config", "tiny.toml", "--run", "worse", *worse))
    assert "the weights that the run began with had a lower validation loss" in done.stderr
    assert "--patience saves it" not in done.stderr
