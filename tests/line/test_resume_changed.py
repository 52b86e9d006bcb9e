"""``llmc train --resume`` with changes: they are said, recorded and applied from that step on."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import llmc as library
from llmc.weights.checkpoint import read_header
from llmc.weights.state import read_training_state
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import config, copy_of, metrics, ok

START = ("train", "--config", "tiny.toml", "--quiet", "--batch-size", "4", "--lr", "0.001")
OTHER_BITS = "not, bit for bit, those of an undisturbed run"


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


def record(llmc: Llmc, run: str = "a") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((llmc.workspace / "runs" / run / "run.json").read_text())
    return found


def steps(llmc: Llmc, name: str, run: str = "a") -> list[float]:
    return [line[name] for line in metrics(llmc, run) if name in line]


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        (["--lr", "5e-5"], {"lr": [0.001, 5e-5]}),
        (["--grad-clip", "1"], {"grad_clip": [0.0, 1.0]}),
        (["--dropout", "0.1"], {"dropout": [0.0, 0.1]}),
        (["--skip-grad-z", "3"], {"skip_grad_z": [0.0, 3.0]}),
        (["--skip-loss-z", "3"], {"skip_loss_z": [0.0, 3.0]}),
        (["--optimizer-state", "8bit"], {"optimizer_state": ["fp32", "8bit"]}),
        (["--dtype", "bf16"], {"dtype": ["fp32", "bf16"]}),
        (["--batch-size", "2"], {"batch_size": [4, 2], "total_batch_size": [0, 64]}),
        (
            ["--batch-size", "1", "--total-batch-size", "64"],
            {"batch_size": [4, 1], "total_batch_size": [0, 64]},
        ),
    ],
)
def test_a_change_is_announced_recorded_and_kept(
    llmc: Llmc, flags: list[str], changes: dict[str, list[Any]]
) -> None:
    ok(llmc(*START, "--run", "a", "--steps", "3"))
    done = ok(llmc("train", "--resume", "--steps", "5", *flags))
    assert OTHER_BITS in done.stderr
    assert "from step 3 on" in done.stderr
    (resume,) = record(llmc)["resumes"]
    assert (resume["step"], resume["changes"]) == (3, {"steps": [3, 5], **changes})
    for name, (_, new) in changes.items():
        assert config(llmc, "a")["train"][name] == new
    assert len(steps(llmc, "train_loss")) == 5
    done = ok(llmc("train", "--resume", "--steps", "6"))
    assert OTHER_BITS not in done.stderr
    assert record(llmc)["resumes"][1]["changes"] == {"steps": [5, 6]}


def test_a_smaller_batch_sees_the_same_rows(llmc: Llmc) -> None:
    """The sums come in another order, so the last digits may differ."""
    ok(llmc(*START, "--run", "calm", "--steps", "8"))
    ok(llmc(*START, "--run", "a", "--steps", "3"))
    ok(llmc("train", "--resume", "--steps", "8", "--batch-size", "1"))
    losses = steps(llmc, "train_loss")
    assert losses == pytest.approx(steps(llmc, "train_loss", "calm"), rel=1e-5)
    assert losses[:3] == steps(llmc, "train_loss", "calm")[:3]


def test_recompute_changes_no_bit_and_is_not_announced(llmc: Llmc) -> None:
    ok(llmc(*START, "--run", "calm", "--steps", "5"))
    ok(llmc(*START, "--run", "a", "--steps", "3"))
    assert OTHER_BITS not in ok(llmc("train", "--resume", "--steps", "5", "--recompute")).stderr
    assert steps(llmc, "train_loss") == steps(llmc, "train_loss", "calm")
    assert record(llmc)["resumes"][0]["changes"]["recompute"] == [False, True]


@pytest.mark.parametrize(
    ("before", "after"),
    [(a, b) for a in ("fp32", "bf16", "8bit") for b in ("fp32", "bf16", "8bit") if a != b],
)
def test_the_moments_are_converted(llmc: Llmc, before: str, after: str) -> None:
    """The loss goes on as it would have: with moments of zero its first steps would be larger."""
    flags = ("--optimizer-state", before, "--lr", "0.003")
    ok(llmc(*START, *flags, "--run", "calm", "--steps", "40"))
    ok(llmc(*START, *flags, "--run", "a", "--steps", "30"))
    ok(llmc("train", "--resume", "--steps", "40", "--optimizer-state", after))
    calm, changed = steps(llmc, "train_loss", "calm"), steps(llmc, "train_loss")
    assert changed[:31] == calm[:31]
    assert changed[31:] == pytest.approx(calm[31:], abs=0.02)
    (state,) = (llmc.workspace / "runs/a/checkpoints").glob("00000040/state.bin")
    assert read_training_state(state).optimizer_state == after


def test_other_data_is_taken_where_it_is_named(llmc: Llmc) -> None:
    """The validation losses of the old text say nothing of the new one."""
    (llmc.workspace / "other").mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        (llmc.workspace / "other" / name).write_text(f"quite another text, {name}. " * 60)
    ok(llmc("tokenize", "other", "--tokenizer", "byte", "--val-fraction", "0.3"))
    ok(llmc(*START, "--run", "a", "--steps", "4", "--data", "data/texts"))
    old = record(llmc)
    done = ok(llmc("train", "--resume", "--steps", "8", "--data", "data/other"))
    assert OTHER_BITS in done.stderr
    assert "data data/other/train.bin" in done.stderr.replace("../", "")
    new = record(llmc)
    changes = new["resumes"][0]["changes"]
    assert changes["data"] == ["data/texts/train.bin", "data/other/train.bin"]
    assert changes["val_data"] == ["data/texts/val.bin", "data/other/val.bin"]
    assert changes["files"] == [old["files"], new["files"]]
    assert new["manifest"]["dataset"] == "other"
    ok(llmc("train", "--resume", "--steps", "10"))
    assert "changes" in record(llmc)["resumes"][1]
    header = read_header(llmc.workspace / "runs/a/best.bin")
    val = {line["step"]: line["val_loss"] for line in metrics(llmc, "a") if "val_loss" in line}
    later = {step: loss for step, loss in val.items() if step > 4}
    assert header.step in later


def test_other_data_of_another_tokenizer_is_refused(llmc: Llmc) -> None:
    ok(llmc("tokenize", "texts", "--tokenizer", "bpe:270", "--out", "data/bpe"))
    ok(llmc(*START, "--run", "a", "--steps", "3", "--data", "data/texts"))
    done = llmc("train", "--resume", "--steps", "5", "--data", "data/bpe")
    assert "tokenizer" in assert_one_sentence(done, 1)
    assert "resumes" in record(llmc) and record(llmc)["resumes"] == []


def saved(llmc: Llmc) -> list[int]:
    names = (path.name for path in (llmc.workspace / "runs/a/checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdecimal())  # none that is half written


def test_a_checkpoint_is_picked_by_its_step(llmc: Llmc) -> None:
    flags = ("--val-every", "0", "--save-every", "2", "--keep", "4")
    ok(llmc(*START, *flags, "--run", "calm", "--steps", "8"))
    shutil.copytree(llmc.workspace / "runs/calm", llmc.workspace / "runs/a")
    assert saved(llmc) == [2, 4, 6, 8]
    done = ok(llmc("train", "--resume-from", "4", "--run", "a"))
    assert "after step 4 is removed" in done.stderr
    assert steps(llmc, "train_loss") == steps(llmc, "train_loss", "calm")
    one, two = (llmc.workspace / "runs" / run / "model.bin" for run in ("a", "calm"))
    assert one.read_bytes() == two.read_bytes()
    ok(
        llmc(
            "train", "--resume", "--resume-from", "4", "--run", "a", "--lr", "1e-5", "--steps", "6"
        )
    )
    assert saved(llmc) == [2, 4, 6]
    assert steps(llmc, "lr")[3:] == [0.001, 1e-5, 1e-5]
    again = library.train(run="a", resume_from=2, steps=3, workspace=llmc.workspace)
    assert again.steps == 3


def test_best_is_a_checkpoint_too_and_is_kept(llmc: Llmc) -> None:
    """With it AdamW's moments are there: the step after it is the one that was made then."""
    flags = ("--val-every", "2", "--patience", "3", "--lr", "0.05", "--steps", "60")
    ok(llmc(*START, *flags, "--run", "a"))
    losses = steps(llmc, "train_loss")
    best, last = (
        read_header(llmc.workspace / "runs/a" / f"{n}.bin").step for n in ("best", "model")
    )
    assert best < last
    assert saved(llmc) == [best, last]
    ok(
        llmc(
            "train", "--run", "a", "--resume-from", "best", "--patience", "0", "--steps", f"{last}"
        )
    )
    assert steps(llmc, "train_loss") == losses
    ok(llmc("train", "--run", "a", "--resume-from", "best", "--lr", "1e-4", "--steps", "60"))
    assert read_header(llmc.workspace / "runs/a/model.bin").step == 60


