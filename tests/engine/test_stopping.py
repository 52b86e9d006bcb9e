"""When a run ends and how it says so, which updates are skipped, and that both survive a resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

from llmc.weights.checkpoint import read_header
from llmc.weights.state import read_training_state
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.events import json_lines, steps_of, without_times
from tests.helpers.workspace import copy_of, metrics, ok
from tests.programs.torture import ending, settings

TOKENS, B, T = 1200, 3, 19  # what torture.settings makes: 64 windows, 57 tokens an update


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    made = settings(tmp_path, 12)
    for name in ("steps", "schedule", "warmup", "patience", "skip_loss_z", "skip_grad_z"):
        made.pop(name)
    return {**made, "threads": 2, "save_every": 0}


def trained(native: Native, out: Path, **flags: Any) -> dict[str, Any]:
    """Train; return the line that says how the run ended, held against all else that tells."""
    succeeded(native("train", out=out, **flags))
    lines = json_lines((out / "metrics.jsonl").read_text())
    end = lines[-1]
    assert (end["event"], [line for line in lines if line.get("event") == "end"]) == ("end", [end])
    assert read_header(out / "model.bin").step == end["step"] == len(steps_of(out))
    assert end["skipped"] == sum(line.get("event") == "skipped" for line in lines)
    if "val_data" in flags and flags["val_every"]:
        assert [line["step"] for line in lines if "val_loss" in line][-1] == end["step"]
    return end


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_tokens": 57 * 4}, (4, "tokens")),
        ({"max_tokens": 57 * 4 + 1}, (5, "tokens")),
        ({"max_tokens": 57 * 40, "steps": 2}, (2, "steps")),
        ({"epochs": 1}, (22, "epochs")),
        ({"epochs": 1, "max_tokens": 57 * 4}, (4, "tokens")),
        ({"epochs": 2, "max_time": "10d", "total_batch_size": 57 * 4}, (11, "epochs")),
        ({"max_time": "10d2h1m0.5s", "steps": 3}, (3, "steps")),
        ({}, (40, "steps")),
    ],
)
def test_the_first_limit_reached_ends_the_run(
    limits: Flags, expected: tuple[int, str], native: Native, flags: Flags, tmp_path: Path
) -> None:
    end = trained(native, tmp_path / "out", **flags, **limits)
    assert (end["step"], end["reason"]) == expected
    assert end["steps"] == end["step"]


def test_an_epoch_is_every_window_once(native: Native, flags: Flags, tmp_path: Path) -> None:
    """At a rate of 0 a window's loss tells which it is; the last of 64 overlaps."""
    flags |= {"lr": 0, "val_every": 0, "sample_every": 0, "weight_decay": 0, "batch_size": 1}
    trained(native, tmp_path / "one", **flags, epochs=1)
    trained(native, tmp_path / "two", **flags, epochs=2)
    one, two = ([line["train_loss"] for line in steps_of(tmp_path / o)] for o in ("one", "two"))
    assert len(set(one)) == len(one) == -(-(TOKENS - 1) // T) == 64
    assert two[:64] == one
    assert sorted(two[64:]) == sorted(one) and two[64:] != one


@pytest.mark.parametrize("shuffle", [0, 1])
def test_another_b_sees_the_same_windows(
    shuffle: int, native: Native, flags: Flags, tmp_path: Path
) -> None:
    """A batch's loss is the mean of its windows', past the end of an epoch too."""
    flags |= {"lr": 0, "val_every": 0, "sample_every": 0, "weight_decay": 0, "shuffle": shuffle}
    losses = {}
    for rows in (1, 2, 4, 5):
        out = tmp_path / str(rows)
        trained(native, out, **{**flags, "batch_size": rows, "steps": 80 // rows})
        losses[rows] = [line["train_loss"] for line in steps_of(out)]
    for rows in (2, 4, 5):
        means = np.reshape(losses[1], (-1, rows)).mean(1)
        assert losses[rows] == pytest.approx(means.tolist(), rel=1e-5), rows


def test_schedules_sink_to_the_last_step_that_is_known(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    flags |= {"val_every": 0, "sample_every": 0, "schedule": "cosine", "warmup": 2}
    rates = {}
    for name, limit in (
        ("steps", {"steps": 22}),
        ("epochs", {"epochs": 1}),
        ("tokens", {"max_tokens": 57 * 21 + 1, "max_time": "1d", "steps": 99}),
    ):
        trained(native, tmp_path / name, **flags, **limit)
        rates[name] = [line["lr"] for line in steps_of(tmp_path / name)]
    assert rates["steps"] == rates["epochs"] == rates["tokens"]
    error = refused(native("train", out=tmp_path / "out", max_time="1h", **flags), 2)
    assert "--schedule cosine decays towards the last step" in error and "--steps" in error


def test_a_resume_does_not_reset_the_time(native: Native, flags: Flags, tmp_path: Path) -> None:
    """A microsecond is over at the latest after one step, on any machine."""
    flags |= {"max_time": "0.000001s"}
    out = tmp_path / "out"
    end = trained(native, out, **flags)
    assert (end["reason"], end["steps"]) == ("time", None)
    assert end["step"] <= 1 and end["seconds"] >= 1e-6
    again = trained(native, out, resume=1, **flags)
    assert (again["reason"], again["step"]) == ("time", end["step"])
    (path,) = out.glob("checkpoints/*/state.bin")
    used = read_training_state(path).seconds
    assert used > 0
    longer = trained(native, out, resume=1, **{**flags, "max_time": "100d"}, steps=4)
    assert (longer["reason"], longer["step"]) == ("steps", 4)
    assert longer["seconds"] > used


@pytest.mark.parametrize("text", ["2h", "90m", "1h30m", "45s", "1d", "3600", "0"])
def test_times_are_taken(text: str, native: Native, flags: Flags, tmp_path: Path) -> None:
    succeeded(native("train", out=tmp_path / "out", **flags, max_time=text, steps=0))


@pytest.mark.parametrize(
    "text", ["", "h", "1x", "1h1h", "30m1h", "-1h", "nan", "inf", "1h30", "1 h", "1e400s", "2h "]
)
def test_a_wrong_time_is_refused(text: str, native: Native, flags: Flags) -> None:
    error = refused(native("train", **flags, max_time=text, steps=0), 2)
    assert "--max-time takes a time such as 2h" in error


# ---- early stop ----------------------------------------------------------------------------------


def by_transformers(losses: list[float], patience: int) -> int | None:
    """Return at which of the validations the callback of transformers stops."""
    callback = EarlyStoppingCallback(early_stopping_patience=patience)
    state, control = TrainerState(), TrainerControl()
    arguments = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False)
    for index, loss in enumerate(losses):
        callback.on_evaluate(  # type: ignore[no-untyped-call]
            arguments, state, control, {"eval_loss": loss}
        )
        best = state.best_metric
        state.best_metric = loss if best is None else min(best, loss)  # as its Trainer does
        if control.should_training_stop:
            return index
    return None


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_it_stops_where_transformers_does(
    patience: int, native: Native, flags: Flags, tmp_path: Path
) -> None:
    """With a rate this high the validation loss goes up and down."""
    flags |= {"lr": 0.03, "val_every": 2, "steps": 200, "save_every": 2}
    end = trained(native, tmp_path / "out", **flags, patience=patience)
    lines = json_lines((tmp_path / "out" / "metrics.jsonl").read_text())
    losses = [line["val_loss"] for line in lines if "val_loss" in line]
    assert by_transformers(losses, patience) == len(losses) - 1
    assert (end["reason"], end["step"]) == ("early-stop", 2 * (len(losses) - 1))
    assert end["step"] < end["steps"] == 200
    again = trained(native, tmp_path / "out", resume=1, **flags, patience=patience)
    assert (again["reason"], again["step"]) == ("early-stop", end["step"])
    more = trained(native, tmp_path / "out", resume=1, **flags, patience=patience + 2)
    assert more["step"] > end["step"]
    calm = trained(native, tmp_path / "calm", **flags, patience=patience + 2)
    assert calm["step"] == more["step"]
    assert ending(tmp_path / "calm") == ending(tmp_path / "out")


def test_patience_needs_validations(native: Native, flags: Flags) -> None:
    for change in ({"val_every": 0}, {"val_data": None}):
        given = {k: v for k, v in {**flags, **change}.items() if v is not None}
        error = refused(native("train", patience=2, **given), 2)
        assert "--patience counts validations, and there are none" in error


# ---- outliers ------------------------------------------------------------------------------------

WINDOW, STEPS = 128, 200


def test_an_update_that_stands_out_is_skipped(native: Native, flags: Flags, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags |= {"val_every": 0, "sample_every": 0, "save_every": 1, "keep": 1000, "lr": 1e-4}
    end = trained(native, out, **flags, steps=STEPS, skip_loss_z=1.5, skip_grad_z=2)
    lines = json_lines((out / "metrics.jsonl").read_text())
    told = {line["step"]: line for line in lines if line.get("event") == "skipped"}
    losses, norms = (
        np.array([line[name] for line in steps_of(out)]) for name in ("train_loss", "grad_norm")
    )
    scores = {}
    for step in range(WINDOW - 1, STEPS):
        last = slice(step + 1 - WINDOW, step + 1)
        scores[step] = [(x[step] - x[last].mean()) / x[last].std() for x in (losses, norms)]
    expected = [step for step, (loss, norm) in scores.items() if loss > 1.5 or norm > 2]
    assert list(told) == expected and 3 < len(expected) == end["skipped"] < 40
    for step, line in told.items():
        assert [line["loss_z"], line["grad_z"]] == pytest.approx(scores[step], abs=1e-3)
    for step in range(STEPS):
        before, after = (
            (out / "checkpoints" / f"{at:08}" / "model.bin") for at in (step, step + 1)
        )
        if step > 0:
            same = before.read_bytes()[1024:] == after.read_bytes()[1024:]
            assert same == (step in told), step


@pytest.mark.parametrize(
    "more",
    [
        {"grad_clip": 0.5},
        pytest.param({}, marks=pytest.mark.full),
        pytest.param({"total_batch_size": 57 * 2}, marks=pytest.mark.full),
    ],
)
def test_thresholds_that_are_never_reached_change_no_bit(
    more: Flags, native: Native, flags: Flags, tmp_path: Path
) -> None:
    for name, skip in (("plain", {}), ("skip", {"skip_loss_z": 11.2, "skip_grad_z": 11.2})):
        trained(native, tmp_path / name, **flags, **more, **skip, steps=140)
    assert ending(tmp_path / "plain") == ending(tmp_path / "skip")


@pytest.mark.parametrize("torn_at", [141, pytest.param(60, marks=pytest.mark.full)])
def test_windows_and_patience_survive_a_resume(
    torn_at: int, native: Native, flags: Flags, tmp_path: Path
) -> None:
    flags |= {"skip_loss_z": 1, "skip_grad_z": 1.5, "patience": 40, "val_every": 3, "save_every": 3}
    end = trained(native, tmp_path / "calm", **flags, steps=240)
    trained(native, tmp_path / "torn", **flags, steps=torn_at)
    again = trained(native, tmp_path / "torn", resume=1, **flags, steps=240)
    assert again["skipped"] == end["skipped"] > 5
    assert ending(tmp_path / "torn") == ending(tmp_path / "calm")
    states = [
        read_training_state(tmp_path / name / "checkpoints" / f"{end['step']:08}" / "state.bin")
        for name in ("calm", "torn")
    ]
    assert states[0].crc == states[1].crc  # the windows and AdamW's means
    assert (states[0].waited, states[0].judged) == (states[1].waited, states[1].judged)


def test_skipping_is_the_same_for_any_number_of_threads(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    flags |= {"skip_loss_z": 1, "skip_grad_z": 1, "val_every": 0, "sample_every": 0}
    told = []
    for threads in (1, 3):
        out = tmp_path / str(threads)
        trained(native, out, **{**flags, "threads": threads}, steps=150)
        told.append(without_times((out / "metrics.jsonl").read_text()))
    assert told[0] == told[1]


# ---- the command line ----------------------------------------------------------------------------


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


SHORT = ("train", "--batch-size", "2", "--seq-len", "16", "--sample-every", "0", "--run", "a")


def the_run(llmc: Llmc) -> dict[str, Any]:
    (run,) = json.loads(ok(llmc("runs", "--json")).stdout)["runs"]
    assert isinstance(run, dict)
    return run


@pytest.mark.parametrize(
    ("typed", "reason", "state", "further"),
    [
        (["--steps", "3"], "steps", "finished", "--steps 6"),
        (["--max-tokens", "0.1k"], "tokens", "finished", "--max-tokens 200"),
        (["--max-time", "100d", "--steps", "4"], "steps", "finished", "--steps 8"),
        (
            ["--patience", "1", "--val-every", "1", "--min-delta", "100", "--steps", "9"],
            "early-stop", "stopped early", "--patience 2",
        ),
    ],
)  # fmt: skip
def test_an_ended_run_names_the_flags_that_continue_it(
    typed: list[str], reason: str, state: str, further: str, llmc: Llmc
) -> None:
    told = json.loads(ok(llmc(*SHORT, *typed, "--json", "--quiet")).stdout.splitlines()[-1])
    assert (told["ended"], told["skipped_updates"]) == (reason, 0)
    run = the_run(llmc)
    assert (run["ended"], run["state"], run["steps"]) == (reason, state, told["steps"])
    before = metrics(llmc, "a")[:-1]
    done = ok(llmc("train", "--resume"))
    assert "nothing to do: " in done.stderr
    assert f"llmc train --resume --run a {further}\n" in done.stderr
    assert metrics(llmc, "a")[:-1] == before
    ok(llmc("train", "--resume", *further.split(), "--quiet"))
    assert the_run(llmc)["steps"] > told["steps"]


def test_the_default_number_of_steps_is_for_a_run_that_nothing_else_ends(llmc: Llmc) -> None:
    ok(llmc(*SHORT, "--max-tokens", "1600", "--quiet"))
    assert (the_run(llmc)["steps"], the_run(llmc)["planned_steps"]) == (50, 50)
    (llmc.workspace / "mine.toml").write_text("[train]\nepochs = 1\nseq_len = 64\nsteps = 3\n")
    ok(llmc("train", "--config", "mine.toml", "--run", "b", "--quiet"))
    assert len([line for line in metrics(llmc, "b") if "train_loss" in line]) == 3
    (llmc.workspace / "mine.toml").write_text('[train]\nmax_time = "1s"\nschedule = "linear"\n')
    error = assert_one_sentence(llmc("train", "--config", "mine.toml", "--quiet"), 2)
    assert "--schedule linear decays towards the last step" in error


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--max-time", "soon"], "'soon' is not a time: write it as 2h"),
        (["--max-tokens", "1.5"], "'1.5' is not a whole number"),
        (["--max-tokens", "-1"], "not a whole number"),
        (["--epochs", "0.5"], "--epochs"),
        (["--patience", "2", "--val-every", "0"], "--patience counts validations"),
        (["--skip-loss-z", "-1"], "--skip-loss-z"),
    ],
)
def test_limits_that_make_no_sense_are_refused(typed: list[str], said: str, llmc: Llmc) -> None:
    assert said in assert_one_sentence(llmc(*SHORT, *typed, "--quiet"), 2)
    assert not (llmc.workspace / "runs" / "a").exists()


def test_skipped_updates_are_reported(llmc: Llmc) -> None:
    typed = ("--steps", "200", "--val-every", "0", "--skip-grad-z", "0.5", "--lr", "0")
    done = ok(llmc(*SHORT, *typed))
    skipped = sum(line.get("event") == "skipped" for line in metrics(llmc, "a"))
    assert skipped > 5
    assert f"updates skipped: {skipped}\n" in done.stderr
    assert done.stdout.count(": update skipped (z-score ") == skipped
    assert the_run(llmc)["skipped_updates"] == skipped
    assert "--skip-grad-z 3" in ok(llmc("train", "--resume", "--skip-grad-z", "3")).stderr


def test_a_run_whose_loss_is_no_number_is_called_so(llmc: Llmc) -> None:
    hot = ("--lr", "10", "--weight-decay", "10")  # the weights grow a hundredfold in a step
    flags = ("--steps", "200", "--val-every", "0", "--save-every", "1", "--quiet")
    error = assert_one_sentence(llmc(*SHORT, *hot, *flags), 5)
    assert "the weights of step " in error
    assert (the_run(llmc)["state"], the_run(llmc)["ended"]) == ("not finite", "not-finite")
