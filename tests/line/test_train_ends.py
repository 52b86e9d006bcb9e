"""How ``llmc train`` ends when it cannot begin, cannot go on, or is told to stop."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from llmc.cli.context import Context
from llmc.config import Preset
from llmc.engine.machine import Threads
from llmc.errors import Interrupted
from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.tokens.files import write_tokens
from llmc.train.loop import run_training
from llmc.train.plan import RunPlan
from llmc.train.record import Setup
from llmc.train.start import find_data
from llmc.weights.checkpoint import read_checkpoint, read_header, write_checkpoint
from llmc.weights.random import random_tensors
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.terminal import close_after
from tests.helpers.workspace import copy_of, losses, metrics, ok, runs, trained

TINY = ModelConfig(1, 2, 16, 64, 257)
FOREVER = ["--steps", "1000000", "--val-every", "0", "--sample-every", "0", "--threads", "1"]
EACH = [*FOREVER, "--log-every", "1"]


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


@pytest.mark.parametrize(
    ("missing", "flags", "command"),
    [
        ("data", [], "llmc prepare NAME"),
        ("models", [], "llmc export-weights random"),
        ("", ["--data", "nowhere"], "llmc prepare NAME"),
        ("", ["--data", "texts"], "llmc tokenize NAME"),
        ("", ["--val-data", "nowhere.bin"], "llmc tokenize PATH"),
        ("", ["--model", "nowhere.bin"], "llmc export-weights"),
        ("data/texts/train.bin", [], "llmc tokenize"),
    ],
)
def test_a_stage_that_has_not_run_is_named(
    llmc: Llmc, missing: str, flags: list[str], command: str
) -> None:
    if missing:
        (llmc.workspace / missing).rename(llmc.workspace / "gone")
    error = assert_one_sentence(llmc("train", *flags), 3)
    assert f"'{command}" in error
    assert runs(llmc) == []


def changed(path: str, at: int) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        data = bytearray((workspace / path).read_bytes())
        data[at] ^= 1
        (workspace / path).write_bytes(data)

    return change


def cut(path: str) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        os.truncate(workspace / path, (workspace / path).stat().st_size - 1)

    return change


def foreign(path: str) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        (workspace / path).write_bytes(b"something else, quite long " * 100)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        changed("data/texts/train.bin", 1500),
        changed("data/texts/val.bin", 1500),
        changed("data/texts/train.bin", 8),
        cut("data/texts/train.bin"),
        foreign("data/texts/train.bin"),
        foreign("data/texts/manifest.json"),
        foreign("data/texts/prepared.json"),
        changed("models/tiny-texts.bin", 5000),
        cut("models/tiny-texts.bin"),
        foreign("models/tiny-texts.bin"),
    ],
)
def test_what_was_damaged_or_tampered_with_is_refused(
    llmc: Llmc, damage: Callable[[Path], None]
) -> None:
    damage(llmc.workspace)
    assert_one_sentence(llmc("train", "--quiet"), 1)
    assert runs(llmc) == []


def test_a_token_outside_the_vocabulary_is_refused(llmc: Llmc) -> None:
    tokens = np.full(2000, 5)
    tokens[1234] = 257
    write_tokens(llmc.workspace / "x.bin", [tokens], 300)
    error = assert_one_sentence(llmc("train", "--data", "x.bin", "--quiet"), 1)
    assert "x.bin" in error
    assert "257" in error
    assert not (llmc.workspace / "runs" / "x-1" / "model.bin").exists()


def test_data_and_a_model_of_different_tokenizers_are_refused(llmc: Llmc) -> None:
    ok(llmc("tokenize", "texts", "--tokenizer", "bpe:270", "--out", "data/bpe"))
    error = assert_one_sentence(llmc("train", "--data", "data/bpe", *model()), 1)
    assert "was made for another tokenizer than data/bpe (bpe)" in error
    write_checkpoint(llmc.workspace / "small.bin", TINY, random_tensors(TINY, 1))
    error = assert_one_sentence(llmc("train", "--data", "data/bpe", "--model", "small.bin"), 1)
    assert "data/bpe uses 270 tokens, but small.bin knows only 257" in error
    ok(llmc("train", "--data", "data/texts", "--model", "small.bin", "--steps", "1"))
    assert runs(llmc) == ["texts-1"]


def model() -> list[str]:
    return ["--model", "models/tiny-texts.bin"]


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--lr", "abc"], 2, "'--lr'"),
        (["--lr", "nan"], 2, "'--lr'"),
        (["--steps", "-1"], 2, "'--steps'"),
        (["--steps", "1.5"], 2, "'--steps'"),
        (["--batch-size", "0"], 2, "'--batch-size'"),
        (["--seq-len", "65"], 2, "--seq-len 65 is more than the 64 positions of models/tiny-"),
        (["--beta1", "1"], 2, "'--beta1'"),
        (["--seed", str(2**53 + 2)], 2, "'--seed'"),
        (["--threads", "99999"], 2, "--threads"),
        (["--resume", "--dry-run"], 2, "--dry-run is for a new run"),
        (["--run", "a/b"], 2, "'a/b' is no name for a folder"),
        (["--run", ".."], 2, "'..' is no name for a folder"),
        (["--run", ""], 2, "'' is no name for a folder"),
        (["--config", "tiny-gpt"], 2, "no preset 'tiny-gpt'"),
        (["--config", "missing.toml"], 2, "cannot read the config missing.toml"),
        (["--stepz", "3"], 2, "--steps"),
        (["extra"], 2, "extra"),
    ],
)
def test_flags_that_make_no_sense_leave_nothing(
    llmc: Llmc, flags: list[str], code: int, said: str
) -> None:
    assert said in assert_one_sentence(llmc("train", "--quiet", *flags), code)
    assert runs(llmc) == []


def test_an_unknown_key_names_the_nearest(llmc: Llmc) -> None:
    (llmc.workspace / "mine.toml").write_text("[train]\nbatchsize = 3\n")
    error = assert_one_sentence(llmc("train", "--config", "mine.toml"), 2)
    assert "mine.toml [train]: unknown key 'batchsize'; did you mean 'batch_size'?" in error


def test_a_run_that_exists_is_not_overwritten(llmc: Llmc) -> None:
    trained(llmc, run="mine")
    before = metrics(llmc, "mine")
    error = assert_one_sentence(llmc("train", "--run", "mine"), 2)
    assert "the run runs/mine exists: " in error
    assert metrics(llmc, "mine") == before


def together(llmc: Llmc, *args: str) -> list[tuple[int, str]]:
    """Run a command twice at the same time; return the codes and what was said, the best first."""
    with started(llmc, *args) as first, started(llmc, *args) as second:
        said = [process.communicate(timeout=120)[1] for process in (first, second)]
        return sorted(zip((first.returncode, second.returncode), said, strict=True))


def test_of_two_that_begin_the_same_run_one_is_refused_and_destroys_nothing(llmc: Llmc) -> None:
    (code, _), (other, said) = together(llmc, "train", "--config", "tiny.toml", "--run", "same")
    assert (code, other) == (0, 2)
    assert "error: the run runs/same exists: " in said
    assert {path.name for path in (llmc.workspace / "runs" / "same").iterdir()} == {
        "best.bin", "checkpoints", "config.toml", "metrics.jsonl", "model.bin", "run.json",
        "tokenizer.json",
    }  # fmt: skip
    assert len(losses(llmc, "same")) == 4


def test_two_without_a_name_get_two_numbers(llmc: Llmc) -> None:
    assert [code for code, _ in together(llmc, "train", "--config", "tiny.toml")] == [0, 0]
    assert runs(llmc) == ["texts-1", "texts-2"]
    assert losses(llmc, "texts-1") == losses(llmc, "texts-2")


def test_a_folder_of_runs_that_cannot_be_made_is_refused(llmc: Llmc) -> None:
    (llmc.workspace / "runs").write_text("not a folder")
    assert "cannot write" in assert_one_sentence(llmc("train", "--quiet"), 1)


def poisoned(llmc: Llmc) -> str:
    """Write a model with a NaN in it."""
    header, tensors = read_checkpoint(llmc.workspace / "models" / "tiny-texts.bin")
    tensors["lnfw"] = np.full_like(tensors["lnfw"], np.nan)
    write_checkpoint(
        llmc.workspace / "nan.bin", header.config, tensors.items(), tokenizer=header.tokenizer
    )
    return "nan.bin"


def test_a_loss_that_is_not_finite_has_its_own_code(llmc: Llmc) -> None:
    flags = ["--model", poisoned(llmc), "--val-every", "0", "--quiet"]
    error = assert_one_sentence(llmc("train", *flags), 5)
    assert "nan" in error
    assert "before the first update" in error and "'llmc inspect nan.bin'" in error
    assert runs(llmc) == []


def test_so_has_a_validation_loss(llmc: Llmc) -> None:
    assert "nan" in assert_one_sentence(llmc("train", "--model", poisoned(llmc), "--quiet"), 5)


def test_losses_before_it_are_kept(llmc: Llmc) -> None:
    flags = ["--lr", "10", "--weight-decay", "10", "--val-every", "0", "--sample-every", "0"]
    done = llmc("train", *flags, "--run", "hot", "--steps", "50", "--quiet")
    assert_one_sentence(done, 5)
    assert losses(llmc, "hot")[0] == pytest.approx(5.57, abs=0.1)
    assert not (llmc.workspace / "runs" / "hot" / "model.bin").exists()


def under(limit: Callable[[], None], llmc: Llmc, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a command with less than it needs."""
    return subprocess.run(
        [*llmc.command, *args],
        cwd=llmc.workspace,
        env=llmc.env(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_in_one_sentence_and_no_half_checkpoint(llmc: Llmc) -> None:
    """A file that may not grow any more is what a full disk is to the one who writes it."""

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = under(confine, llmc, "train", "--run", "full", "--steps", "2")
    *_, error, way = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith("error: ") and "runs/full/checkpoints/.part/model.bin" in error
    assert way == "next: llmc train --resume"
    folder = llmc.workspace / "runs" / "full"
    assert not (folder / "model.bin").exists()
    assert not list((folder / "checkpoints").glob("*/*"))
    assert "no checkpoint" in ok(llmc("train", "--resume", "--run", "full")).stderr
    confined = ("train", "--resume", "--run", "full", "--steps", "4", "--quiet")
    done = under(confine, llmc, *confined)
    assert "runs/full/checkpoints" in assert_one_sentence(done, 1)


@contextmanager
def started(llmc: Llmc, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a session of its own, as a terminal does; end it whatever happens."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in background

    with subprocess.Popen(
        [*llmc.command, *args],
        cwd=llmc.workspace,
        env=llmc.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 -- the tests have no threads
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(words):
            return
    raise AssertionError(f"it ended without saying {words!r}")


def to_group(process: subprocess.Popen[str], number: int) -> None:
    os.killpg(process.pid, number)


def to_python(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)


@pytest.mark.parametrize(
    ("send", "numbers"),
    [
        (to_group, [signal.SIGINT]),
        (to_python, [signal.SIGINT]),
        (to_python, [signal.SIGTERM]),
        (
            to_group,
            [signal.SIGHUP, signal.SIGHUP, signal.SIGTERM],
        ),  # shell, system, service manager
        (to_group, [signal.SIGUSR1]),
    ],
)
def test_an_interrupt_finishes_the_step_and_saves(
    llmc: Llmc, send: Callable[[subprocess.Popen[str], int], None], numbers: list[int]
) -> None:
    with started(llmc, "train", "--run", "long", *EACH) as process:
        wait_for(process, "step 3:")
        for number in numbers:
            send(process, number)
        _, err = process.communicate(timeout=60)
    steps = len(losses(llmc, "long"))
    assert process.returncode == 130
    assert 3 < steps < 1_000_000
    assert read_header(llmc.workspace / "runs/long/model.bin").step == steps
    assert f"interrupted after {steps:,} of 1,000,000 steps; saved runs/long/model.bin\n" in err
    assert err.count("model.bin\n") == err.count("; saved runs/long") == 1
    assert err.endswith("next: llmc train --resume\n")
    assert "Traceback" not in err
    assert "error" not in err
    assert not list((llmc.workspace / "runs/long").glob("*.part"))
    assert ok(llmc("sample", "--tokens", "2")).stdout.count("\n") == 2


def test_an_interrupt_before_the_first_step_leaves_nothing(
    llmc: Llmc, here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it comes to the engine or to Python."""
    here = Context(Workspace(llmc.workspace), here.ui)
    data = find_data(here.workspace, None, None)
    start = llmc.workspace / model()[1]
    preset = Preset(model=read_header(start).config)
    plan = RunPlan(Path(), preset, data, start)
    for stop in (KeyboardInterrupt, Interrupted):

        def stopped(*_: object, stop: type[BaseException] = stop) -> None:
            assert runs(llmc) == ["a"]
            raise stop("interrupted")

        monkeypatch.setattr("llmc.train.loop.run_engine", stopped)
        with pytest.raises(stop):
            run_training(here.workspace, plan, Setup(Path("x"), "none", Threads(1)), run="a")
        assert runs(llmc) == []


def test_the_command_that_continues_names_the_run_if_another_is_newer(llmc: Llmc) -> None:
    place = str(llmc.workspace)
    with started(llmc, "--workspace", place, "train", "--run", "long", *EACH) as process:
        wait_for(process, "step 3:")
        newer = llmc.workspace / "runs" / "newer" / "run.json"
        newer.parent.mkdir()
        newer.touch()
        os.utime(newer, (2e9, 2e9))
        to_python(process, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert err.endswith(f"next: llmc --workspace {place} train --resume --run long\n")


def test_an_interrupted_run_has_its_result_too(llmc: Llmc) -> None:
    log = llmc.workspace / "runs/long/metrics.jsonl"
    with started(llmc, "train", "--run", "long", "--json", *FOREVER) as process:
        while process.poll() is None and not (log.exists() and log.stat().st_size > 0):
            pass
        to_python(process, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    *_, end, result = [json.loads(line) for line in out.splitlines()]
    assert (end["event"], end["reason"]) == ("end", "interrupted")
    assert result["steps"] == len(losses(llmc, "long"))
    assert result["checkpoint"] == "runs/long/model.bin"


def steps_after(llmc: Llmc, least: int) -> int:
    """Wait until the run has recorded more steps; return how many."""
    deadline = time.monotonic() + 60
    while len(losses(llmc, "long")) <= least and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(losses(llmc, "long"))


def test_a_reader_that_leaves_early_does_not_end_the_training(llmc: Llmc) -> None:
    with started(llmc, "train", "--run", "long", *EACH) as process:
        wait_for(process, "step 3:")
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        made = len(losses(llmc, "long"))
        assert steps_after(llmc, made + 50) > made + 50
        to_python(process, signal.SIGTERM)
        err = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert err.count("cannot write to stdout: Broken pipe; training goes on") == 1
    assert "Traceback" not in err and "Exception ignored" not in err and "error" not in err
    steps = len(losses(llmc, "long"))
    assert read_header(llmc.workspace / "runs/long/model.bin").step == steps


def test_a_terminal_that_closes_ends_the_training_well(llmc: Llmc) -> None:
    close_after(llmc, "steps", "train", "--run", "long", *EACH)
    end = metrics(llmc, "long")[-1]
    assert (end["event"], end["reason"]) == ("end", "interrupted")
    steps = len(losses(llmc, "long"))
    assert read_header(llmc.workspace / "runs/long/model.bin").step == steps


def test_ctrl_z_stops_the_engine_too_and_fg_goes_on(llmc: Llmc) -> None:
    with started(llmc, "train", "--run", "long", *EACH) as process:
        wait_for(process, "step 3:")
        to_python(process, signal.SIGTSTP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        made = len(losses(llmc, "long"))
        time.sleep(0.5)
        assert len(losses(llmc, "long")) == made
        to_python(process, signal.SIGCONT)
        assert steps_after(llmc, made) > made
        to_python(process, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted after" in err


def test_losses_reach_a_terminal_of_any_encoding(llmc: Llmc) -> None:
    latin = {"PYTHONIOENCODING": "latin-1"}
    done = llmc.raw("train", "--config", "tiny.toml", "--sample-every", "1", env=latin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"generating:") == 4
