"""The commands that llmc prints, typed as they stand where they were printed, are not refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import PRESET, copy_of, ok, write_texts

PRINTED = re.compile(r"^(?:next:|     ) llmc (.*)$", re.M)


def printed(text: str) -> list[list[str]]:
    """Return the commands that are printed as the next ones, as words."""
    return [shlex.split(command) for command in PRINTED.findall(text)]


def walk(llmc: Llmc, *words: str, code: int = 0) -> None:
    """Run a command, then each that it prints; none may be refused."""
    done = llmc(*words)
    assert done.returncode == code, (words, done.stderr)
    commands = printed(done.stderr)
    assert commands, done.stderr
    for each in commands:
        if "-i" not in each and "plot" not in each:
            after = llmc(*each)
            assert after.returncode == 0, (each, after.stderr)


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


def test_after_each_stage(llmc: Llmc) -> None:
    write_texts(llmc.workspace / "mine")
    walk(llmc, "tokenize", "mine", "--tokenizer", "byte")
    walk(llmc, "prepare", "mine", "--tokenizer", "byte", "--model", "random:tiny.toml")
    walk(llmc, "train", "--config", "tiny.toml", "--run", "a")
    walk(llmc, "train", "--resume", "--run", "a")
    walk(llmc, "sample", "--run", "a", "--tokens", "2")
    walk(llmc, "eval", "a")
    walk(llmc, "eval", "a", "--split", "train")
    walk(llmc, "runs")
    walk(llmc, "inspect", "runs/a")
    walk(llmc, "inspect", "data/mine")
    walk(llmc, "train", "--config", "tiny.toml", "--dry-run")


def test_random_weights_are_trained_by_their_preset(llmc: Llmc) -> None:
    done = ok(llmc("prepare", "texts", "--tokenizer", "byte", "--model", "random:tiny.toml"))
    assert printed(done.stderr)[0] == ["train", "--config", "tiny.toml"]
    walk(llmc, "export-weights", "random:tiny.toml", "--vocab-size", "257", "--out", "w.bin")


def test_a_context_below_the_default_needs_no_flag(llmc: Llmc) -> None:
    shape = ("--layers", "1", "--heads", "2", "--channels", "16", "--context", "24")
    walk(llmc, "export-weights", "random", *shape, "--vocab-size", "257", "--out", "small.bin")
    flags = ("train", "--model", "small.bin", "--steps", "1")
    assert "--seq-len 24" in ok(llmc(*flags)).stderr
    error = assert_one_sentence(llmc(*flags, "--seq-len", "25"), 2)
    assert "--seq-len 25 is more than the 24 positions" in error


def test_a_preset_of_another_shape_is_refused_with_the_way_to_its_weights(llmc: Llmc) -> None:
    other = PRESET.replace("layers = 1", "layers = 2")
    (llmc.workspace / "deep.toml").write_text(other)
    done = llmc("train", "--config", "deep.toml")
    assert "layers 2, not 1" in assert_one_sentence(done, 2)
    walk(llmc, "train", "--config", "deep.toml", code=2)


def test_in_a_workspace_without_what_comes_next(llmc: Llmc, tmp_path: Path) -> None:
    empty = Llmc(tmp_path / "empty", llmc.cache)
    write_texts(empty.workspace / "mine")
    (empty.workspace / "tiny.toml").write_text(PRESET)
    shape = ("--layers", "1", "--heads", "2", "--channels", "16", "--context", "24")
    sized = ("random", *shape, "--vocab-size", "257")
    assert printed(llmc("export-weights", *sized, "--out", "a.bin").stderr)[0][0] == "train"
    walk(empty, "export-weights", *sized, "--tokenizer", "byte", "--out", "a.bin")
    unknown = ok(empty("export-weights", *sized, "--out", "b.bin"))
    assert printed(unknown.stderr) == [["sample", "--model", "b.bin"]]
    assert not printed(ok(empty("sample", "--model", "b.bin", "--tokens", "2")).stderr)
    done = ok(empty("sample", "--model", "a.bin", "--tokens", "2"))
    assert printed(done.stderr) == [["sample", "--decode", "--model", "a.bin"]]
    assert printed(ok(empty("runs")).stderr) == [["prepare", "stdlib"]]
    assert not printed(ok(empty("decode", "97", "--tokenizer", "byte")).stderr)
    walk(empty, "tokenize", "mine", "--tokenizer", "byte")
    # The newest dataset has another tokenizer than the model; an older one has its.
    ok(empty("tokenize", "mine", "--tokenizer", "bpe:300", "--out", "data/other"))
    walk(empty, "export-weights", *sized, "--tokenizer", "byte", "--out", "a.bin")


def test_after_failures(llmc: Llmc) -> None:
    ok(llmc("train", "--config", "tiny.toml", "--run", "a", "--save-every", "1"))
    walk(llmc, "train", "--resume", "--run", "a", "--steps", "2", code=2)
    walk(llmc, "train", "--resume-from", "77", "--run", "a", code=3)


@pytest.mark.parametrize("value", ["0", "1e9"])
def test_epsilon_has_a_range(llmc: Llmc, value: str) -> None:
    """Zero divides by zero where a gradient is zero; a large one stops all updates."""
    assert "'--eps'" in assert_one_sentence(llmc("train", "--eps", value), 2)


def test_a_warmup_beyond_the_steps_is_refused(llmc: Llmc) -> None:
    error = assert_one_sentence(llmc("train", "--warmup", "41", "--steps", "40"), 2)
    assert "--warmup 41 is longer than the run" in error
