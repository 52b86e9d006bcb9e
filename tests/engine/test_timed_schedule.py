"""A wsd schedule under --max-time: the rate sinks in the last part of the time, step by step."""

from __future__ import annotations

import json
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmc.weights.state import read_training_state
from tests.helpers.engine import Flags, Native, environment, refused, succeeded
from tests.helpers.events import json_lines, steps_of
from tests.helpers.models import RAGGED, training_files
from tests.helpers.workspace import metrics, ok, prepared_workspace

SECONDS, DECAY = 1.0, 0.4


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    return {
        **training_files(tmp_path, RAGGED),
        "batch_size": 2,
        "seq_len": 9,
        "lr": 1e-3,
        "grad_clip": 1,
        "sample_every": 0,
        "val_every": 50,
        "schedule": "wsd",
        "decay": DECAY,
        "warmup": 5,
    }


def planned(out: Path) -> list[dict[str, Any]]:
    lines = json_lines((out / "metrics.jsonl").read_text())
    return [line for line in lines if line.get("event") == "planned"]


def ended(out: Path) -> dict[str, Any]:
    last: dict[str, Any] = json_lines((out / "metrics.jsonl").read_text())[-1]
    return last


def test_the_number_of_steps_repeats_it(native: Native, flags: Flags, tmp_path: Path) -> None:
    timed, counted = tmp_path / "timed", tmp_path / "counted"
    succeeded(native("train", out=timed, max_time=f"{SECONDS}s", **flags))
    (plan,), end = planned(timed), ended(timed)
    steps, first = plan["steps"], plan["step"]
    assert (end["reason"], end["step"], end["steps"]) == ("time", steps, steps)
    assert steps - round(DECAY * steps) == first  # as the schedule of so many steps has it
    rates = [line["lr"] for line in steps_of(timed)]
    assert rates[5 : first + 1] == [1e-3] * (first - 4)
    assert all(before > after for before, after in pairwise(rates[first:]))

    succeeded(native("train", out=counted, steps=steps, **flags))
    assert [line["lr"] for line in steps_of(counted)] == rates
    assert (counted / "model.bin").read_bytes() == (timed / "model.bin").read_bytes()


def test_a_killed_run_ends_as_one_of_its_steps(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    """Killed before its plan and after it, five times in all."""
    timed, counted = tmp_path / "timed", tmp_path / "counted"
    flags |= {"save_every": 20}
    resume: Flags = {}
    kept = 0
    for part in (0.2, 0.5, 0.7, 0.85, 0.95):
        argv = native.argv("train", out=timed, max_time="2s", events="json", **flags, **resume)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) as run:
            assert run.stdout is not None
            started, step = time.monotonic(), 0
            for line in run.stdout:
                step = json.loads(line).get("step", step)
                if step > kept + 20 and time.monotonic() - started > 2 * part / 5:
                    break
            run.kill()
        states = [read_training_state(path) for path in timed.glob("checkpoints/*/state.bin")]
        kept, resume = max((state.step for state in states), default=0), {"resume": 1}
    succeeded(native("train", out=timed, max_time="2s", **flags, **resume))
    steps = ended(timed)["step"]
    succeeded(native("train", out=counted, steps=steps, **flags))
    assert (counted / "model.bin").read_bytes() == (timed / "model.bin").read_bytes()


def test_a_plan_is_kept_and_more_time_makes_another(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    succeeded(native("train", out=out, max_time="0.3s", **flags))
    before = ended(out)
    again: Flags = {"out": out, "resume": 1, **flags}
    succeeded(native("train", max_time="0.3s", **again))
    assert ended(out)["step"] == before["step"]
    succeeded(native("train", max_time="0.6s", new_schedule=1, **again))
    assert ended(out)["step"] > before["step"]
    assert [each["steps"] for each in planned(out)] == [before["step"], ended(out)["step"]]


def test_fewer_steps_than_there_is_time_for_end_the_run(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    succeeded(native("train", out=out, max_time="10d", steps=20, **flags))
    assert (ended(out)["reason"], ended(out)["step"], planned(out)) == ("steps", 20, [])


def test_a_time_that_is_over_within_the_warmup_ends_the_run(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    succeeded(native("train", out=out, max_time="0.05s", **{**flags, "warmup": 10**6}))
    assert (ended(out)["reason"], planned(out)) == ("time", [])


def test_a_decay_of_nearly_all_the_time_is_refused(native: Native, flags: Flags) -> None:
    flags |= {"decay": 0.95, "warmup": 0}
    error = refused(native("train", max_time="1s", **flags), 2)
    assert "--decay 0.95" in error and "--decay 0.9" in error


def test_the_plan_is_told(tmp_path: Path, cache: Path) -> None:
    llmc = prepared_workspace(tmp_path / "workspace", cache)
    flags = ["--schedule", "wsd", "--decay", "0.4", "--max-time", "1s", "--val-every", "0"]
    done = ok(llmc("train", *flags, "--sample-every", "0", "--run", "timed"))
    (plan,) = [line for line in metrics(llmc, "timed") if line.get("event") == "planned"]
    steps = plan["steps"]
    assert f"--steps {steps} --max-time 0 repeats the run" in done.stderr
    assert f"from step {plan['step']:,} on" in done.stderr
    assert f"{steps:,} steps in" in done.stderr
