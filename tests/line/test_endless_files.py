"""JSON and TOML nested too deep, or with endless numbers, are bad data in every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Llmc
from tests.helpers.workspace import copy_of

DEEP, LONG = "[" * 200_000, "9" * 4301
# A file -> the commands that need it.
JSON = {
    "data/texts/manifest.json": [
        "train",
        "prepare data/texts",
        "inspect data/texts",
    ],
    "data/texts/prepared.json": ["train --config tiny.toml --dry-run"],
    "runs/first/run.json": ["train --resume", "inspect runs/first"],
    "runs/first/tokenizer.json": ["sample --decode --tokens 2", "decode --tokenizer runs/first 1"],
    "runs/first/metrics.jsonl": ["plot first", "inspect runs/first"],
    "hf/config.json": ["inspect hf"],
    "hf/model.safetensors.index.json": ["export-weights hf --out x.bin", "inspect hf"],
    "hf/tokenizer.json": ["tokenize texts --tokenizer hf/tokenizer.json --out o"],
    "pair/vocab.json": ["tokenize texts --tokenizer pair --out o"],
    "a.jsonl": ["tokenize a.jsonl --tokenizer byte --out o"],
    "a.json": ["tokenize a.json --tokenizer byte --out o"],
    "a.ipynb": ["tokenize a.ipynb --tokenizer byte --out o"],
    "hellaswag.jsonl": ["eval first --task hellaswag --data hellaswag.jsonl"],
}
TOML = {
    "tiny.toml": [
        "train --config tiny.toml --dry-run",
        "export-weights random:tiny.toml --out x.bin",
    ],
    "old/config.toml": ["inspect old"],
}
CASES = [
    *((name, text, words) for name in JSON for words in JSON[name] for text in (DEEP, LONG)),
    *(
        (name, f"[train]\nsteps = {text}", words)
        for name, each in TOML.items()
        for words in each
        for text in (DEEP, LONG, "0x" + "f" * 5000)
    ),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, learnt: Llmc) -> Llmc:
    llmc = copy_of(learnt, tmp_path_factory.mktemp("endless") / "ws")
    (llmc.workspace / "pair").mkdir()
    (llmc.workspace / "pair" / "merges.txt").write_text("#version: 0.2\n")
    (llmc.workspace / "hf").mkdir()
    (llmc.workspace / "old").mkdir()
    (llmc.workspace / "old" / "metrics.jsonl").write_text(json.dumps({"step": 0, "val_loss": 1.0}))
    return llmc


@pytest.mark.parametrize(("name", "text", "words"), CASES, ids=range(len(CASES)))
def test_it_is_one_sentence_that_names_the_file(
    name: str, text: str, words: str, workspace: Llmc
) -> None:
    path = workspace.workspace / name
    before = path.read_bytes() if path.exists() else None
    path.write_text(f"{text}\n")
    try:
        done = workspace(*words.split())
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert Path(name).name in done.stderr
    assert len(error) < 1000
