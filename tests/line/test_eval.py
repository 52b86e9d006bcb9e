"""``llmc eval``: which data it takes, what it reports, and how it fails."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.errors import Usage
from llmc.evaluate.loss import evaluate
from llmc.evaluate.rows import EngineOptions
from llmc.model import ModelConfig, tensor_shapes
from llmc.paths import Workspace
from llmc.tokens.files import read_tokens
from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.models import random_tokens, save_tokens
from tests.helpers.workspace import copy_of, flip_a_bit, ok, prepared_workspace, trained

FLAGS = ["data", "task", "split", "max-tokens", "max-examples", "seq-len", "batch-size", "dtype"]
FLAGS += ["threads"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    llmc = prepared_workspace(tmp_path_factory.mktemp("eval") / "workspace", cache)
    trained(llmc, run="first")
    bpe = ["texts", "--tokenizer", "bpe:270", "--out", "data/bpe"]
    ok(llmc("tokenize", *bpe))
    (llmc.workspace / "data/texts/manifest.json").touch()  # again the dataset prepared last
    return llmc


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a workspace of its own with a trained model."""
    return copy_of(template, tmp_path / "workspace")


def measured(llmc: Llmc, *args: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(ok(llmc("eval", *args, "--json", "--quiet")).stdout)
    return fields


def test_every_flag_is_in_the_help(template: Llmc) -> None:
    shown = ok(template("eval", "--help")).stdout
    for flag in FLAGS:
        assert re.search(rf"--{flag}\b", shown), flag


def test_the_newest_run_on_its_own_validation_text(template: Llmc) -> None:
    done = ok(template("eval"))
    names = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert names == ["loss", "perplexity", "bits per byte", "predicted", "±"]
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "run: runs/first (the newest)" in done.stderr
    assert "data: data/texts/val.bin" in done.stderr
    assert "next: llmc eval first --split train" in done.stderr
    fields = measured(template)
    tokens = len(read_tokens(template.workspace / "data/texts/val.bin")) - 1
    assert (fields["tokens"], fields["split"], fields["task"]) == (tokens, "val", "loss")
    assert fields["perplexity"] == pytest.approx(math.exp(fields["loss"]))
    low, high = fields["perplexity_interval"]
    assert low < fields["perplexity"] < high
    assert f"{fields['loss']:.4f} ± {fields['loss_error']:.4f} nats per token" in done.stdout
    for name in ("first", "runs/first", "runs/first/model.bin"):
        again = measured(template, name)
        assert again["loss"] == fields["loss"]


def test_int8_is_near_to_fp32(template: Llmc) -> None:
    exact, narrow = measured(template), measured(template, "--dtype", "int8")
    assert (exact["dtype"], narrow["dtype"]) == ("fp32", "int8")
    assert narrow["tokens"] == exact["tokens"]
    assert narrow["loss"] != exact["loss"]
    assert narrow["loss"] == pytest.approx(exact["loss"], rel=0.005)
    error = assert_one_sentence(template("eval", "--dtype", "int8", "--batch-size", "65"), 2)
    assert "at most 64, not 65" in error


def test_threads_change_no_number(template: Llmc) -> None:
    found = [measured(template, "--threads", str(n), "--batch-size", str(n)) for n in (1, 2, 3)]
    for fields in found:
        for name in ("seconds", "tokens_per_second", "threads", "batch_size", "memory_bytes"):
            fields.pop(name)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("dataset", ["texts", "bpe"])
def test_a_model_that_knows_nothing(llmc: Llmc, dataset: str) -> None:
    folder = llmc.workspace / "data" / dataset
    manifest = json.loads((folder / "manifest.json").read_text())
    config = ModelConfig(1, 2, 16, 64, manifest["tokenizer"]["vocab_size"])
    zeros = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(config).items()}
    fingerprint = bytes.fromhex(manifest["tokenizer"]["fingerprint"])
    write_checkpoint(llmc.workspace / "zero.bin", config, zeros.items(), tokenizer=fingerprint)
    sizes = []
    for split in ("train", "val"):
        where = ("--data", f"data/{dataset}", "--split", split)
        fields = measured(llmc, "zero.bin", *where)
        assert fields["loss"] == pytest.approx(math.log(config.vocab_size), abs=1e-6)
        assert fields["loss_error"] == pytest.approx(0, abs=1e-9)
        assert fields["perplexity"] == pytest.approx(config.vocab_size)
        bits = fields["tokens"] * math.log2(config.vocab_size) / fields["text_bytes"]
        assert fields["bits_per_byte"] == pytest.approx(bits, rel=1e-6)
        assert fields["tokens"] == manifest[split][0]["tokens"] - 1
        sizes.append(fields["text_bytes"])
    assert sum(sizes) == manifest["text_bytes"]  # both files begin with an end-of-text


def test_the_train_split_and_files_by_name(template: Llmc) -> None:
    train = measured(template, "--split", "train")
    assert train["data"] == ["data/texts/train.bin"]
    by_name = measured(template, "--data", "data/texts/train.bin")
    assert (by_name["loss"], by_name["split"]) == (train["loss"], None)
    first = measured(template, "--split", "train", "--max-tokens", "100", "--seq-len", "10")
    assert (first["tokens"], first["seq_len"], first["units"]) == (100, 10, 10)
    assert first["unit"] == "windows"
    alone = measured(template, "--max-tokens", "5")
    assert alone["loss_error"] is None and alone["perplexity_interval"] is None
    assert "single window" in ok(template("eval", "--max-tokens", "0.005k")).stdout


