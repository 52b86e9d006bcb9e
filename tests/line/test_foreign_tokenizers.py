"""Models of other programs keep their tokenizer through every stage, or refuse other tokens."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from llmc.config import TrainConfig
from llmc.engine.machine import Threads
from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.tokens.files import read_tokens
from llmc.tokens.manifest import load_manifest
from llmc.train.engine_run import engine_arguments
from llmc.train.start import find_data
from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc
from tests.helpers.foreign_files import write_huggingface
from tests.helpers.workspace import ok

TEXT = "\n".join(f"Line {n} of a text about small models, counted: {n * n}." for n in range(300))
ROWS = 320  # of the model; the tokenizer has 300 tokens


def library(first: list[str]) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=first, initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    return made


@pytest.fixture
def here(llmc: Llmc, monkeypatch: pytest.MonkeyPatch) -> Llmc:
    """Return an empty workspace, which is the working folder and has a text."""
    llmc.workspace.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(llmc.workspace)
    Path("text.txt").write_text(TEXT)
    return llmc


def foreign(name: str, made: tokenizers.Tokenizer, rows: int = ROWS) -> Path:
    folder = Path(name)
    write_huggingface(folder, ModelConfig(1, 1, 64, 32, rows))
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_a_model_s_tokenizer_is_used_from_prepare_to_sample(here: Llmc) -> None:
    made = library(["<|endoftext|>"])
    foreign("mine", made)
    ok(here("prepare", "text.txt", "--model", "mine"))
    manifest = load_manifest(Path("data/text"))
    assert (manifest.tokenizer.name, manifest.tokenizer.eot) == ("huggingface", 0)
    assert read_header(Path("models/mine.bin")).tokenizer == bytes.fromhex(
        manifest.tokenizer.fingerprint
    )
    ok(here("train", "--run", "a", "--steps", "2", "--batch-size", "1", "--seq-len", "16"))
    for seed in ("1", "2", "3"):
        args = ("--prompt", "Line 7", "--tokens", "60", "--seed", seed, "--json")
        ids = json.loads(ok(here("sample", "--run", "a", *args)).stdout)["ids"]
        wanted = made.encode("Line 7").ids
        assert ids[: len(wanted)] == wanted
        assert max(ids) < 300
    assert json.loads(ok(here("eval", "a", "--json")).stdout)["loss"] > 0


@pytest.mark.parametrize("later", [[], ["[PAD]"], ["[PAD]", "<|endoftext|>"]])
@pytest.mark.parametrize("first", [[], ["<|endoftext|>"], ["<s>", "<pad>", "</s>"]])
@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_it_goes_out_and_comes_back_the_same(
    here: Llmc, to: str, first: list[str], later: list[str]
) -> None:
    made = library(first)
    made.add_special_tokens(later)
    foreign("mine", made)
    first = json.loads(ok(here("export-weights", "mine", "--json")).stdout)["tokenizer"]
    place = json.loads(ok(here("export-weights", "mine", "--to", to, "--json")).stdout)["model"]
    again = json.loads(ok(here("export-weights", place, "--out", "b.bin", "--json")).stdout)
    assert again["tokenizer"] == first
    if to == "hf":
        theirs = tokenizers.Tokenizer.from_file(f"{place}/tokenizer.json")
        assert theirs.encode(TEXT).ids == made.encode(TEXT).ids


def test_what_cannot_be_held_refuses_data_of_other_tokenizers(here: Llmc) -> None:
    made = library(["<|endoftext|>"])
    made.normalizer = normalizers.Lowercase()
    foreign("mine", made)
    done = ok(here("export-weights", "mine"))
    assert "normalizer Lowercase" in done.stderr
    assert read_header(Path("models/mine.bin")).tokenizer is not None
    ok(here("tokenize", "text.txt", "--tokenizer", "byte"))
    refused = here("train", "--model", "models/mine.bin", "--steps", "1")
    assert refused.returncode == 1
    assert "another tokenizer" in refused.stderr
    prepared = here("prepare", "text.txt", "--model", "mine")
    assert prepared.returncode == 1
    assert "Lowercase" in prepared.stderr


def test_a_model_without_known_tokenizer_asks_for_one(here: Llmc) -> None:
    write_huggingface(Path("mine"), ModelConfig(1, 1, 64, 32, 300))
    done = here("prepare", "text.txt", "--model", "mine")
    assert done.returncode == 1
    assert "--tokenizer" in done.stderr
    ok(here("prepare", "text.txt", "--model", "mine", "--tokenizer", "byte"))


def test_a_run_s_own_samples_hold_no_id_without_a_token(here: Llmc) -> None:
    foreign("mine", library(["<|endoftext|>"]))
    ok(here("prepare", "text.txt", "--model", "mine"))
    data = find_data(Workspace(Path()), Path("data/text"), None)
    flags = engine_arguments(
        data, Path("models/mine.bin"), Path("out"), TrainConfig(), Threads(1), rows=ROWS
    )
    given = dict(pairwise(flags))
    assert (given["--eot"], given["--unused-ids"]) == ("0", "300-319")
    ok(here("train", "--steps", "2", "--sample-every", "1", "--batch-size", "1", "--seq-len", "8"))


def test_a_loss_counts_rows_without_tokens_as_pytorch_does(here: Llmc) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    foreign("mine", library(["<|endoftext|>"]))
    ok(here("prepare", "text.txt", "--model", "mine"))
    loss = json.loads(ok(here("eval", "models/mine.bin", "--json")).stdout)["loss"]
    theirs = transformers.GPT2LMHeadModel.from_pretrained("mine").eval()
    ids = torch.from_numpy(read_tokens(Path("data/text/val.bin")).astype(int))
    total = 0.0
    with torch.no_grad():
        for at in range(0, len(ids) - 1, 32):
            window, wanted = ids[at : at + 32][: len(ids) - 1 - at], ids[at + 1 : at + 33]
            logits = theirs(window[None]).logits[0]
            assert logits.shape[1] == ROWS
            total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
    assert loss == pytest.approx(total / (len(ids) - 1), rel=1e-4)
