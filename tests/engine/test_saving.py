"""When a run saves, and what it does where the disk has no room."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc.weights.checkpoint import read_header
from tests.helpers.engine import BATCH, Flags, Native, environment, refused, succeeded
from tests.helpers.events import json_lines
from tests.helpers.models import SMALL as CONFIG
from tests.helpers.models import training_files
from tests.programs.torture import ending, settings


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    return {**settings(tmp_path, 600), "threads": 1, "sample_every": 0, "keep": 1000}


def saved(text: str) -> list[int]:
    return [event["step"] for event in json_lines(text) if event.get("event") == "saved"]


def notes(text: str) -> str:
    return "\n".join(e["text"] for e in json_lines(text) if e.get("event") == "note")


def test_by_time_a_run_saves_on_the_way_and_its_bytes_do_not_follow_from_that(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    flags |= {"patience": 0, "events": "json"}
    calm = succeeded(native("train", out=tmp_path / "calm", **{**flags, "save_every": 0}))
    assert saved(calm.stdout) == [600] and notes(calm.stdout) == ""
    done = succeeded(native("train", out=tmp_path / "out", **{**flags, "save_every": "0.05s"}))
    assert len(saved(done.stdout)) > 3
    assert "saved at least every 0.1 seconds" in notes(done.stdout) or "0.05" in notes(done.stdout)
    assert " of the training" in notes(done.stdout)
    assert ending(tmp_path / "out") == ending(tmp_path / "calm")
    short = succeeded(native("train", out=tmp_path / "short", **{**flags, "save_every": "10m"}))
    assert saved(short.stdout) == [600] and notes(short.stdout) == ""


def test_a_run_that_is_killed_after_a_timed_save_goes_on_to_the_same_end(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    succeeded(native("train", out=tmp_path / "calm", **{**flags, "save_every": 0}))
    out = tmp_path / "out"
    words = native.argv("train", out=out, events="json", **{**flags, "save_every": "0.02s"})
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        left = 3
        while left and (line := process.stdout.readline()):
            left -= '"saved"' in line
        process.kill()
    succeeded(native("train", out=out, resume=1, **{**flags, "save_every": 7}))
    assert ending(out) == ending(tmp_path / "calm")


@pytest.mark.parametrize("value", ["x", "-1", "0s", "10m5", "5x", "1e3", "2000000000", "5m1h", ""])
def test_what_is_no_number_of_steps_and_no_time_is_refused(
    value: str, native: Native, flags: Flags
) -> None:
    assert "--save-every" in refused(native("train", **{**flags, "save_every": value}), 2)


# Small disks


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    files = training_files(tmp_path_factory.mktemp("small"), CONFIG)
    none = {"val_every": 0, "sample_every": 0, "threads": 1}
    return {**files, **BATCH, **none, "events": "json"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB; one checkpoint takes 1.6 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def free(place: Path) -> int:
    about = os.statvfs(place)
    return about.f_bavail * about.f_frsize


def leave(place: Path, size: int) -> Path:
    """Fill a disk but for so many bytes."""
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(free(place) - size, 0)))
    return ballast


@pytest.mark.parametrize("more", [{}, {"dry_run": 1}], ids=["run", "dry run"])
def test_a_run_whose_checkpoints_cannot_fit_is_refused_before_it_starts(
    more: Flags, native: Native, small: Flags, disk: Path
) -> None:
    one = succeeded(native("train", out=disk / "one", **small, steps=1))
    size = sum(path.stat().st_size for path in (disk / "one" / "checkpoints").glob("*/*"))
    assert saved(one.stdout) == [1]
    left = free(disk)
    for flags, checkpoints in (
        ({"save_every": 0}, 1),
        ({}, 1),
        ({"save_every": 2}, 2),
        ({"save_every": 2, "keep": 4}, 5),
    ):
        ballast = leave(disk, checkpoints * size + 65536)
        given = {**small, **flags, **more, "steps": 4, "val_every": 0}
        succeeded(native("train", out=disk / "fits", **given))
        subprocess.run(["rm", "-rf", str(disk / "fits")], check=True)
        ballast.unlink()
        ballast = leave(disk, checkpoints * size - 65536)
        error = refused(native("train", out=disk / "not", **given), 2)
        assert "of the disk, but only" in error and str(disk / "not") in error
        assert ("--keep" in error) == (flags.get("keep") == 4)
        ballast.unlink()
        assert not (disk / "not" / "metrics.jsonl").exists()
    assert abs(free(disk) - left) < 65536


class Trainer:
    """A trainer whose disk fills while it stands still."""

    def __init__(self, native: Native, **flags: Any) -> None:
        argv = native.argv("train", **flags)
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        self.text = ""
        self.wait('"train_loss"')

    def wait(self, words: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            if words in line:
                return line
        raise AssertionError((words, self.text[-2000:], self.process.stderr))

    def fill(self, place: Path, size: int) -> Path:
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        ballast = leave(place, size)
        self.process.send_signal(signal.SIGCONT)
        return ballast

    def end(self) -> tuple[int, str]:
        rest, said = self.process.communicate(timeout=60)
        self.text += rest
        return self.process.returncode, said


STEPS = 400  # long enough to be stopped on the way


def test_a_disk_that_fills_stops_nothing(native: Native, small: Flags, disk: Path) -> None:
    """The run waits, for its metrics or for its checkpoint, and goes on when there is room."""
    flags = {**small, "steps": 2 * STEPS, "save_every": 50}
    trainer = Trainer(native, out=disk / "out", **flags)
    ballast = trainer.fill(disk, 0)
    trainer.wait('"note"')
    time.sleep(0.5)
    assert trainer.process.poll() is None
    ballast.unlink()
    assert trainer.end() == (0, "")
    assert "free some space" in notes(trainer.text)
    assert read_header(disk / "out" / "model.bin").step == 2 * STEPS
    calm = disk.parent / "calm"
    succeeded(native("train", out=calm, **flags))
    assert (calm / "model.bin").read_bytes() == (disk / "out" / "model.bin").read_bytes()
    assert len((calm / "metrics.jsonl").read_text().splitlines()) == 2 * STEPS + 1
    numbers = [
        [(e["step"], e["train_loss"]) for e in json_lines(file.read_text()) if "train_loss" in e]
        for file in (calm / "metrics.jsonl", disk / "out" / "metrics.jsonl")
    ]
    assert numbers[0] == numbers[1]


def test_where_only_the_weights_fit_they_are_saved_alone(
    native: Native, small: Flags, disk: Path
) -> None:
    out, calm = disk / "out", disk.parent / "calm"
    flags = {**small, "steps": STEPS, "save_every": 0}
    succeeded(native("train", out=calm, **flags))
    size = (calm / "model.bin").stat().st_size
    trainer = Trainer(native, out=out, **flags)
    ballast = trainer.fill(disk, size + 300_000)
    code, said = trainer.end()
    assert code == 1 and said.count("\n") == 1
    assert f"the weights of step {STEPS} are saved alone, in {out}/model.bin" in said
    assert "no room for" in said and "state.bin" in said
    assert (out / "model.bin").read_bytes() == (calm / "model.bin").read_bytes()
    assert not list(out.rglob("*.part"))
    ballast.unlink()
    succeeded(native("train", out=out, resume=1, **flags))
    assert (out / "model.bin").read_bytes() == (calm / "model.bin").read_bytes()


@pytest.mark.parametrize("frees", [True, False], ids=["room", "SIGTERM"])
def test_a_run_does_not_end_with_the_only_copy_of_its_weights(
    frees: bool, native: Native, small: Flags, disk: Path
) -> None:
    out = disk / "out"
    trainer = Trainer(native, out=out, **small, steps=STEPS, save_every=0)
    ballast = trainer.fill(disk, 200_000)  # the metrics fit
    line = trainer.wait('"note"')
    assert f"the weights of step {STEPS} are in memory alone" in line
    if frees:
        ballast.unlink()
        assert trainer.end() == (0, "")
        assert read_header(out / "model.bin").step == STEPS
        return
    trainer.process.send_signal(signal.SIGTERM)
    code, said = trainer.end()
    assert code == 1 and f"the weights of step {STEPS} are not saved" in said
    assert not list(out.rglob("*.part")) and not list(out.rglob("model.bin"))
    events = json_lines((out / "metrics.jsonl").read_text())
    assert sum("train_loss" in event for event in events) == STEPS


def test_newer_weights_that_were_saved_alone_outlive_a_resume(
    native: Native, small: Flags, disk: Path
) -> None:
    """The checkpoint before them is resumed; they stay until there are newer ones."""
    out = disk / "out"
    succeeded(native("train", out=out, **small, steps=2, save_every=0))
    flags = {**small, "steps": STEPS, "save_every": 0, "resume": 1}
    trainer = Trainer(native, out=out, **flags)
    size = (out / "model.bin").stat().st_size
    ballast = trainer.fill(disk, size + 300_000)
    assert trainer.end()[0] == 1
    assert read_header(out / "model.bin").step == STEPS
    ballast.unlink()
    trainer = Trainer(native, out=out, **flags)
    trainer.process.kill()
    trainer.end()
    assert read_header(out / "model.bin").step == STEPS
    succeeded(native("train", out=out, resume_from=2, **{**flags, "steps": 3}))
    assert read_header(out / "model.bin").step == 3
