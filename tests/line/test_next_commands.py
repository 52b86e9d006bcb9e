"""The commands that llmc prints, typed as they stand where they were printed, are not refused."""

from __future__ import annotations

import re
import resource
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import PRESET, config, copy_of, ok, write_texts

PRINTED = re.compile(r"^(?:next:|     ) llmc (.*)$", re.M)
QUOTED = re.compile(r"'llmc ([^']*)'")
# What a person would put for a word in capitals.
MEANT = {
    "PATH": "texts --tokenizer byte",
    "NAME": "texts --tokenizer byte",
    "MODEL": "random:tiny.toml --vocab-size 257 --out models/tiny-texts.bin",
}


def printed(text: str) -> list[list[str]]:
    """Return the commands that are printed as the next ones, as words."""
    return [shlex.split(command) for command in PRINTED.findall(text)]


def advised(text: str) -> list[list[str]]:
    """Return the commands that a message quotes, with what a person would put into them."""
    found = []
    for command in QUOTED.findall(text):
        words = shlex.split(" ".join(MEANT.get(word, word) for word in command.split()))
        found.append([*words, "--model", "random:tiny.toml"] if words[0] == "prepare" else words)
    return found


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


def test_weights_that_do_not_fit_the_newest_dataset_are_not_trained(llmc: Llmc) -> None:
    words = ("export-weights", "random:tiny.toml", "--vocab-size", "100", "--out", "w.bin")
    (command,) = printed(ok(llmc(*words)).stderr)
    assert command[0] == "sample"
    walk(llmc, *words)


def test_a_dataset_leads_to_weights_that_fit_it(llmc: Llmc) -> None:
    """The newest weights are not the ones to train from where they have other tokens."""
    other = ("export-weights", "random:tiny.toml", "--vocab-size", "100")
    ok(llmc(*other, "--out", "models/other.bin"))
    walk(llmc, "tokenize", "texts", "--tokenizer", "byte", "--out", "data/again")
    done = ok(llmc("tokenize", "texts", "--tokenizer", "bpe:270", "--out", "data/bpe"))
    assert printed(done.stderr) == [["prepare", "data/bpe", "--model", "random:stories-1m"]]
    ok(llmc("prepare", "data/bpe", "--model", "random:tiny.toml"))
    ok(llmc("train", "--steps", "1"))
    ok(llmc("train", "--steps", "1", "--data", "data/texts"))


@pytest.mark.parametrize("others", [[], ["models/tiny-texts.bin"]])
def test_a_dataset_without_weights_leads_to_some(
    llmc: Llmc, tmp_path: Path, others: list[str]
) -> None:
    """Weights of another tokenizer are not named, because nobody chose them."""
    fresh = Llmc(tmp_path / "fresh", llmc.cache)
    write_texts(fresh.workspace / "mine")
    (fresh.workspace / "tiny.toml").write_text(PRESET)
    for name in others:
        (fresh.workspace / name).parent.mkdir()
        (fresh.workspace / name).write_bytes((llmc.workspace / name).read_bytes())
    ok(fresh("prepare", "mine", "--tokenizer", "bpe:270"))
    said = fresh("train", "--config", "tiny.toml")
    assert "no model in models" in assert_one_sentence(said, 3)
    assert printed(said.stderr) == [["prepare", "data/mine", "--model", "random:tiny.toml"]]
    walk(fresh, "train", "--config", "tiny.toml", code=3)
    ok(fresh("train", "--config", "tiny.toml", "--steps", "1"))


def test_the_weights_of_a_preset_are_made_for_the_tokens_of_the_data(llmc: Llmc) -> None:
    shape = ("--layers", "1", "--heads", "1", "--channels", "8", "--context", "24")
    ok(llmc("export-weights", "random", *shape, "--vocab-size", "300", "--out", "wide.bin"))
    said = llmc("train", "--config", "tiny.toml", "--model", "wide.bin")
    assert printed(said.stderr)[0][2:4] == ["--vocab-size", "257"]


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


def test_a_preset_s_warmup_is_shortened_with_its_steps(llmc: Llmc) -> None:
    preset = PRESET.replace("steps = 4", "steps = 400\nwarmup = 100")
    (llmc.workspace / "long.toml").write_text(preset)
    for flags, warmup in (
        (("--steps", "20"), 5),
        (("--max-tokens", "640"), 5),
        (("--epochs", "1", "--steps", "30", "--schedule", "cosine"), 8),
        (("--steps", "100"), 100),
        (("--steps", "0"), 100),
    ):
        done = ok(llmc("train", "--config", "long.toml", *flags, "--run", "a", "--val-every", "0"))
        assert (f"--warmup {warmup}: the preset's 100 are for" in done.stderr) == (warmup < 100)
        assert config(llmc, "a")["train"]["warmup"] == warmup
        shutil.rmtree(llmc.workspace / "runs")
    error = assert_one_sentence(llmc("train", "--config", "long.toml", "--warmup", "999"), 2)
    assert "--warmup 999 is longer" in error