def test_going_back_behind_the_best_weights_leaves_none_of_later(llmc: Llmc) -> None:
    flags = ("--val-every", "1", "--save-every", "1", "--keep", "9", "--steps", "6")
    ok(llmc(*START, *flags, "--run", "a"))
    assert read_header(llmc.workspace / "runs/a/best.bin").step == 6
    ok(llmc("train", "--run", "a", "--resume-from", "2", "--lr", "0", "--steps", "3"))
    assert read_header(llmc.workspace / "runs/a/best.bin").step in (2, 3)
    assert read_header(llmc.workspace / "runs/a/model.bin").step == 3


@pytest.mark.parametrize("wanted", ["3", "best", "newest", "-1"])
def test_a_checkpoint_that_is_not_kept_is_refused(llmc: Llmc, wanted: str) -> None:
    ok(llmc(*START, "--val-every", "0", "--save-every", "2", "--run", "a", "--steps", "4"))
    before = {p: p.read_bytes() for p in (llmc.workspace / "runs").rglob("*") if p.is_file()}
    done = llmc("train", f"--resume-from={wanted}", "--run", "a", "--steps", "9")
    assert done.returncode in (2, 3)
    assert "error: " in done.stderr
    if wanted == "3":
        assert "llmc train --resume-from 4 --run a" in done.stderr
    after = {p: p.read_bytes() for p in (llmc.workspace / "runs").rglob("*") if p.is_file()}
    assert before == after


