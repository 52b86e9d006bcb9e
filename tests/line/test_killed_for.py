"""``llmc train --for``, killed at any moment and resumed, ends as a run of as many steps."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Llmc
from tests.helpers.workspace import empty_workspace, metrics, ok, write_texts

SECONDS = 6
RUN = ("--run", "killed", "--threads", "1")
# When it is killed: parts of the time, and then of the steps in which the rate sinks.
BEFORE, AFTER = (0.1, 0.25, 0.4), (0.2, 0.5)


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return what a run in progress has measured; its last line may be half a one."""
    file = folder / "metrics.jsonl"
    whole = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    return [json.loads(line) for line in whole]


def is_due(folder: Path, moment: float, *, before: bool) -> bool:
    """Return whether a part of the time, or of the steps after the plan, has passed."""
    done = lines(folder)
    if before:
        return math.fsum(line.get("step_ms", 0) for line in done) > SECONDS * moment * 1e3
    plan = next((line for line in done if line.get("event") == "planned"), None)
    if plan is None:
        return False
    steps: int = plan["steps"] - plan["step"]
    return any(line["step"] > plan["step"] + moment * steps for line in done[-1:])


def kill(process: subprocess.Popen[Any], *, engine_first: bool) -> None:
    """Kill a trainer and its engine, which would save if it only lost the trainer."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    children = [int(pid) for pid in found.stdout.split()]
    order = [*children, process.pid] if engine_first else [process.pid, *children]
    for pid in order:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.full  # half a minute
def test_killed_five_times(tmp_path: Path, cache: Path) -> None:
    llmc: Llmc = empty_workspace(tmp_path / "workspace", cache)
    write_texts(llmc.workspace / "more", 300)  # for so many passes as there is time for
    ok(llmc("prepare", "more", "--tokenizer", "byte"))
    ok(llmc("export-weights", "random:tiny.toml", "--vocab-size", "257", "--out", "m.bin"))
    folder = llmc.workspace / "runs/killed"
    words = ["train", "--for", f"{SECONDS}s", "--model", "m.bin", *RUN]
    chance = random.Random(7)
    for n, part in enumerate((*BEFORE, *AFTER)):
        moment = part * chance.uniform(0.8, 1.2)
        with llmc.start(*words, start_new_session=True) as process:
            try:
                while process.poll() is None and not is_due(folder, moment, before=part in BEFORE):
                    time.sleep(0.01)
                assert process.poll() is None, process.communicate()
            finally:
                kill(process, engine_first=n % 2 == 0)
        words = ["train", "--resume", *RUN]

    ok(llmc(*words))
    end = metrics(llmc, "killed")[-1]
    assert (end["reason"], end["step"]) == ("time", end["steps"])
    recipe = ("--config", "runs/killed/config.toml", "--model", "m.bin", "--threads", "1")
    ok(llmc("train", *recipe, "--steps", str(end["steps"]), "--max-time", "0", "--run", "counted"))
    for name in ("model.bin", "best.bin"):
        ours, theirs = (llmc.workspace / "runs" / run / name for run in ("killed", "counted"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    numbers = [
        [(line["step"], line.get("train_loss"), line.get("val_loss")) for line in found]
        for found in (
            [line for line in metrics(llmc, run) if "event" not in line]
            for run in ("killed", "counted")
        )
    ]
    assert numbers[0] == numbers[1]
