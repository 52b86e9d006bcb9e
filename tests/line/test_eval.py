"""``llmc eval``: every token once, PyTorch's losses, honest errors; and the engine's part of it."""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from llmc.check.torch_model import GPT2
from llmc.errors import Usage
from llmc.evaluate.loss import evaluate
from llmc.evaluate.rows import EngineOptions
from llmc.model import ModelConfig, tensor_shapes
from llmc.paths import Workspace
from llmc.tokens.files import read_tokens, write_rows
from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.engine import (
    ALL_ISAS,
    RAGGED,
    Flags,
    Native,
    build,
    json_lines,
    must_run,
    random_tokens,
    refused,
    save_model,
    save_tokens,
    some_tensors,
    succeeded,
)
from tests.helpers.workspace import copy_of, ok, prepared_workspace, trained

V, CONTEXT = RAGGED.vocab_size, RAGGED.context
COUNT = 7 * CONTEXT + 14  # the last window is shorter than the others
FLAGS = ["data", "task", "split", "max-tokens", "max-examples", "seq-len", "batch-size", "dtype"]
FLAGS += ["threads"]


# ---- the engine's part ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """A model whose sizes are multiples of nothing, and tokens."""

    model: Path
    data: Path
    tokens: NDArray[np.int64]

    @property
    def flags(self) -> Flags:
        return {"model": self.model, "data": self.data, "events": "json"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    tokens = random_tokens(COUNT, V)
    model = save_model(folder / "model.bin", RAGGED)
    return Files(model, save_tokens(folder / "tokens.bin", tokens, V), tokens)


@functools.cache
def twin() -> GPT2:
    return GPT2(RAGGED).double().load(some_tensors(RAGGED))


def torchs_losses(ids: NDArray[np.int64], T: int | None = None) -> NDArray[np.float64]:
    """Return the twin's losses of all tokens but the first, windows of T by themselves."""
    T = T or len(ids) - 1
    whole = (len(ids) - 1) // T
    parts = [] if whole * T == len(ids) - 1 else [torchs_losses(ids[whole * T :])]
    run = torch.from_numpy(ids[: whole * T + 1])
    with torch.no_grad():
        logits, _ = twin()(run[:-1].view(whole, T))
        losses = functional.cross_entropy(logits.flatten(0, 1), run[1:], reduction="none")
    return np.concatenate([losses.numpy(), *parts])


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [line for line in json_lines(succeeded(done).stdout) if line["event"] == "row"]


@pytest.mark.parametrize("seq_len", [None, 1, 16, 40])
def test_every_token_but_the_first_is_predicted_once_as_by_pytorch(
    seq_len: int | None, native: Native, files: Files
) -> None:
    T = seq_len or CONTEXT
    flags: Flags = {"seq_len": seq_len} if seq_len else {}
    rows = rows_of(native("eval", batch_size=3, threads=2, **files.flags, **flags))
    assert [row["row"] for row in rows] == list(range(len(rows)))
    places = [row["at"] + i for row in rows for i in range(len(row["losses"]))]
    assert places == list(range(1, COUNT))
    assert [len(row["losses"]) for row in rows[:-1]] == [T] * (len(rows) - 1)
    assert (COUNT - 1) % T in (len(rows[-1]["losses"]), 0)
    expected = torchs_losses(files.tokens, T)
    got = np.concatenate([row["losses"] for row in rows])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert abs(got.mean() / expected.mean() - 1) < 1e-6
    text = {**files.flags, **flags, "events": "text"}
    said = succeeded(native("eval", **text)).stdout.splitlines()[-1]
    assert said == f"loss {got.mean():.6f} over {COUNT - 1} tokens"


@pytest.mark.parametrize("isa", ALL_ISAS)
def test_threads_and_batches_change_no_bit(
    isa: str, native: Native, isas: list[str], files: Files
) -> None:
    must_run(isa, isas)
    for dtype in ("fp32", "bf16"):
        flags: Flags = {**files.flags, "dtype": dtype}
        expected = rows_of(native("eval", isa=isa, batch_size=1, **flags))
        for threads, B in ((1, 8), (2, 3), (3, 65536), (7, 2)):
            got = rows_of(native("eval", isa=isa, threads=threads, batch_size=B, **flags))
            assert got == expected, (threads, B)


@pytest.mark.parametrize("isa", ALL_ISAS)
def test_int8_predicts_what_decoding_would(
    isa: str, native: Native, isas: list[str], files: Files
) -> None:
    """Within half a percent of fp32's loss; the same bits for any threads and any batch."""
    must_run(isa, isas)
    exact = rows_of(native("eval", isa=isa, **files.flags))
    expected = rows_of(native("eval", isa=isa, dtype="int8", batch_size=1, **files.flags))
    assert [(row["row"], row["at"]) for row in expected] == [(r["row"], r["at"]) for r in exact]
    losses, others = (np.concatenate([row["losses"] for row in rows]) for rows in (exact, expected))
    assert len(others) == COUNT - 1 and not np.array_equal(losses, others)
    assert abs(others.mean() / losses.mean() - 1) < 0.005
    for threads, B in ((1, 8), (2, 3), (3, 64)):
        flags: Flags = {**files.flags, "dtype": "int8", "threads": threads, "batch_size": B}
        assert rows_of(native("eval", isa=isa, **flags)) == expected, (threads, B)
    start = json_lines(native("eval", isa=isa, dtype="int8", **files.flags).stdout)[0]
    assert start["dtype"] == "int8" and start["batch_size"] <= 64


def test_at_most_so_many_tokens(native: Native, files: Files) -> None:
    whole = rows_of(native("eval", **files.flags))
    for most in (1, CONTEXT - 1, CONTEXT, CONTEXT + 1, COUNT - 2, COUNT - 1, 10**12):
        rows = rows_of(native("eval", max_tokens=most, **files.flags))
        got = [loss for row in rows for loss in row["losses"]]
        everything = [loss for row in whole for loss in row["losses"]]
        assert got == everything[: min(most, COUNT - 1)]


def test_rows_are_predicted_from_where_they_say(
    native: Native, files: Files, tmp_path: Path
) -> None:
    table = [(0, 2, 1), (5, CONTEXT + 1, 1), (5, CONTEXT + 1, CONTEXT), (90, 12, 7)]
    table += [(91, 11, 6), (3, 20, 19), (COUNT - 9, 9, 3)]
    write_rows(tmp_path / "rows.bin", table)
    flags: Flags = {**files.flags, "rows": tmp_path / "rows.bin"}
    rows = rows_of(native("eval", batch_size=1, **flags))
    for (start, length, begin), row in zip(table, rows, strict=True):
        assert row["at"] == start + begin
        expected = torchs_losses(files.tokens[start : start + length])[begin - 1 :]
        np.testing.assert_allclose(row["losses"], expected, rtol=1e-5, atol=1e-5)
    for B in (2, 4, 7):  # what a row is filled up with, or stands beside, is nothing to it
        assert rows_of(native("eval", batch_size=B, threads=2, **flags)) == rows
    narrow = rows_of(native("eval", batch_size=1, dtype="int8", **flags))
    for B in (2, 7):
        assert rows_of(native("eval", batch_size=B, dtype="int8", **flags)) == narrow
    for row, other in zip(rows, narrow, strict=True):
        assert (row["at"], len(row["losses"])) == (other["at"], len(other["losses"]))
        np.testing.assert_allclose(other["losses"], row["losses"], rtol=0.05)
    flags["events"] = "text"
    lines = succeeded(native("eval", **flags)).stdout.splitlines()[-len(table) - 1 :]
    means = [np.mean(row["losses"]) for row in rows]
    counts = [len(row["losses"]) for row in rows]
    for i, (mean, count) in enumerate(zip(means, counts, strict=True)):
        assert lines[i] == f"row {i}: loss {mean:.6f} over {count} tokens"


@pytest.mark.parametrize("sanitize", [False, True])
def test_the_engine_trusts_no_rows(
    sanitize: bool, files: Files, tmp_path: Path, cache: Path
) -> None:
    native = build(cache, sanitize=sanitize)
    path = tmp_path / "rows.bin"
    write_rows(path, [(0, 5, 1), (5, CONTEXT + 1, 1)])
    good = path.read_bytes()
    flags: Flags = {**files.flags, "rows": path}
    assert len(rows_of(native("eval", **flags))) == 2

    def said(content: bytes) -> str:
        path.write_bytes(content)
        return refused(native("eval", **flags), 1)

    def row(*values: int) -> bytes:
        return good[:-12] + struct.pack("<3I", *values)

    most = 2**32 - 1
    assert "less than a header" in said(b"") and "less than a header" in said(good[:1023])
    assert "no file of rows" in said(b"\1" + good[1:])
    assert "no file of rows" in said(good[:4] + b"\2" + good[5:])
    assert "cut short" in said(good[:-1]) and "damaged" in said(good + b"\0")
    assert "cut short" in said(good[:8] + struct.pack("<I", most) + good[12:])
    assert "holds no rows" in said(good[:8] + bytes(1016))
    for values in ((0, 0, 0), (0, 5, 0), (0, 5, 5), (0, 5, most), (COUNT - 4, 5, 1), (most, 5, 1)):
        assert "no piece of the" in said(row(*values))
    assert "no piece of the" in said(row(0, most, 1))
    assert f"has {CONTEXT} positions" in said(row(0, CONTEXT + 2, 1))
    path.unlink()
    assert "there is no file" in refused(native("eval", **flags), 3)
    both: list[Flags] = [{"seq_len": 4}, {"max_tokens": 4}]
    for more in both:
        assert "leave out --seq-len" in refused(native("eval", **flags, **more), 2)


def test_what_makes_no_sense_is_refused_by_the_engine(
    native: Native, files: Files, tmp_path: Path
) -> None:
    flags = files.flags
    assert "41 positions" in refused(native("eval", seq_len=42, **flags), 2)
    assert "--data FILE" in refused(native("eval", model=files.model), 2)
    assert "--events" in refused(native("eval", **{**flags, "events": "xml"}), 2)
    error = refused(native("eval", dtype="int8", batch_size=65, **flags), 2)
    assert "with --dtype int8 --batch-size is at most 64, not 65" in error
    one = save_tokens(tmp_path / "one.bin", np.array([3]), V)
    assert "holds 1 tokens" in refused(native("eval", **{**flags, "data": one}), 1)
    above = save_tokens(tmp_path / "above.bin", np.array([3, 4, V]), V + 1)
    assert f"holds token {V} at position 2" in refused(
        native("eval", **{**flags, "data": above}), 1
    )


def test_no_more_memory_is_taken_than_there_is(native: Native, files: Files) -> None:
    def started(limit: int, **flags: Any) -> dict[str, Any]:
        done = native("eval", env={"LLMC_MEMORY": str(limit)}, **files.flags, **flags)
        return json_lines(succeeded(done).stdout)[0]

    plenty = started(10**10, batch_size=8)
    alone = started(10**10, batch_size=1)
    assert plenty["batch_size"] == 8 and plenty["memory"] > alone["memory"]
    assert started(alone["memory"])["batch_size"] < started(10**10)["batch_size"]
    limit = {"LLMC_MEMORY": str(alone["memory"])}
    error = refused(native("eval", env=limit, batch_size=8, **files.flags), 2)
    assert re.search(r"needs [\d.]+ MB of memory, but only [\d.]+ MB are .*--batch-size \d", error)
    limit = {"LLMC_MEMORY": "1000000"}
    assert "use a smaller model" in refused(native("eval", env=limit, **files.flags), 2)


def test_a_loss_that_is_not_finite_has_its_own_code(
    native: Native, files: Files, tmp_path: Path
) -> None:
    tensors = some_tensors(RAGGED)
    tensors["lnfb"][3] = np.nan
    model = save_model(tmp_path / "nan.bin", RAGGED, tensors)
    done = native("eval", **{**files.flags, "model": model})
    assert "gives token 1 of" in done.stderr
    assert done.returncode == 5


# ---- the command ---------------------------------------------------------------------------------


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
    assert "single window" in ok(template("eval", "--max-tokens", "5")).stdout


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
def test_what_makes_no_sense_is_refused(
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
    path = llmc.workspace / "data/texts/val.bin"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert "not the file its manifest describes" in assert_one_sentence(llmc("eval"), 1)


def test_ctrl_c_says_how_far_it_came(llmc: Llmc) -> None:
    """Enough tokens for minutes on the plain loops."""
    save_tokens(llmc.workspace / "many.bin", random_tokens(3_000_000, 257), 257)
    with subprocess.Popen(
        [*llmc.command, "eval", "--data", "many.bin", "--seq-len", "8"],
        cwd=llmc.workspace,
        env=llmc.env({"LLMC_ISA": "reference"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("model: "):
                break
        time.sleep(1)
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