# ---- commands within messages; tests/unit/cli/test_remedies.py has them all ----------------------


def shortened(name: str) -> Callable[[Path], object]:
    """Return what cuts a file of a workspace in half."""

    def cut(workspace: Path) -> None:
        file = workspace / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return cut


def removed(*names: str) -> Callable[[Path], object]:
    """Return what removes files and folders of a workspace."""

    def remove(workspace: Path) -> None:
        for name in names:
            path = workspace / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


BROKEN = [
    (shortened("data/texts/train.bin"), ("train",), 1),
    (shortened("data/texts/val.bin"), ("train",), 1),
    (shortened("data/texts/manifest.json"), ("train",), 1),
    (shortened("data/texts/prepared.json"), ("train",), 1),
    (removed("data/texts/train.bin"), ("train",), 3),
    (removed("data/texts/manifest.json"), ("train", "--data", "data/texts"), 3),
    (removed("data", "models"), ("train", "--data", "data/texts"), 3),
    (removed("models"), ("train", "--model", "models/tiny-texts.bin"), 3),
    (removed(), ("sample", "--run", "none"), 3),
    (removed(), ("train", "--resume", "--run", "none"), 3),
    (removed(), ("train", "--resume"), 3),
    (removed(), ("sample", "--model", "none.bin"), 3),
    (removed(), ("eval", "none"), 3),
    (removed(), ("plot", "none"), 3),
    (removed(), ("tokenize", "data/texts"), 2),
]


@pytest.mark.parametrize(("damage", "command", "code"), BROKEN)
def test_after_damage_the_quoted_commands_work(
    damage: Callable[[Path], object], command: tuple[str, ...], code: int, llmc: Llmc
) -> None:
    damage(llmc.workspace)
    done = llmc(*command, "--steps", "1") if command[0] == "train" else llmc(*command)
    assert_one_sentence(done, code)
    commands = [*advised(done.stderr), *printed(done.stderr)]
    assert commands, done.stderr
    for words in commands:
        if "stdlib" not in words:  # takes half a minute
            ok(llmc(*words))
    if command[0] == "train" and "--resume" not in command:
        ok(llmc(*command, "--steps", "1"))


def test_parts_and_a_missing_split(llmc: Llmc) -> None:
    write_texts(llmc.workspace / "other")
    done = ok(llmc("tokenize", "other", "--tokenizer", "byte", "--shard", "1/1"))
    (part,) = (llmc.workspace / "data/other").glob("part-*")
    error = assert_one_sentence(llmc("train", "--data", part), 3)
    assert "'llmc tokenize --merge FOLDER'" in error
    for command in printed(done.stderr):
        ok(llmc(*command))
    ok(llmc("train", "--data", "data/other", "--steps", "1"))
    ok(llmc("tokenize", "texts", "--tokenizer", "byte", "--val-tokens", "0", "--out", "data/none"))
    words = ("train", "--data", "data/texts", "--val-data", "data/none", "--steps", "1")
    error = assert_one_sentence(llmc(*words), 3)
    (command,) = QUOTED.findall(error)
    typed = command.replace("PATH", MEANT["PATH"]).replace(" F", " 0.5") + " --force"
    ok(llmc(*shlex.split(typed), "--out", "data/none"))
    ok(llmc(*words))


@pytest.mark.parametrize("saves", [[], ["--save-every", "100"]])
def test_a_full_disk_leads_to_a_resume(llmc: Llmc, saves: list[str]) -> None:
    """No file may grow beyond a size that the metrics reach some time."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    flags = ("--steps", "1200", "--val-every", "0", "--sample-every", "0", *saves)
    words = ("train", "--config", "tiny.toml", "--run", "full", *flags)
    with llmc.start(*words, text=True, preexec_fn=limit) as process:
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "metrics.jsonl" in error and "(ulimit -f)" in error
    assert printed(error) == [["train", "--resume"]]
    done: subprocess.CompletedProcess[str] = ok(llmc(*printed(error)[0]))
    assert "1,200 steps" in done.stderr
