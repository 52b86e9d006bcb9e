"""A run's ``config.toml`` edited by hand: llmc says what differs and keeps the run's settings."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import config, copy_of, losses, metrics, ok

START = ("train", "--config", "tiny.toml", "--quiet", "--run", "a", "--steps", "3")


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


def edit(llmc: Llmc, name: str, value: str, table: str = "train") -> None:
    """Change a setting in the file, as a person would."""
    file = llmc.workspace / "runs" / "a" / "config.toml"
    before, head, after = file.read_text().partition(f"[{table}]")
    after, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", after, count=1, flags=re.M)
    assert count == 1
    file.write_text(before + head + after)


def record(llmc: Llmc) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((llmc.workspace / "runs/a/run.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "value", "command"),
    [
        ("lr", "0.5", "--lr 0.5"),
        ("schedule", "'cosine'", "--schedule cosine"),
        ("val_every", "0", "--val-every 0"),
        ("seq_len", "8", None),
        ("seed", "1", None),
        ("lr", "1000.0", None),  # no resume takes it
    ],
)
def test_the_run_keeps_its_settings_and_says_so(
    llmc: Llmc, name: str, value: str, command: str | None
) -> None:
    ok(llmc(*START))
    ok(llmc(*START[:-3], "calm", "--steps", "5"))
    own = config(llmc, "a")["train"][name]
    edit(llmc, name, value)
    error = ok(llmc("train", "--resume", "--run", "a", "--steps", "5")).stderr
    assert f"config.toml was edited ({name} {value.strip(chr(39))}, not {own})" in error
    assert ("continues with those of config.toml" in error) == (command is not None)
    assert losses(llmc, "a") == losses(llmc, "calm")
    assert config(llmc, "a")["train"][name] == own
    again = ok(llmc("train", "--resume", "--run", "a", "--steps", "6"))
    assert "edited" not in again.stderr


def test_the_command_it_prints_takes_the_edited_settings(llmc: Llmc) -> None:
    ok(llmc(*START))
    edit(llmc, "lr", "0.05")
    edit(llmc, "save_every", "2")
    error = ok(llmc("train", "--resume", "--run", "a", "--steps", "4")).stderr
    edit(llmc, "lr", "0.05")
    (command,) = re.findall(r"'llmc (train --resume [^']*)'", error)
    done = ok(llmc(*shlex.split(command.replace("--steps 4", "--steps 6"))))
    assert "edited" not in done.stderr and "--lr 0.0001 becomes 0.05" in done.stderr
    assert [line["lr"] for line in metrics(llmc, "a") if "lr" in line][4:] == [0.05, 0.05]


def test_another_shape_and_other_sampling(llmc: Llmc) -> None:
    ok(llmc(*START))
    edit(llmc, "layers", "2", "model")
    edit(llmc, "temperature", "0.0", "sample")
    note = "config.toml was edited (temperature 0.0, not 1.0)"
    first = ok(llmc("sample", "--run", "a", "--tokens", "9"))
    assert note in first.stderr
    assert ok(llmc("sample", "--run", "a", "--tokens", "9", "--temperature", "1")).stdout == (
        first.stdout
    )
    error = ok(llmc("train", "--resume", "--steps", "4")).stderr
    assert "config.toml was edited (layers 2, not 1)" in error
    assert config(llmc, "a")["model"]["layers"] == 1


def test_runs_shows_what_the_run_has_and_inspect_names_the_edit(llmc: Llmc) -> None:
    ok(llmc(*START))
    before = ok(llmc("runs", "--json")).stdout
    edit(llmc, "batch_size", "64")
    assert json.loads(ok(llmc("runs", "--json")).stdout) == json.loads(before)
    assert "batch_size is 64, and the run has 2" in llmc("inspect", "runs/a").stderr


def test_a_file_that_is_no_config_any_more(llmc: Llmc) -> None:
    ok(llmc(*START))
    file = llmc.workspace / "runs/a/config.toml"
    text = file.read_text()
    file.write_text(text.replace("lr = ", "learning = "))
    error = assert_one_sentence(llmc("train", "--resume", "--steps", "4"), 2)
    assert "config.toml [train]: unknown key 'learning'" in error
    file.unlink()
    ok(llmc("train", "--resume", "--steps", "4"))
    assert (
        file.read_text().partition("\n")[2]
        == text.replace("steps = 3", "steps = 4").partition("\n")[2]
    )


def test_an_older_run_has_its_settings_in_the_file_alone(llmc: Llmc) -> None:
    """It may hold what a new run may not, such as an epsilon above 1."""
    ok(llmc(*START))
    ok(llmc(*START[:-3], "calm", "--steps", "5"))
    old = record(llmc)
    del old["settings"]
    (llmc.workspace / "runs/a/run.json").write_text(json.dumps(old))
    edit(llmc, "eps", "2.0")
    edit(llmc, "warmup", "50")
    assert "'--eps'" in assert_one_sentence(llmc("train", "--eps", "2"), 2)
    preset = ("train", "--config", "runs/a/config.toml")
    assert "eps must be between" in assert_one_sentence(llmc(*preset), 2)
    for command in (("sample", "--run", "a", "--tokens", "1"), ("eval", "a"), ("runs",)):
        ok(llmc(*command))
    shutil.rmtree(llmc.workspace / "runs/a/checkpoints")
    done = ok(llmc("train", "--resume", "--run", "a", "--val-every", "1"))
    assert "edited" not in done.stderr
    rates = [line["lr"] for line in metrics(llmc, "a") if "lr" in line]
    assert rates == pytest.approx([1e-4 * (step + 1) / 50 for step in range(3)])
    assert record(llmc)["settings"]["train"]["eps"] == 2
    error = assert_one_sentence(llmc("train", "--resume", "--run", "a", "--steps", "5"), 2)
    assert "--warmup 50 is longer than the run" in error
    ok(llmc("train", "--resume", "--run", "a", "--steps", "5", "--warmup", "1"))
