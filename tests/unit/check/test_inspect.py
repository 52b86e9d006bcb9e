"""inspect says what things are, agrees with the libraries of their owners, and survives damage."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from llmc.check.debug_state import read_debug_state
from llmc.check.inspect.describe import describe
from llmc.check.inspect.description import Description, quoted, safe_text
from llmc.check.inspect.reading import Options, kind_of_head
from llmc.check.inspect.statistics import MOST_IDS, Moments, TokenCounts
from llmc.check.inspect.tokens import describe_dataset
from llmc.cli.views.inspection import plain_lines, show
from llmc.errors import BadData, Usage
from llmc.model import ModelConfig
from llmc.paths import CHECKPOINT, Workspace
from llmc.tokens.bpe import train_bpe
from llmc.tokens.files import read_tokens
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer, record_tokenizer, save_tokenizer
from llmc.tokens.tokenizer_bin import read_tokenizer_bin
from llmc.weights.checkpoint import read_checkpoint, read_header, write_checkpoint
from llmc.weights.gguf import GgufModel
from llmc.weights.huggingface import HuggingFaceModel
from llmc.weights.sources import open_weights
from llmc.weights.state import read_training_state
from tests.conftest import Llmc
from tests.helpers.engine import random_tokens, save_model, save_tokens, some_tensors
from tests.helpers.foreign_files import write_gguf, write_huggingface, write_tokenizer_bin
from tests.helpers.workspace import copy_of, prepared_workspace, trained

TINY = ModelConfig(layers=2, heads=2, channels=32, context=16, vocab_size=257)
TEXT = "one two\nthree \x1b[31mred\x1b[0m ünï 日本 \u202e\n"


@pytest.fixture(scope="module")
def byte() -> Tokenizer:
    return load_tokenizer("byte")


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """A workspace with a dataset, a model and a run."""
    llmc = prepared_workspace(tmp_path_factory.mktemp("line"), cache)
    trained(llmc)
    return llmc


def asked(folder: Path, **others: Any) -> Options:
    return Options(Workspace(folder), **others)


def looked_at(path: Path, **others: Any) -> dict[str, Any]:
    """Describe a path and return what JSON says of it; what is shown must be printable."""
    return as_told(describe(path, asked(path.parent, **others)))


def as_told(made: Description) -> dict[str, Any]:
    for text in plain_lines(made):
        assert text.isprintable(), ascii(text)
    told: dict[str, Any] = json.loads(json.dumps(made.as_json(), allow_nan=False))
    assert told["ok"] == (not made.all_problems())
    return told


def documents(byte: Tokenizer, *texts: str) -> list[int]:
    return [token for text in texts for token in [byte.eot, *text.encode()]]


# Token files


def test_a_token_file_in_full(tmp_path: Path, byte: Tokenizer) -> None:
    texts = ["a", "bbb", "", TEXT, "bb"]
    ids = documents(byte, *texts)
    path = save_tokens(tmp_path / "t", np.array(ids), byte.vocab_size)
    told = looked_at(path, tokenizer=byte)
    assert told["problems"] == []
    assert (told["kind"], told["format"], told["tokens"]) == ("tokens", "uint16", len(ids))
    assert told["first_tokens"] == ids[:64]
    assert told["documents"] == len(texts)
    lengths = sorted(len(text.encode()) for text in texts)
    assert told["document_lengths"] == {
        "min": 0,
        "median": float(np.median(lengths)),
        "mean": pytest.approx(np.mean(lengths)),
        "max": lengths[-1],
    }
    assert told["distinct"] == len(set(ids))
    frequent = [(row["id"], row["times"]) for row in told["most_frequent"]]
    assert frequent == sorted(Counter(ids).items(), key=lambda item: (-item[1], item[0]))[:12]
    assert told["most_frequent"][0]["text"] == bytes([frequent[0][0]]).decode()


def test_text_does_nothing_to_a_terminal(tmp_path: Path, byte: Tokenizer) -> None:
    ids = documents(byte, TEXT)
    path = save_tokens(tmp_path / "t", np.array([*ids, 255, 254]), byte.vocab_size)
    lines = "\n".join(plain_lines(describe(path, asked(tmp_path, tokenizer=byte))))
    assert r"one two\nthree \x1b[31mred\x1b[0m ünï 日本 \u202e\n\xff\xfe" in lines
    assert "\x1b" not in lines


@given(st.binary(max_size=300), st.sampled_from([1, 10, 1000]))
def test_bytes_are_shown_in_printable_characters(data: bytes, limit: int) -> None:
    shown = quoted(data, limit)
    assert shown.isprintable()
    if limit == 1000:
        # Nothing is lost: the escapes give the bytes back.
        parts = shown[1:-1].encode("latin-1", "backslashreplace").decode("unicode_escape")
        assert len(parts) >= len(data.decode(errors="replace"))


@settings(max_examples=50)
@given(st.text(max_size=50))
def test_text_is_shown_in_printable_characters(text: str) -> None:
    assert safe_text(text).isprintable()


@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
def test_a_token_file_cut_short_says_by_how_much(tmp_path: Path, cut: int) -> None:
    path = save_tokens(tmp_path / "t", random_tokens(1000, 300), 300)
    path.write_bytes(path.read_bytes()[:-cut])
    told = looked_at(path)
    assert (
        f"it is cut short: its header promises 1,000 tokens in 3,024 bytes, and {cut:,} bytes "
        in (told["problems"][0])
    )
    assert told["tokens"] == 1000
    assert len(told["first_tokens"]) == 64


def test_a_token_file_in_need_of_an_explanation(tmp_path: Path, byte: Tokenizer) -> None:
    path = save_tokens(tmp_path / "t", random_tokens(100, 300), 300)
    data = path.read_bytes()
    wrong = {
        b"".join(
            [data, b"\0"]
        ): "too long: its header promises 100 tokens in 1,224 bytes, and 1 more",
        data[:4] + struct.pack("<I", 9) + data[8:]: "version 9",
        data[:1000]: "1000 bytes of its header's 1024",
    }
    for changed, sentence in wrong.items():
        path.write_bytes(changed)
        assert sentence in looked_at(path)["problems"][0]
    path = save_tokens(tmp_path / "t", np.array([5, 300, 256]), 301)
    (problem,) = looked_at(path, tokenizer=byte)["problems"]
    assert "1 tokens lie outside the vocabulary of the tokenizer byte (257)" in problem


def test_wide_tokens(tmp_path: Path) -> None:
    ids = np.array([0, 70000, 70000, 3])
    told = looked_at(save_tokens(tmp_path / "t", ids, 100_000))
    assert (told["format"], told["largest"], told["distinct"]) == ("uint32", 70000, 3)
    assert told["most_frequent"][0] == {"id": 70000, "times": 2, "share": 0.5}


def test_tokens_beyond_any_vocabulary_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "t"
    np.array([1, -1, 2**31 - 1, 5], "<i4").tofile(path)
    tracemalloc.start()
    told = looked_at(path, dtype="int32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "2 tokens are 16,777,216 or more (or negative)" in told["problems"][0]
    assert peak < 50e6


def test_headerless_tokens(tmp_path: Path, byte: Tokenizer) -> None:
    ids = documents(byte, "abc", "de")
    for dtype, kind in (("uint16", "<u2"), ("int32", "<i4")):
        path = tmp_path / dtype
        np.array(ids, kind).tofile(path)
        told = looked_at(path, dtype=dtype, tokenizer=byte)
        assert (told["tokens"], told["documents"], told["problems"]) == (len(ids), 2, [])
        path.write_bytes(path.read_bytes()[:-1])
        assert "no whole number" in looked_at(path, dtype=dtype)["problems"][0]
    with pytest.raises(Usage, match="has a header of its own"):
        looked_at(save_tokens(tmp_path / "t", np.array([1]), 9), dtype="uint16")


def test_a_large_file_is_sampled_unless_all_is_asked_for(tmp_path: Path, byte: Tokenizer) -> None:
    ids = documents(byte, *["x" * 99] * 2000)
    path = save_tokens(tmp_path / "t", np.array(ids), byte.vocab_size)
    told = looked_at(path, tokenizer=byte, left=1000)
    assert told["sha256"] is None
    assert 0 < told["looked_at"] <= told["tokens"] == len(ids)
    assert set(told["document_lengths"].values()) == {99}
    whole = looked_at(path, tokenizer=byte, full=True, left=0)
    assert whole["documents"] == 2000
    assert "looked_at" not in whole


# Statistics


@given(
    st.lists(st.integers(0, 6), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.sampled_from([np.uint16, np.uint32]),
)
def test_counts_do_not_depend_on_the_pieces(ids: list[int], cuts: list[int], kind: Any) -> None:
    counts = TokenCounts(eot=6)
    array = np.array(ids, kind)
    for part in np.split(array, sorted(min(cut, len(ids)) for cut in cuts)):
        counts.add(part)
    counts.close()
    assert counts.tokens == len(ids)
    assert dict(counts.most_frequent(9)) == dict(Counter(ids))
    segments: list[list[int]] = [[]]
    for token in ids:
        if token == counts.eot:
            segments.append([])
        else:
            segments[-1].append(token)
    if segments and not segments[0]:
        segments = segments[1:]
    if segments and not segments[-1]:
        segments = segments[:-1]
    assert counts.lengths == Counter(map(len, segments))
    assert counts.documents == len(segments)


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=50),
    st.integers(0, 50),
)
def test_moments_are_numpy_s(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)
    found = Moments()
    for part in (array[:cut], array[cut:]):
        found.add(part)
    finite = array[np.isfinite(array)].astype(np.float64)
    assert found.nan == np.isnan(array).sum()
    assert found.infinite == np.isinf(array).sum()
    assert found.count == finite.size
    if finite.size:
        scale = float(np.abs(finite).max()) or 1.0
        assert found.mean == pytest.approx(finite.mean(), abs=1e-9 * scale)
        assert found.std == pytest.approx(finite.std(), abs=1e-6 * scale)
        assert (found.low, found.high) == (finite.min(), finite.max())


def test_a_spread_of_ids_beyond_the_table_is_counted() -> None:
    counts = TokenCounts()
    counts.add(np.array([1, MOST_IDS, 2**32 - 1], np.uint32))
    assert (counts.beyond, counts.distinct, counts.above(1), counts.largest) == (2, 1, 3, 1)


# Checkpoints


def test_a_checkpoint_and_its_tensors(tmp_path: Path) -> None:
    tensors = some_tensors(TINY)
    tensors["fcw"][0, 0, 0] = np.nan
    path = save_model(tmp_path / "m", TINY, tensors)
    told = looked_at(path, tensors=True)
    assert told["shape"] == {
        "layers": 2, "heads": 2, "channels": 32, "context": 16, "vocab_size": 257
    }  # fmt: skip
    assert (told["version"], told["dtype"], told["checksum"]) == (3, "fp32", "verified")
    assert told["problems"] == ["1 weights are not finite numbers"]
    for row in told["tensors"]:
        values = tensors[row["name"]].astype(np.float64)
        values = values[:257] if row["name"] == "wte" else values
        finite = values[np.isfinite(values)]
        assert row["mean"] == pytest.approx(finite.mean(), abs=1e-9)
        assert row["std"] == pytest.approx(finite.std())
        assert (row["min"], row["max"]) == (finite.min(), finite.max())
        assert row["NaN"] == (row["name"] == "fcw")


def test_a_tensor_that_is_cut_off_has_no_statistics(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m", TINY, some_tensors(TINY))
    os.truncate(path, path.stat().st_size - 1)
    *whole, last = looked_at(path, tensors=True)["tensors"]
    assert all(row["NaN"] == 0 for row in whole)
    assert last["name"] == "lnfb"
    assert [last[name] for name in ("mean", "NaN", "inf")] == [None, None, None]


def test_a_bf16_checkpoint_has_the_step_and_loss_it_was_saved_at(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_checkpoint(
        path, TINY, iter(some_tensors(TINY).items()), dtype="bf16", step=7, val_loss=2.5
    )
    told = looked_at(path, tensors=True)
    _, stored = read_checkpoint(path)
    assert (told["step"], told["val_loss"], told["dtype"], told["ok"]) == (7, 2.5, "bf16", True)
    rows = {row["name"]: row for row in told["tensors"]}
    assert rows["qkvw"]["std"] == pytest.approx(stored["qkvw"].std(), rel=1e-5)


def test_what_is_wrong_with_a_checkpoint(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m", TINY)
    data = path.read_bytes()

    def changed(at: int, value: int, kind: str = "<i") -> bytes:
        new = bytearray(data)
        struct.pack_into(kind, new, at, value)
        return bytes(new)

    padding = 1024 + 4 * 32 * 300
    cases = {
        data[:-5]: "5 bytes are missing",
        data + b"xy": "2 more follow",
        data[:500]: "500 bytes of its header's",
        changed(4, 2): "version 2; llmc reads 1, 3 and 5",
        changed(16, 0): "layers must be at least 1",
        changed(20, 7): "7 heads do not divide 32 channels",
        changed(28, 257): "padded to 384, not 257",
        changed(36, 9): "a newer llmc (header extension 9",
        changed(len(data) - 4, 12345): "its checksum is",
        changed(padding, 1): "values in the padding rows of wte should be zero",
        changed(24, 2**31 - 2): "heads do not divide|bytes are missing",
    }
    for broken, sentence in cases.items():
        path.write_bytes(broken)
        problems = looked_at(path)["problems"]
        assert any(part in problem for part in sentence.split("|") for problem in problems), (
            sentence
        )
    path.write_bytes(data[:-5])
    assert looked_at(path)["whole_tensors"] == 15


def test_llm_c_s_own_checkpoint_has_nothing_to_verify(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m", TINY)
    data = bytearray(path.read_bytes())
    data[32:96] = bytes(64)
    path.write_bytes(data)
    told = looked_at(path)
    assert (told["written_by"], told["checksum"], told["ok"]) == ("llm.c", None, True)


# Others' formats


def test_safetensors_as_the_library_writes_them(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b\x1b[2J": np.array([1.5, np.nan], np.float16),
        "c": np.array([[True]]),
        "empty": np.zeros((0, 3), np.int64),
    }
    path = tmp_path / "x"
    save_file(tensors, path, {"who": "\x07me"})
    told = looked_at(path, tensors=True)
    rows = {row["name"]: row for row in told["tensors"]}
    assert {name: rows[name]["shape"] for name in tensors} == {
        name: list(value.shape) for name, value in tensors.items()
    }
    assert rows["a"]["std"] == pytest.approx(np.arange(12).std())
    assert rows["b\x1b[2J"]["NaN"] == 1
    assert told["gpt2"] is False
    assert told["metadata"] == {"who": "\x07me"}
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    assert "3 bytes are missing" in looked_at(path)["problems"][0]
    path.write_bytes(data[:20])
    assert "its header promises" in looked_at(path)["problems"][0]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_hugging_face_folder(tmp_path: Path, shards: int) -> None:
    folder = write_huggingface(tmp_path / "model", TINY, shards=shards)
    told = looked_at(folder)
    assert (told["kind"], told["gpt2"], told["problems"]) == ("huggingface", True, [])
    assert told["shape"]["heads"] == 2
    assert len(told["parts"]) == shards
    if shards > 1:
        next(folder.glob("*-00002-*")).unlink()
        told = looked_at(folder)
        assert not told["gpt2"]
        assert "and the model's index names it" in told["problems"][0]
        return
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_layer": 9}))
    (problem,) = looked_at(folder)["problems"]
    assert "config.json" in problem and "h.2" in problem


def test_gguf_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x", TINY, quantize="fcw")
    told = looked_at(path, tensors=True)
    assert (told["gpt2"], told["architecture"], told["problems"]) == (True, "gpt2", [])
    assert told["tokenizer"]["tokens"] == 257
    reader = gguf.GGUFReader(path)
    rows = {row["name"]: row for row in told["tensors"]}
    assert len(rows) == len(reader.tensors)
    for tensor in reader.tensors:
        row = rows[tensor.name]
        assert row["type"] == tensor.tensor_type.name
        assert row["shape"] == tensor.shape.tolist()[::-1]
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        assert row["mean"] == pytest.approx(values.mean(), abs=1e-7)
        assert row["std"] == pytest.approx(values.std(), rel=1e-5)
    keys = {row["key"] for row in told["keys"]}
    assert keys == {name for name in reader.fields if not name.startswith("GGUF.")}


def test_what_is_wrong_with_gguf(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x", TINY)
    data = path.read_bytes()
    huge = struct.pack("<Q", 2**60)
    at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    cases = {
        data[:4] + struct.pack(">I", 3) + data[8:]: "the other byte order",
        data[:4] + struct.pack("<I", 1) + data[8:]: "its version is 1",
        data[:100]: "are left of the file",
        data[: len(data) // 2]: "bytes are missing",
        data[:8] + huge + data[16:]: "tensor",
        data[:16] + huge + data[24:]: "key",
        data[:at] + huge + data[at + 8 :]: "strings, more than the file holds",
    }
    for broken, sentence in cases.items():
        path.write_bytes(broken)
        assert sentence in looked_at(path)["problems"][0]


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


def told_problem(path: Path) -> str:
    made = describe(path, asked(path.parent))
    as_told(made)
    return " / ".join(made.all_problems())


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
    assert "line 9 of metrics.jsonl is no measurement" in told_problem(folder)
    (folder / "config.toml").write_text("[model]\nlayers = 7\n")
    assert "another shape than config.toml" in told_problem(folder)
    (folder / "model.bin").write_bytes(b"x" * 2000)
    assert "is no model checkpoint" in told_problem(folder)


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


def test_a_training_state(line: Llmc, tmp_path: Path) -> None:
    place = next((line.workspace / "runs" / "run" / "checkpoints").glob("*/state.bin"))
    told = looked_at(place)
    assert (told["kind"], told["problems"], told["step"]) == ("training_state", [], 4)
    path = tmp_path / "state.bin"
    path.write_bytes(place.read_bytes()[:-1])
    assert "cut short" in told_problem(path)
    path.write_bytes(place.read_bytes()[:-1] + b"x")
    assert "its checksum is" in told_problem(path)


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


# What is no such thing


@pytest.mark.parametrize(
    ("data", "kind", "problem"),
    [
        (b"", "empty", "it is empty"),
        (b"<!DOCTYPE html><html>", "html", "the download went wrong"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "lfs", "git lfs pull"),
        (b"\x13\x37\0\0abc", "unknown", "begins like nothing that llmc reads"),
        (b"some words\nof text", "text", None),
        (b'{"a": 1}', "json", None),
        (b'{"a": 1', "json", "broken JSON"),
        (b'{"text": "a"}\n{"text": "b"}\n', "jsonl", None),
        (b"\x1f\x8b\x08\0", "gzip", None),
        (b"PAR1xxxx", "parquet", None),
        (b"PK\x03\x04 and nothing", "zip", "directory is broken"),
        (b"\x80\x02}q", "pickle", None),
        (b"\x93NUMPY\x01", "npy", None),
        ("Ünï".encode()[:-1] * 1, "text", None),
    ],
)
def test_other_files(tmp_path: Path, data: bytes, kind: str, problem: str | None) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    told = looked_at(path)
    assert told["kind"] == kind
    assert (problem is None) == told["ok"]
    assert problem is None or problem in told["problems"][0]


def test_a_pytorch_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch oops'\ntR.")
        archive.writestr("archive/data/0", bytes(40))
    told = looked_at(path)
    assert (told["kind"], told["tensors"], told["tensor_bytes"]) == ("pytorch", 1, 40)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in looked_at(tmp_path / "pipe")["problems"][0]
    assert looked_at(tmp_path)["files"][0]["kind"] == "special"


def test_what_is_not_there_is_usage(tmp_path: Path) -> None:
    for name in ("gone", "a\0b"):
        with pytest.raises(Usage):
            looked_at(tmp_path / name)


def test_json_s_kinds() -> None:
    assert kind_of_head(b"GGU") == "text"
    assert kind_of_head(b'\x60\0\0\0\0\0\0\0{"a') == "safetensors"
    assert kind_of_head(b"YQ== 0\nYg== 1\n") == "tokenizer.tiktoken"


# Damage


@pytest.fixture(scope="module")
def samples(
    line: Llmc, tmp_path_factory: pytest.TempPathFactory, byte: Tokenizer
) -> dict[str, bytes]:
    """Whole files of every kind, as bytes."""
    folder = tmp_path_factory.mktemp("samples")
    run, data = line.workspace / "runs" / "run", line.workspace / "data" / "texts"
    small = ModelConfig(layers=1, heads=1, channels=32, context=4, vocab_size=20)
    write_huggingface(folder / "hf", small)
    trained_here = train_bpe(["many words and many more words"], 262)
    save_tokenizer(trained_here, folder / "t")
    wide = save_tokens(folder / "wide", np.array([1, 70000]), 70001)
    files = {
        "tokens": data / "val.bin",
        "wide": wide,
        "checkpoint": save_model(folder / "m", small),
        "safetensors": folder / "hf" / "model.safetensors",
        "gguf": write_gguf(folder / "g", small, quantize="fcw"),
        "tokenizer.bin": write_tokenizer_bin(folder / "b", trained_here),
        "tokenizer.tiktoken": folder / "t",
        "manifest.json": data / "manifest.json",
        "metrics.jsonl": run / "metrics.jsonl",
        "config.toml": run / "config.toml",
    }
    found = {name: path.read_bytes() for name, path in files.items()}
    state = struct.pack("<4I", 20240327, 2, 1, 2).ljust(1024, b"\0") + bytes(3000)
    return found | {"debug_state": state}


SIZED = ("tokens", "wide", "checkpoint", "safetensors", "gguf", "tokenizer.bin")
EXTREMES = (0, 1, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


@settings(
    max_examples=250,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(choice=st.data())
def test_damage_is_described(
    choice: st.DataObject, samples: dict[str, bytes], tmp_path: Path, byte: Tokenizer
) -> None:
    """Whatever was done to a file, there is a description, and it can be printed."""
    kind = choice.draw(st.sampled_from(sorted(samples)))
    data = bytearray(samples[kind])
    for _ in range(choice.draw(st.integers(1, 3))):
        near = st.integers(0, min(len(data), 1200))
        at = choice.draw(st.one_of(near, st.integers(0, len(data))))
        how = choice.draw(st.sampled_from(["cut", "number", "bytes", "insert", "remove"]))
        if how == "cut":
            del data[at:]
        elif how == "number":
            value = choice.draw(st.sampled_from(EXTREMES))
            width = choice.draw(st.sampled_from([4, 8]))
            at -= at % 4
            data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        elif how == "bytes":
            data[at : at + 4] = choice.draw(st.binary(min_size=4, max_size=4))
        elif how == "insert":
            data[at:at] = choice.draw(st.binary(min_size=1, max_size=9))
        else:
            del data[at : at + choice.draw(st.integers(1, 20))]
    path = tmp_path / (kind if "." in kind else "file")
    path.write_bytes(data)
    as_told(describe(path, asked(tmp_path, tensors=True, tokenizer=byte)))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(SIZED), part=st.floats(0, 1))
def test_what_is_cut_short_is_said_to_be(
    kind: str, part: float, samples: dict[str, bytes], tmp_path: Path, byte: Tokenizer
) -> None:
    """From 16 bytes on: three bytes of a magic are text like any other."""
    data = samples[kind]
    path = tmp_path / "file"
    path.write_bytes(data[: 16 + int(part * (len(data) - 17))])
    assert not as_told(describe(path, asked(tmp_path, tokenizer=byte)))["ok"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=2000))
def test_any_bytes_are_described(data: bytes, tmp_path: Path, byte: Tokenizer) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    as_told(describe(path, asked(tmp_path, tokenizer=byte)))
    with suppress(Usage):  # it is empty, or has a header after all
        as_told(describe(path, asked(tmp_path, tokenizer=byte, dtype="uint16")))


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSONS, keys=st.data())
def test_any_json_under_any_name_is_described(
    value: Any, keys: st.DataObject, tmp_path: Path, samples: dict[str, bytes]
) -> None:
    """A manifest, a config, an index, a record whose values are of any type."""
    place = keys.draw(
        st.sampled_from(
            ["manifest.json", "config.json", "model.safetensors.index.json", "tokenizer.json",
             "prepared.json", "metrics.jsonl"]
        )
    )  # fmt: skip
    whole = json.loads(samples["manifest.json"])
    if isinstance(value, dict) or keys.draw(st.booleans()):
        known = {**whole, "weight_map": {}, "model": "", "n_head": 2, "name": "byte", "step": 1}
        key = keys.draw(st.sampled_from(sorted(known)))
        value = {**known, **(value if isinstance(value, dict) else {}), key: value}
    folder = tmp_path / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.toml").write_text("")
    (folder / place).write_text(json.dumps(value) + "\n")
    for path in (folder, folder / place):
        as_told(describe(path, asked(tmp_path)))


def test_what_a_header_promises_is_not_taken(
    samples: dict[str, bytes], tmp_path: Path, byte: Tokenizer
) -> None:
    path = tmp_path / "file"
    promises = []
    for kind in SIZED:
        for at in range(4, 40, 4):
            for width, value in ((4, 2**31 - 1), (8, 2**62)):
                data = bytearray(samples[kind])
                data[at : at + width] = value.to_bytes(width, "little")
                promises.append(bytes(data))
    tracemalloc.start()
    try:
        for promise in promises:
            path.write_bytes(promise)
            describe(path, asked(tmp_path, tensors=True, tokenizer=byte))
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()


# The command


def test_the_command(line: Llmc) -> None:
    done = line("inspect", "runs/run/model.bin")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runs/run/model.bin: model checkpoint, llm.c's format\n")
    assert "  checksum: CRC-32 " in done.stdout
    quiet = line("inspect", "runs/run/model.bin", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (done.stdout, "")
    workspace = line("inspect")
    assert workspace.stdout.startswith(".: workspace\n")


def test_json_is_one_object(line: Llmc) -> None:
    done = line("inspect", "data/texts", "--json")
    assert done.stdout.count("\n") == 1
    told = json.loads(done.stdout)
    assert (told["kind"], told["ok"], len(told["parts"])) == ("dataset", True, 2)


def test_a_broken_file_is_described_and_ends_in_1(line: Llmc, tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    path.write_bytes((line.workspace / "runs" / "run" / "model.bin").read_bytes()[:-9])
    for flags in ([], ["--json"], ["--quiet"]):
        done = line("inspect", path, *flags)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
        assert len(errors) == 1
        assert "9 bytes are missing" in errors[0]
        assert "layers" in done.stdout
    assert json.loads(line("inspect", path, "--json").stdout)["ok"] is False


def test_a_wrong_command_line(line: Llmc) -> None:
    done = line("inspect", "gone.bin")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no gone.bin" in done.stderr
    assert line("inspect", "data", "--dtype", "int8").returncode == 2
    assert line("inspect", "data", "--tokenizer", "gone").returncode == 2


def test_a_reader_that_leaves_early_is_no_error(line: Llmc) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*line.command, "inspect", "data/texts"],
        cwd=line.workspace,
        env=line.env(),
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_lines_that_fit(
    line: Llmc, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for path in (line.workspace / "data" / "texts", line.workspace):
        show(describe(path, asked(line.workspace)), sys.stdout)
    printed = capsys.readouterr().out.splitlines()
    assert "✓ nothing wrong was found" in printed
    assert max(map(len, printed)) <= width


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("checkpoint", b'model_checkpoint_path: "model.ckpt"\n', "TensorFlow"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n", "from_tf=True"),
        ("flax_model.msgpack", b"\x81\xa6", "from_flax=True"),
    ],
)
def test_weights_of_other_programs_are_named(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    told = looked_at(tmp_path / name)
    assert said in told["problems"][0]
