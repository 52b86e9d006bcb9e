from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmc.model import ModelConfig
from llmc.tokens.manifest import load_manifest, verify
from llmc.train.prepare import Recipe, recipe_of
from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import copy_of, empty_workspace, ok, trained

FLAGS = ["--tokenizer", "byte", "--model", "random:tiny.toml"]
DATA, MODEL = "data/texts/train.bin", "models/tiny-texts.bin"


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


def written(llmc: Llmc) -> dict[str, int]:
    """Return when each of the two large outputs was written."""
    return {name: (llmc.workspace / name).stat().st_mtime_ns for name in (DATA, MODEL)}


def test_the_whole_line_as_a_newcomer_types_it(tmp_path: Path, cache: Path) -> None:
    llmc = empty_workspace(tmp_path / "workspace", cache)
    said = ok(llmc("prepare", "texts", *FLAGS)).stderr
    assert "ready to train\nnext: llmc train --config tiny.toml\n" in said
    done = ok(llmc("train", "--steps", "30", "--lr", "0.01"))
    losses = [float(line.split()[4]) for line in done.stdout.splitlines() if line[:5] == "step "]
    assert losses[0] == pytest.approx(5.57, abs=0.05)
    assert losses[-1] < losses[0] - 1
    text = llmc.raw("sample", "--decode", "--tokens", "80").stdout
    assert len(text) >= 80
    assert llmc.raw("decode", stdin=llmc.raw("sample", "--tokens", "80").stdout).stdout == text
    assert sorted(path.name for path in llmc.workspace.iterdir()) == [
        "data", "models", "runs", "texts", "tiny.toml",
    ]  # fmt: skip


def test_what_is_there_and_whole_is_skipped(template: Llmc) -> None:
    before = written(template)
    done = ok(template("prepare", "texts", *FLAGS))
    assert written(template) == before
    assert "data/texts is tokenized and whole\n" in done.stderr
    assert "models/tiny-texts.bin is exported and whole\n" in done.stderr


@pytest.mark.parametrize("name", [DATA, "data/texts/val.bin", MODEL])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_what_is_damaged_is_made_again(template: Llmc, name: str, damage: str) -> None:
    path = template.workspace / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    before = (template.workspace / (DATA if name == MODEL else MODEL)).stat().st_mtime_ns
    ok(template("prepare", "texts", *FLAGS, "--quiet"))
    assert path.read_bytes() == whole
    # Only the stage that was damaged ran again.
    assert (template.workspace / (DATA if name == MODEL else MODEL)).stat().st_mtime_ns == before


def test_a_text_that_changed_is_tokenized_again(llmc: Llmc) -> None:
    (llmc.workspace / "texts" / "00.txt").write_text("new words")
    before = (llmc.workspace / DATA).read_bytes()
    refused = assert_one_sentence(llmc("prepare", "texts", *FLAGS), 2)
    assert "data/texts" in refused
    assert "--force" in refused
    assert "--out" in refused
    assert (llmc.workspace / DATA).read_bytes() == before
    ok(llmc("prepare", "texts", *FLAGS, "--out", "data/changed"))
    ok(llmc("prepare", "texts", *FLAGS, "--force"))
    manifest = load_manifest(llmc.workspace / "data" / "texts")
    verify(manifest)
    assert manifest.text_bytes == sum(
        path.stat().st_size for path in (llmc.workspace / "texts").iterdir()
    )


def test_another_tokenizer_makes_another_model(llmc: Llmc) -> None:
    flags = ["--tokenizer", "bpe:280", "--model", "random:tiny.toml"]
    assert "another tokenizer (byte)" in assert_one_sentence(llmc("prepare", "texts", *flags), 2)
    ok(llmc("prepare", "texts", *flags, "--force"))
    header = read_header(llmc.workspace / MODEL)
    manifest = load_manifest(llmc.workspace / "data" / "texts")
    assert header.config == ModelConfig(1, 2, 16, 64, 280)
    assert header.tokenizer is not None
    assert header.tokenizer.hex() == manifest.tokenizer.fingerprint
    assert len(trained(llmc)) == 4


def test_a_preset_that_changed_makes_another_model(llmc: Llmc) -> None:
    preset = llmc.workspace / "tiny.toml"
    preset.write_text(preset.read_text().replace("layers = 1", "layers = 2"))
    ok(llmc("prepare", "texts", *FLAGS))
    assert read_header(llmc.workspace / MODEL).config.layers == 2


