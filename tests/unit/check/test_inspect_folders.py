"""inspect on tokenizers, datasets, runs, workspaces and folders."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmc.check.debug_state import read_debug_state
from llmc.check.inspect.describe import describe
from llmc.check.inspect.tokens import describe_dataset
from llmc.cli.views.inspection import plain_lines
from llmc.errors import BadData
from llmc.model import ModelConfig
from llmc.paths import CHECKPOINT
from llmc.tokens.bpe import train_bpe
from llmc.tokens.files import read_tokens
from llmc.tokens.recorded import record_tokenizer, save_tokenizer
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.tokenizer_bin import read_tokenizer_bin
from llmc.weights.checkpoint import read_header, write_checkpoint
from llmc.weights.gguf import GgufModel
from llmc.weights.huggingface import HuggingFaceModel
from llmc.weights.sources import open_weights
from llmc.weights.state import read_training_state
from tests.conftest import Llmc
from tests.helpers.foreign_files import write_tokenizer_bin
from tests.helpers.inspecting import TINY, as_told, asked, documents, looked_at, told_problem
from tests.helpers.models import save_tokens, some_tensors
from tests.helpers.workspace import copy_of


def test_tokenizers(tmp_path: Path, byte: Tokenizer) -> None:
    trained_here = train_bpe(["many words and many more words"], 262)
    for tokenizer in (byte, trained_here):
        path = write_tokenizer_bin(tmp_path / "b", tokenizer)
        told = looked_at(path)
        assert (told["vocab_size"], told["eot"]) == (tokenizer.vocab_size, tokenizer.eot)
        assert told["problems"] == []
        save_tokenizer(tokenizer, tmp_path / "t")
        told = looked_at(tmp_path / "t")
        assert (told["fingerprint"], told["ok"]) == (tokenizer.fingerprint, True)
    assert looked_at(write_tokenizer_bin(tmp_path / "b", byte))["same_as"] == "byte"
    data = (tmp_path / "b").read_bytes()
    for broken, sentence in {
        data[:-1]: "257 tokens, and it ends in token 256",
        data + b"\1x": "2 bytes follow",
        data[:8] + struct.pack("<I", 2**31) + data[12:]: "more than any tokenizer has",
        data[:1024] + b"\0" + data[1025:]: "token 0 is empty",
        data[:12] + struct.pack("<I", 999) + data[16:]: "outside its 257 tokens",
    }.items():
        (tmp_path / "b").write_bytes(broken)
        assert sentence in looked_at(tmp_path / "b")["problems"][0]


def test_gpt2_s_tokenizer_is_recognised(tmp_path: Path, gpt2: Tokenizer) -> None:
    assert looked_at(write_tokenizer_bin(tmp_path / "b", gpt2))["same_as"] == "gpt2"


# Folders


def test_a_dataset(line: Llmc) -> None:
    told = looked_at(line.workspace / "data" / "texts")
    manifest = json.loads((line.workspace / "data" / "texts" / "manifest.json").read_text())
    assert (told["kind"], told["problems"], told["tokenizer"]) == ("dataset", [], "byte")
    for split in told["parts"]:
        assert split["tokens"] == manifest[split["split"]][0]["tokens"]
        assert split["checksum"] == "verified"
    assert sum(split["documents"] for split in told["parts"]) == 12


def test_what_is_wrong_with_a_dataset(line: Llmc, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    shutil.copytree(line.workspace / "data" / "texts", folder)
    ids = read_tokens(folder / "train.bin").copy()
    ids[5] += 1 if ids[5] == 65 else 0
    ids[5] = 65 if ids[5] != 65 else 66
    save_tokens(folder / "train.bin", ids, 257)
    assert "the checksum of" in told_problem(folder)
    assert "is not the one in its manifest" in told_problem(folder / "train.bin")
    (folder / "train.bin").unlink()
    assert "train.bin is gone" in told_problem(folder)
    (folder / "manifest.json").write_text('{"format": 1')
    assert "cannot read manifest.json" in told_problem(folder)
    (folder / "manifest.json").write_text("[" * 100_000)
    assert "cannot read manifest.json" in told_problem(folder)


def test_a_split_of_several_files(tmp_path: Path, byte: Tokenizer) -> None:
    from llmc.tokens.files import payload_sha256

    shards = []
    for number, text in enumerate(("ab", "cde", "f")):
        path = save_tokens(
            tmp_path / f"train_{number:06}.bin", np.array(documents(byte, text)), 257
        )
        count = len(text) + 1
        shards.append({"file": path.name, "tokens": count, "sha256": payload_sha256(path)})
    record = {"name": "byte", "fingerprint": byte.fingerprint, "file": None}
    manifest = {"dataset": "d", "tokenizer": record, "train": shards, "val": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (train,) = describe_dataset(tmp_path, asked(tmp_path)).parts
    told = as_told(train)
    assert (told["tokens"], told["documents"], told["files"]) == (9, 3, 3)
    assert [row["checksum"] for row in told["shards"]] == ["verified"] * 3


def test_a_run(line: Llmc, tmp_path: Path) -> None:
    told = looked_at(line.workspace / "runs" / "run")
    assert (told["kind"], told["problems"], told["steps"]) == ("run", [], 4)
    (checkpoint,) = told["parts"]
    assert (checkpoint["step"], checkpoint["checksum"]) == (4, "verified")
    assert told["val_loss"]["last"] == pytest.approx(checkpoint["val_loss"], rel=1e-6)
    folder = tmp_path / "run"
    shutil.copytree(line.workspace / "runs" / "run", folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "tra')
    assert (looked_at(folder)["cut"], looked_at(folder)["problems"]) == (True, [])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n")
    assert "line 9 of metrics.jsonl is not a measurement" in told_problem(folder)
    (folder / "config.toml").write_text("[model]\nlayers = 7\n")
    assert "another shape than config.toml" in told_problem(folder)
    (folder / "model.bin").write_bytes(b"x" * 2000)
    assert "is not a model checkpoint" in told_problem(folder)


def test_the_checkpoint_of_a_run_finds_the_run_s_tokenizer(tmp_path: Path) -> None:
    """Also from another workspace: the run's record lies beside the checkpoint."""
    tokenizer = train_bpe(["many words and many more words"], 262)
    folder = tmp_path / "elsewhere" / "run"
    folder.mkdir(parents=True)
    config = ModelConfig(layers=1, heads=1, channels=32, context=4, vocab_size=262)
    fingerprint = bytes.fromhex(tokenizer.fingerprint)
    tensors = some_tensors(config).items()
    write_checkpoint(folder / CHECKPOINT, config, tensors, tokenizer=fingerprint)
    record_tokenizer(tokenizer, folder)
    for path in (folder, folder / CHECKPOINT):
        made = describe(path, asked(tmp_path / "workspace"))
        assert made.all_problems() == []
        assert "not found" not in "\n".join(plain_lines(made))
    assert made.known("tokenizer_found") == "bpe"