def test_too_few_steps_print_the_command_that_works(llmc: Llmc) -> None:
    ok(llmc(*START, "--run", "a", "--steps", "4"))
    done = llmc("train", "--resume", "--run", "a", "--steps", "3", "--lr", "1e-5")
    assert_one_sentence(done, 2)
    (command,) = re.findall(r"^next: llmc (.*)", done.stderr, re.M)
    assert "--lr 1e-05" in command
    ok(llmc(*shlex.split(command)))
    assert steps(llmc, "lr")[-1] == 1e-5


def test_a_resume_with_nothing_to_do_keeps_its_changes_in_the_next_command(llmc: Llmc) -> None:
    ok(llmc(*START, "--run", "a", "--steps", "4"))
    done = ok(llmc("train", "--resume", "--lr", "1e-5"))
    (command,) = re.findall(r"llmc (train .*)", done.stderr)
    ok(llmc(*shlex.split(command)))
    assert steps(llmc, "lr")[-1] == 1e-5


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_rate_that_jumps_is_said_with_the_command_that_does_not(
    llmc: Llmc, schedule: str
) -> None:
    ok(llmc(*START, "--run", "a", "--steps", "10", "--schedule", schedule))
    done = ok(llmc("train", "--resume", "--steps", "20"))
    (command,) = re.findall(r"the learning rate jumps .*'llmc (.*)'", done.stderr)
    assert steps(llmc, "lr")[10] > 2 * steps(llmc, "lr")[9]
    shutil.rmtree(llmc.workspace / "runs/a")
    ok(llmc(*START, "--run", "a", "--steps", "10", "--schedule", schedule))
    last = steps(llmc, "lr")[9]
    done = ok(llmc(*shlex.split(command)))
    assert "jumps" not in done.stderr
    assert steps(llmc, "lr")[10:] == pytest.approx([last] * 10, rel=1e-2)