def test_a_model_of_one_s_own(llmc: Llmc) -> None:
    trained(llmc, run="mine")
    done = ok(llmc("prepare", "texts", "--tokenizer", "byte", "--model", "runs/mine/model.bin"))
    assert "next: llmc train --for 10m\n" in done.stderr  # it has been trained: finetune it
    again = ok(llmc("prepare", "texts", *FLAGS)).stderr
    assert "next: llmc train --config tiny.toml\n" in again
    ok(llmc("prepare", "texts", "--tokenizer", "byte", "--model", "runs/mine/model.bin"))
    assert "model: runs/mine/model.bin\n" in ok(llmc("train", "--steps", "1")).stderr


def test_json_is_one_object(tmp_path: Path, cache: Path) -> None:
    llmc = empty_workspace(tmp_path / "workspace", cache)
    first = json.loads(ok(llmc("prepare", "texts", *FLAGS, "--json")).stdout)
    again = ok(llmc("prepare", "texts", *FLAGS, "--json", "--quiet"))
    assert json.loads(again.stdout) == first
    assert again.stderr == ""
    manifest = load_manifest(llmc.workspace / "data" / "texts")
    assert (first["dataset"], first["tokenizer"]) == ("texts", "byte")
    assert (first["folder"], first["model"]) == ("data/texts", MODEL)
    assert first["train_tokens"] == manifest.train.tokens
    assert first["val_tokens"] == manifest.val.tokens
    assert Path(first["binary"]).is_file()


def test_a_file_and_a_pattern_are_data_too(llmc: Llmc) -> None:
    ok(llmc("prepare", "texts/00.txt", *FLAGS))
    assert (llmc.workspace / "data" / "00" / "manifest.json").is_file()
    ok(llmc("prepare", "texts/0*.txt", *FLAGS, "--quiet", "--force"))
    assert "data: data/" in ok(llmc("train", "--config", "tiny.toml")).stderr


def test_the_recipes() -> None:
    assert recipe_of(["tinyshakespeare"]) == recipe_of(["tinystories"]) == Recipe("gpt2", "gpt2")
    stdlib = recipe_of(["stdlib"])
    assert stdlib.tokenizer.startswith("bpe:")
    assert (stdlib.model, stdlib.config) == ("random:python-stdlib", "python-stdlib")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere", *FLAGS], 2, "nowhere"),
        (["texts", "--source", "x", *FLAGS], 2, "--source is a copy of a named dataset"),
        (["texts", "--tokenizer", "byte", "--model", "gpt2"], 2, "choose another --model, such as"),
        (["texts", "--tokenizer", "byte", "--model", "gpt3"], 2, "no weights 'gpt3'"),
        (["texts", "--tokenizer", "byte", "--model", "random:nope"], 2, "no preset 'nope'"),
        (
            ["texts", "--tokenizer", "byte", "--model", "tiny.bin"],
            3,
            "no model tiny.bin: run 'llmc export-weights",
        ),
        (["texts", "--tokenizer", "bpe:270", "--model", MODEL, "--force"], 1, "made for another"),
        (["tinyshakespeare", *FLAGS], 1, "tinyshakespeare"),
        ([], 2, "NAME|PATH"),
    ],
)
def test_what_cannot_be_prepared_is_refused(
    llmc: Llmc, words: list[str], code: int, said: str
) -> None:
    assert said in assert_one_sentence(llmc("prepare", "--quiet", *words), code)


def test_tinyshakespeare_from_a_local_copy(llmc: Llmc, tinyshakespeare: Path, gpt2: object) -> None:
    assert gpt2 is not None
    flags = ["--source", str(tinyshakespeare), "--model", "random:tiny.toml", "--json"]
    result = json.loads(ok(llmc("prepare", "tinyshakespeare", *flags)).stdout)
    assert (result["train_tokens"], result["val_tokens"]) == (305_260, 32_768)
    assert len(trained(llmc, "--steps", "2")) == 2