def test_a_bare_token_file(llmc: Llmc) -> None:
    bare = shutil.copy(llmc.workspace / "data/texts/val.bin", llmc.workspace / "bare.bin")
    done = ok(llmc("eval", "--data", "bare.bin"))
    assert "tokenizer: byte, from the model" in done.stderr
    assert measured(llmc, "--data", "bare.bin")["loss"] == measured(llmc)["loss"]
    header, tensors = read_checkpoint(llmc.workspace / "runs/first/model.bin")
    write_checkpoint(llmc.workspace / "alien.bin", header.config, tensors.items(), tokenizer=None)
    assert "byte, from the data" in ok(llmc("eval", "alien.bin", "--data", "data/texts")).stderr
    fields = measured(llmc, "alien.bin", "--data", Path(bare).name)
    assert fields["bits_per_byte"] is fields["text_bytes"] is None
    assert fields["unit"] == "windows" or fields["unit"] == "blocks of windows"
    assert "bits per byte" not in ok(llmc("eval", "alien.bin", "--data", "bare.bin")).stdout


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["second"], 3, "no run and no checkpoint 'second': train one with 'llmc train'"),
        (["--data", "nowhere"], 3, "make a dataset with"),
        (["--data", "texts"], 3, "no dataset in texts"),
        (["tiny.toml"], 1, "tiny.toml"),
        (["--data", "tiny.toml"], 1, "tiny.toml"),
        (["--data", "data/bpe"], 1, "was made for another tokenizer than data/bpe (bpe)"),
        (["--data", "data/texts/val.bin", "--split", "val"], 2, "leave out --split"),
        (["--data", "questions.jsonl"], 2, "add --task hellaswag"),
        (["--max-examples", "3"], 2, "--max-examples has no meaning for --task loss"),
        (["--split", "test"], 2, "'--split'"),
        (["--seq-len", "65"], 2, "--seq-len 65 is more than the 64 positions of runs/first"),
        (["--seq-len", "0"], 2, "'--seq-len'"),
        (["--max-tokens", "0"], 2, "'--max-tokens'"),
        (["--dtype", "fp16"], 2, "'--dtype'"),
    ],
)
def test_impossible_flags_are_refused(
    template: Llmc, flags: list[str], code: int, said: str
) -> None:
    assert said in assert_one_sentence(template("eval", "--quiet", *flags), code)


def test_what_is_gone_is_named(llmc: Llmc) -> None:
    (llmc.workspace / "data/texts").rename(llmc.workspace / "data/moved")
    assert "is gone: make it again, or name other data" in assert_one_sentence(llmc("eval"), 3)
    assert measured(llmc, "--data", "data/moved")["tokens"] > 0
    shutil.rmtree(llmc.workspace / "runs")
    assert "run 'llmc train' first" in assert_one_sentence(llmc("eval"), 3)


def test_a_run_s_record_names_its_data(llmc: Llmc) -> None:
    (llmc.workspace / "data/texts").rename(llmc.workspace / "data/moved")
    record = llmc.workspace / "runs/first/run.json"
    record.write_text(json.dumps({"data": "data/moved/train.bin", "val_data": None}))
    assert measured(llmc)["data"] == ["data/moved/val.bin"]
    record.write_text(json.dumps({"data": "data/moved/train.bin", "val_data": "mine.bin"}))
    shutil.copy(llmc.workspace / "data/moved/train.bin", llmc.workspace / "mine.bin")
    assert measured(llmc)["data"] == ["mine.bin"]
    record.write_text("{")
    assert "name the data with --data" in assert_one_sentence(llmc("eval"), 1)


def test_a_damaged_dataset_is_refused(llmc: Llmc) -> None:
    flip_a_bit(llmc.workspace / "data/texts/val.bin", -2)
    assert "not the file its manifest describes" in assert_one_sentence(llmc("eval"), 1)


def test_data_that_changed_since_the_run_is_measured_only_where_it_is_named(llmc: Llmc) -> None:
    (llmc.workspace / "other.txt").write_text("Quite another text.\n" * 400)
    ok(llmc("tokenize", "other.txt", "--tokenizer", "byte", "--out", "data/texts", "--force"))
    error = assert_one_sentence(llmc("eval"), 1)
    assert "has changed since runs/first was validated on it" in error
    assert "trained on it" in assert_one_sentence(llmc("eval", "--split", "train"), 1)
    assert measured(llmc, "--data", "data/texts")["tokens"] > 0


def test_ctrl_c_says_how_far_it_came(llmc: Llmc) -> None:
    """Enough tokens for minutes on the plain loops."""
    save_tokens(llmc.workspace / "many.bin", random_tokens(3_000_000, 257), 257)
    with llmc.start(
        "eval",
        "--data",
        "many.bin",
        "--seq-len",
        "8",
        env={"LLMC_ISA": "reference"},
        text=True,
        process_group=0,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("model: "):
                break
        time.sleep(3)  # until the first rows on a busy machine
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert re.search(r"interrupted after [\d,]+ of 2,999,999 tokens; loss so far: [\d.]+ ±", err)
    assert "Traceback" not in err


def test_evaluate_measures_what_the_command_measures(
    template: Llmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(template.cache))
    workspace = Workspace(template.workspace)
    result = evaluate(workspace, "first", max_tokens=500)
    fields = measured(template, "--max-tokens", "500")
    assert result.loss == fields["loss"]
    assert result.score.bits_per_byte is not None
    assert (result.score.bits_per_byte.value, result.split) == (fields["bits_per_byte"], "val")
    assert result.engine.seq_len == fields["seq_len"]
    with pytest.raises(Usage, match="more than the 64 positions"):
        evaluate(workspace, options=EngineOptions(seq_len=65))