def test_a_rate_that_goes_on_is_not_said_to_jump(llmc: Llmc) -> None:
    for schedule, warmup in (("constant", "0"), ("constant", "6"), ("cosine", "2")):
        run = f"{schedule}{warmup}"
        flags = ("--schedule", schedule, "--warmup", warmup, "--save-every", "3", "--keep", "9")
        ok(llmc(*START, *flags, "--run", run, "--steps", "12"))
        done = ok(llmc("train", "--run", run, "--resume-from", "3"))
        assert "jumps" not in done.stderr


def test_after_a_loss_that_is_not_finite_the_printed_commands_continue(llmc: Llmc) -> None:
    ok(llmc(*START, "--run", "a", "--steps", "3", "--save-every", "1"))
    flags = ["--steps", "40", "--lr", "10", "--weight-decay", "10"]
    flags += ["--save-every", "0", "--val-every", "0"]  # what it does to the weights is not saved
    done = llmc("train", "--resume", "--run", "a", *flags)
    assert done.returncode == 5
    commands = re.findall(r"^(?:next:|     ) llmc (train --resume.*)", done.stderr, re.M)
    assert any("--lr" in command for command in commands)
    assert any("--grad-clip 1" in command for command in commands)
    lr = next(command for command in commands if "--lr" in command)
    ok(llmc(*shlex.split(re.sub(r"--lr \S+", "--lr 1e-4", lr))))
    assert len(steps(llmc, "train_loss")) == 40


def test_a_killed_engine_has_its_own_code_and_says_what_needs_less_memory(llmc: Llmc) -> None:
    forever = (
        "--steps",
        "1000000",
        "--save-every",
        "20",
        "--val-every",
        "0",
        "--sample-every",
        "0",
    )
    with llmc.start("train", "--run", "a", *forever, text=True) as process:
        checkpoints = llmc.workspace / "runs/a/checkpoints"
        while process.poll() is None and not list(checkpoints.glob("000000*")):
            time.sleep(0.05)
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid), "llmc-native"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        for child in children:
            subprocess.run(["kill", f"-{signal.SIGKILL.value}", child], check=True)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 137
    assert "memory" in err and "SIGKILL" in err and "is saved" in err
    commands = re.findall(r"^(?:next:|     ) llmc (train --resume.*)", err, re.M)
    assert commands[0] == "train --resume"
    assert any("--recompute" in command for command in commands)
    assert any("--optimizer-state 8bit" in command for command in commands)
    for command in commands[1:]:
        at = max(saved(llmc))  # model.bin may be one behind: the engine was killed
        ok(llmc(*shlex.split(command), "--steps", str(at + 2)))


def test_a_record_without_changes_is_read(llmc: Llmc) -> None:
    """As an older llmc wrote it."""
    ok(llmc(*START, "--run", "a", "--steps", "2"))
    ok(llmc("train", "--resume", "--steps", "3"))
    old = record(llmc)
    del old["resumes"][0]["changes"]
    (llmc.workspace / "runs/a/run.json").write_text(json.dumps(old))
    ok(llmc("train", "--resume", "--steps", "4"))


