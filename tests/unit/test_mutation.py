"""Damaged files of every format are refused in one sentence, in bounded memory and time."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.tokens.bpe import train_bpe
from llmc.tokens.dataset import tokenize
from llmc.tokens.files import write_tokens
from llmc.tokens.held import character_tokenizer
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.prepared import record_prepared
from llmc.tokens.recorded import save_tokenizer
from llmc.weights.state import FIELDS, HEADER_BYTES, MAGIC, VERSION
from tests.helpers.archives import member, tarred, zipped, zstd
from tests.helpers.foreign_files import write_gguf, write_huggingface, write_tokenizer_bin
from tests.helpers.models import save_model, save_tokens
from tests.helpers.mutation import readers
from tests.helpers.past_runs import a_past_run
from tests.helpers.places import ROOT
from tests.helpers.texts import parquet_of

TINY = ModelConfig(layers=1, heads=1, channels=32, context=4, vocab_size=20)
RECORDS = [{"text": f"document {number}, not long", "id": number} for number in range(6)]
PROSE = "A line of a text that is long enough to be one. größer\n" * 20


def weights(folder: Path) -> None:
    save_model(folder / "model.bin", TINY)
    hugging = write_huggingface(folder / "hf", TINY)
    (folder / "one").mkdir()
    shutil.copy(hugging / "model.safetensors", folder / "one" / "model.safetensors")
    shutil.copy(hugging / "config.json", folder / "one" / "config.json")
    write_huggingface(folder / "parts", TINY, shards=2)
    write_gguf(folder / "model.gguf", TINY, quantize="fcw")
    if importlib.util.find_spec("torch"):
        torch_files(folder)
    state = FIELDS.pack(MAGIC, VERSION, 0, 0, *[1] * 6, 2.0, 1.0, 2.0, 0, 0, 0, 0, 0, 0, 0, 0)
    (folder / "state.bin").write_bytes(state.ljust(HEADER_BYTES, b"\0") + bytes(2048 + 800))


def tokenizers(folder: Path) -> None:
    bpe = train_bpe(["she sells sea shells " * 20], 262)
    save_tokenizer(bpe, folder / "plain.tiktoken")
    write_tokenizer_bin(folder / "tokenizer.bin", bpe)
    save_tokenizer(character_tokenizer({"a": 0, "b": 1, "\n": 2}), folder / "held.json")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"stoi": {"a": 0, "b": 1}, "vocab_size": 2}))
    from llmc.tokens.byte_level import Vocabulary, merges_of
    from llmc.tokens.tokenizer_json import write_tokenizer_json

    tokens = bpe.tokens()
    words = Vocabulary((*tokens, b"<|endoftext|>"), (len(tokens),), merges_of(tokens))
    for name in ("whole", "pair"):
        (folder / name).mkdir()
        write_tokenizer_json(folder / name, words, 16)
    for name in ("vocab.json", "merges.txt"):
        (folder / "whole" / name).unlink()
    (folder / "pair" / "tokenizer.json").unlink()


def datasets(folder: Path) -> None:
    (folder / "a.txt").write_text(PROSE)
    options = TokenizeOptions(tokenizer="bpe:262", out=folder / "data", val_tokens=20)
    made = tokenize(Workspace(folder), [str(folder / "a.txt")], options)
    record_prepared(Workspace(folder), made.folder, folder / "a.txt")
    save_tokens(folder / "tokens.bin", np.arange(40), 300)
    mask = np.resize(np.array([7, 0, 1], "u1"), 40)
    write_tokens(folder / "masked.bin", [(np.arange(40), mask)], 300, masked=True)
    a_past_run(folder / "runs", "r", steps=6)
    (folder / "hellaswag.jsonl").write_text(
        "\n".join(json.dumps({"ctx": "he", "endings": [*"abcd"], "label": 1}) for _ in range(3))
    )
    git = folder / "repository" / ".git"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{'0f' * 20} refs/heads/main\n")


def texts(folder: Path) -> None:
    import bz2
    import gzip
    import lzma

    lines = "\n".join(map(json.dumps, RECORDS)).encode()
    table = "id,text\n" + "".join(f'{number},"text, {number}"\n' for number in range(5))
    cell = {"cell_type": "markdown", "source": ["a\n", "b"]}
    tar = tarred(member("a.txt", PROSE.encode()), member("b.jsonl", lines))
    chapter = b"<html><body><p>A chapter</p></body></html>"
    container = b'<container><rootfile full-path="p.opf"/></container>'
    package = b'<package><item id="c" href="c.html"/><itemref idref="c"/></package>'
    book = {"META-INF/container.xml": container, "p.opf": package, "c.html": chapter}
    files: dict[str, bytes] = {
        "jsonl": lines,
        "json": json.dumps(RECORDS).encode(),
        "csv": table.encode(),
        "tsv": table.replace(",", "\t").encode(),
        "html": chapter * 3,
        "ipynb": json.dumps({"cells": [cell, cell]}).encode(),
        "epub": zipped(book),
        "zip": zipped({"a.txt": PROSE.encode(), "b.jsonl": lines}),
        "tar": tar,
        "tar.gz": gzip.compress(tar),
        "tar.zst": zstd(tar),
        "tar.xz": lzma.compress(tar),
        "tar.bz2": bz2.compress(tar),
        "txt.gz": gzip.compress(PROSE.encode()),
        "txt.zst": zstd(PROSE.encode()),
        "txt.xz": lzma.compress(PROSE.encode()),
        "txt.bz2": bz2.compress(PROSE.encode()),
        "jsonl.gz": gzip.compress(lines),
    }
    if importlib.util.find_spec("pyarrow"):
        import pyarrow as pa

        files["parquet"] = parquet_of([record["text"] for record in RECORDS])  # type: ignore[misc]
        with pa.OSFile(str(folder / "text.arrow"), "wb") as sink:
            rows = pa.table({"text": ["a text", "another"]})
            with pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)
    if importlib.util.find_spec("docx"):
        import docx

        document = docx.Document()
        document.add_paragraph("A paragraph")
        document.save(str(folder / "text.docx"))
    for form, data in files.items():
        (folder / f"text.{form}").write_bytes(data)


def torch_files(folder: Path) -> None:
    import torch

    from tests.unit.weights.test_torch import ARGS, linear

    torch.save(linear(), folder / "model.pt")
    torch.save({"model": linear(""), "model_args": ARGS, "iter_num": 7}, folder / "ckpt.pt")
    torch.save(linear(), folder / "legacy.pt", _use_new_zipfile_serialization=False)


MAKERS: dict[str, Callable[[Path], None]] = {
    "weights": weights,
    "tokenizers": tokenizers,
    "datasets": datasets,
    "texts": texts,
}
FEW, MANY = 2, 1500


def attack(folder: Path, count: int) -> set[str]:
    """Mutate the files in a folder in a process of their own; return the names of those read."""
    words = [sys.executable, "-m", "tests.helpers.mutation", str(folder), str(count)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    return {Path(line).name for line in done.stdout.splitlines()}


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory")
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", MAKERS)
def test_damaged_files_are_refused(name: str, count: int, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    found = attack(tmp_path, count)
    assert found >= {path.name for path in tmp_path.iterdir() if path.name in readers()} != set()
