"""``llmc train --for``, killed at any moment and resumed, ends as a run of as many steps."""

from __future__ import annotations

import json
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

SECONDS = 8
RUN = ("--run", "killed", "--threads", "1")
# When it is killed: seconds after its first step, and then parts of the steps in which the rate
# sinks.
BEFORE, AFTER = (0.6, 1.2, 0.9), (0.1, 0.35)


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return what a run in progress has measured; its last line may be half a one."""
    file = folder / "metrics.jsonl"
    whole = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    return [json.loads(line) for line in whole]


def sinking(folder: Path) -> float:
    """Return which part of the steps in which the rate sinks was made."""
    done = lines(folder)
    plan = next((line for line in done if line.get("event") == "planned"), None)
    if plan is None:
        return 0.0
    return float(done[-1]["step"] - plan["step"]) / float(plan["steps"] - plan["step"])


def await_moment(
    process: subprocess.Popen[Any], folder: Path, moment: float, *, after: bool
) -> None:
    """Wait until a trainer is to be killed, or has ended."""
    before, since = len(lines(folder)), 0.0
    while process.poll() is None:
        if after and sinking(folder) > moment:
            return
        if not since and len(lines(folder)) != before:  # a resume cuts off some first
            since = time.monotonic()
        if not after and since and time.monotonic() - since > moment:
            return
        time.sleep(0.01)


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
                await_moment(process, folder, moment, after=n >= len(BEFORE))
                assert process.poll() is None, process.communicate()
                assert (sinking(folder) > 0) == (n >= len(BEFORE))
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