def test_a_dataset_s_own_folder_is_the_dataset(llmc: Llmc) -> None:
    before = written(llmc)
    (llmc.workspace / MODEL).unlink()
    said = ok(llmc("prepare", "data/texts", "--model", "random:tiny.toml")).stderr
    assert "data/texts is tokenized and whole, with the tokenizer byte\n" in said
    assert (llmc.workspace / DATA).stat().st_mtime_ns == before[DATA]
    assert (llmc.workspace / MODEL).is_file()
    # The model that it was prepared with is the default.
    assert f"model: {MODEL}" in ok(llmc("prepare", "data/texts/")).stderr
    assert sorted(path.name for path in (llmc.workspace / "data").iterdir()) == ["texts"]
    for flags, words in (
        (["--tokenizer", "bpe:300"], "leave out --tokenizer"),
        (["--field", "text"], "leave out the options for text"),
        (["--source", "x"], "--source"),
    ):
        assert words in assert_one_sentence(llmc("prepare", "data/texts", *flags), 2)
    refused = assert_one_sentence(llmc("tokenize", "data/texts", "--tokenizer", "byte"), 2)
    assert "holds a dataset that llmc made, not text" in refused
    assert written(llmc)[DATA] == before[DATA]


def test_a_dataset_among_text_is_not_text(llmc: Llmc) -> None:
    (llmc.workspace / "data" / "note.txt").write_text("a note " * 20)
    done = ok(llmc("tokenize", "data", "--tokenizer", "byte", "--out", "made", "--json"))
    assert json.loads(done.stdout)["text_bytes"] == 140
    assert "data/texts is a dataset that llmc made" in done.stderr
    flags = ["--tokenizer", "byte", "--out", "made2", "--json"]
    done = ok(llmc("tokenize", "data/**/*", *flags))
    assert json.loads(done.stdout)["text_bytes"] == 140


def test_text_beside_its_own_dataset_stays_text(llmc: Llmc) -> None:
    folder = llmc.workspace / "data" / "mine"
    folder.mkdir()
    (folder / "a.txt").write_text("some words " * 20)
    ok(llmc("prepare", "data/mine", *FLAGS))
    assert "data/mine is tokenized and whole" in ok(llmc("prepare", "data/mine", *FLAGS)).stderr
    (folder / "b.txt").write_text("more words " * 20)
    assert "--force" in assert_one_sentence(llmc("prepare", "data/mine", *FLAGS), 2)
    ok(llmc("prepare", "data/mine", *FLAGS, "--force"))
    assert load_manifest(folder).text_bytes == 440


def test_prepare_takes_the_options_of_tokenize(llmc: Llmc) -> None:
    lines = "".join(json.dumps({"story": {"en": f"story {n}"}, "n": n}) + "\n" for n in range(60))
    (llmc.workspace / "x.jsonl").write_text(lines)
    flags = ["--field", "story.en", "--val-fraction", "0.3", "--out", "elsewhere"]
    said = ok(llmc("prepare", "x.jsonl", *FLAGS, *flags)).stderr
    made = load_manifest(llmc.workspace / "elsewhere")
    assert made.text_bytes == sum(len(f"story {n}") for n in range(60))
    assert "next: llmc train --config tiny.toml --data elsewhere\n" in said
    ok(llmc("train", "--data", "elsewhere", "--config", "tiny.toml", "--steps", "1", "--quiet"))
    refused = assert_one_sentence(llmc("prepare", "x.jsonl", *FLAGS, "--shard", "1/2"), 2)
    assert "llmc tokenize" in refused


def test_a_copied_workspace_has_the_same_text(llmc: Llmc) -> None:
    assert "is tokenized and whole" in ok(llmc("prepare", "texts", *FLAGS)).stderr


def test_a_preset_s_tokenizer_is_as_large_as_a_small_text_yields(
    tmp_path: Path, cache: Path
) -> None:
    """Nobody named its size: the text is prepared, and found again."""
    llmc = empty_workspace(tmp_path / "workspace", cache)
    (llmc.workspace / "note.txt").write_text("A sentence is a text too.\n")
    words = ("prepare", "note.txt", "--model", "random:stories-1m")
    assert "the text yields only" in ok(llmc(*words)).stderr
    made = load_manifest(llmc.workspace / "data" / "note").tokenizer
    assert made.asked == 1024 and made.vocab_size < 300
    assert read_header(llmc.workspace / "models/stories-1m-note.bin").config.vocab_size < 300
    assert "data/note is tokenized and whole" in ok(llmc(*words)).stderr
    named = llmc("prepare", "note.txt", "--tokenizer", "bpe:1024", "--out", "data/named")
    assert "choose a smaller one" in assert_one_sentence(named, 1)