def test_finished_steps_are_counted_as_runs_counts_them(line: Llmc) -> None:
    run = looked_at(line.workspace / "runs" / "run")
    (row,) = looked_at(line.workspace)["runs"]
    (listed,) = json.loads(line("runs", "--json").stdout)["runs"]
    assert run["steps"] == row["step"] == listed["steps"] == 4


STAND_INS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
}

READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": read_header,
    "gguf": GgufModel,
    "safetensors": lambda path: HuggingFaceModel(path.rename(path.with_suffix(".safetensors"))),
    "any weights": open_weights,
    "training state": read_training_state,
    "debug state": lambda path: read_debug_state(path, TINY),
    "tokens": read_tokens,
    "tokenizer.bin": read_tokenizer_bin,
}


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_knows_what_stands_in_for_a_file(
    kind: str, reader: str, tmp_path: Path
) -> None:
    data, sentence = STAND_INS[kind]
    path = tmp_path / "file"
    path.write_bytes(data)
    assert sentence in looked_at(path)["problems"][0]
    with pytest.raises(BadData, match=sentence) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)


def test_a_workspace(line: Llmc, tmp_path: Path) -> None:
    told = looked_at(line.workspace)
    assert (told["kind"], told["problems"]) == ("workspace", [])
    assert [row["dataset"] for row in told["datasets"]] == ["texts"]
    assert [row["run"] for row in told["runs"]] == ["run"]
    assert told["models"][0]["dtype"] == "fp32"
    copied = copy_of(line, tmp_path / "copy")
    model = next((copied.workspace / "models").iterdir())
    model.write_bytes(model.read_bytes()[:-1])
    assert "cut short" in told_problem(copied.workspace)


def test_a_folder_of_files(tmp_path: Path, byte: Tokenizer) -> None:
    save_tokens(tmp_path / "t", np.array([1]), 9)
    (tmp_path / "x.txt").write_text("words")
    kinds = {row["name"]: row["kind"] for row in looked_at(tmp_path)["files"]}
    assert kinds == {"t": "tokens", "x.txt": "text"}