def test_the_losses_of_another_validation_are_not_compared(llmc: Llmc) -> None:
    """More tokens, or other ones: what was lowest before may be best no more."""
    ok(llmc(*START, "--run", "a", "--steps", "4", "--lr", "0.01"))
    path = llmc.workspace / "runs/a/metrics.jsonl"  # as if the old validation was an easy one
    path.write_text(re.sub(r'"val_loss":\d', '"val_loss":0', path.read_text()))
    done = ok(llmc("train", "--resume", "--steps", "8", "--val-tokens", "64", "--save-every", "2"))
    assert "had a lower validation loss" not in done.stderr
    best = read_header(llmc.workspace / "runs/a/best.bin")
    assert best.step > 4
    (run,) = json.loads(ok(llmc("runs", "--json")).stdout)["runs"]
    assert run["best_val_step"] == best.step
    assert run["best_val_loss"] == pytest.approx(best.val_loss)
    ok(llmc("train", "--resume", "--steps", "9"))
    (run,) = json.loads(ok(llmc("runs", "--json")).stdout)["runs"]
    assert run["best_val_step"] > 4


def test_other_validation_data_alone(llmc: Llmc) -> None:
    ok(llmc(*START, "--run", "a", "--steps", "3"))
    ok(llmc("train", "--resume", "--steps", "4", "--val-data", "data/texts/val.bin"))
    assert record(llmc)["resumes"][0]["changes"] == {"steps": [3, 4]}
    done = ok(llmc("train", "--resume", "--steps", "5", "--val-data", "data/texts/train.bin"))
    assert OTHER_BITS in done.stderr
    changes = record(llmc)["resumes"][1]["changes"]
    assert changes["val_data"] == ["data/texts/val.bin", "data/texts/train.bin"]
    assert "data" not in changes
    ok(llmc("train", "--resume", "--steps", "6"))


def test_a_run_without_validation_gets_one(llmc: Llmc) -> None:
    """As the refusal of --patience advises."""
    shutil.copy(llmc.workspace / "data/texts/train.bin", llmc.workspace / "bare.bin")
    bare = ("--data", "bare.bin", "--model", "models/tiny-texts.bin")
    ok(llmc("train", *bare, "--run", "a", "--steps", "2", "--quiet"))
    error = assert_one_sentence(llmc("train", "--resume", "--steps", "9", "--patience", "2"), 2)
    assert "give --val-data and --val-every" in error
    more = ("--patience", "2", "--val-data", "data/texts/val.bin", "--val-every", "1")
    ok(llmc("train", "--resume", "--steps", "4", *more))
    assert (llmc.workspace / "runs/a/best.bin").is_file()


def test_the_starting_weights_may_have_been_replaced(llmc: Llmc) -> None:
    """A resume needs them no more: their shape and tokenizer are not the run's."""
    ok(llmc(*START, "--run", "a", "--steps", "3"))
    shape = ("--layers", "2", "--heads", "1", "--channels", "8", "--context", "8")
    words = ("export-weights", "random", *shape, "--vocab-size", "99")
    (llmc.workspace / "models/tiny-texts.bin").unlink()
    ok(llmc(*words, "--out", "models/tiny-texts.bin"))
    done = ok(llmc("train", "--resume", "--steps", "4"))
    assert "edited" not in done.stderr
    assert config(llmc, "a")["model"]["context"] == 64


def test_another_optimizer_is_refused(llmc: Llmc) -> None:
    ok(llmc(*START, "--run", "a", "--steps", "3", "--optimizer", "muon"))
    done = llmc("train", "--resume", "--steps", "5", "--optimizer", "adamw")
    assert done.returncode == 2
    assert "--optimizer muon" in done.stderr and "its training state" in done.stderr
    ok(llmc("train", "--resume", "--steps", "5"))
    assert config(llmc, "a")["train"]["optimizer"] == "muon"
