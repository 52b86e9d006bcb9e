"""Some trials of the modes of torture: `make torture MODE=…` does many."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest

from tests.helpers.engine import Native
from tests.programs import ends
from tests.programs.ends import run_mode
from tests.programs.trials import Trial


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes the system calls fail")
def test_a_failing_system_call_costs_no_bit_of_a_run(native: Native, cache: Path) -> None:
    assert run_mode("faults", native, cache, count=5, seed=3).total() == 5


def test_a_small_disk_costs_no_bit_of_a_run(native: Native, cache: Path) -> None:
    assert run_mode("disks", native, cache, count=2, seed=2).total() == 2


@pytest.mark.full
@pytest.mark.parametrize("mode", ["signals", "hangups"])
def test_signals_and_closed_terminals_cost_no_bit_of_a_run(
    native: Native, cache: Path, mode: str
) -> None:
    assert run_mode(mode, native, cache, count=5, seed=3).total() == 5


def test_a_trial_is_the_same_every_time(
    monkeypatch: pytest.MonkeyPatch, native: Native, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a trial does follows from mode, seed and number; a failure prints them."""
    drawn: list[float] = []

    def draws(*_: object) -> Trial:
        def trial(chance: Random) -> str:
            drawn.append(chance.random())
            return "drawn"

        return trial

    monkeypatch.setattr(ends, "faults", draws)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    run_mode("faults", native, cache, count=4, seed=9)
    run_mode("faults", native, cache, count=1, seed=9, first=2)
    assert drawn[4] == drawn[2] and len(set(drawn[:4])) == 4

    def fails(*_: object) -> Trial:
        def trial(_: Random) -> str:
            raise AssertionError("not the same")

        return trial

    monkeypatch.setattr(ends, "faults", fails)
    with pytest.raises(AssertionError, match="not the same"):
        run_mode("faults", native, cache, count=1, seed=9, first=7)
    assert "--mode faults --seed 9 --first 7 --count 1" in capsys.readouterr().out
