"""Token files that others wrote become datasets."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from llmc.tokens.files import read_tokens, write_tokens
from llmc.tokens.manifest import Manifest, load_manifest, verify
from llmc.tokens.tokenizer import load_tokenizer
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import ok
from tests.unit.tokens.test_shards import documents, ids_of


def stream() -> NDArray[np.int64]:
    byte = load_tokenizer("byte")
    return np.array([id for text in documents(60) for id in (byte.eot, *byte.encode(text))])


def made_in(llmc: Llmc, name: str) -> Manifest:
    made = load_manifest(llmc.workspace / "data" / name)
    verify(made)
    return made


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
@pytest.mark.parametrize("shard_tokens", [1000, 10**8])
def test_tokens_without_a_header_are_imported(llmc: Llmc, dtype: str, shard_tokens: int) -> None:
    ids = stream()
    (llmc.workspace / "nano.bin").write_bytes(ids.astype(dtype).tobytes())
    flags = ("--dtype", dtype, "--tokenizer", "byte", "--shard-tokens", str(shard_tokens))
    ok(llmc("tokenize", "nano.bin", *flags, "--val-tokens", "1500"))
    made = made_in(llmc, "nano")
    assert sorted(ids_of(made, made.val) + ids_of(made, made.train)) == sorted(ids.tolist())
    assert abs(made.val.tokens - 1500) < 200
    assert made.text_bytes == sum(len(text.encode()) for text in documents(60))
    assert made.source[0]["tokens"] == dtype


def test_nanogpt_s_two_files_keep_their_split(llmc: Llmc) -> None:
    ids = stream()
    folder = llmc.workspace / "shakespeare_char"
    folder.mkdir()
    for name, some in (("train", ids[500:]), ("val", ids[:500])):
        (folder / f"{name}.bin").write_bytes(some.astype("<u2").tobytes())
    flags = ("--dtype", "uint16", "--tokenizer", "byte")
    train, val = "shakespeare_char/train.bin", "shakespeare_char/val.bin"
    ok(llmc("tokenize", train, "--val-data", val, *flags))
    made = made_in(llmc, "shakespeare_char")
    assert (ids_of(made, made.val), ids_of(made, made.train)) == (
        ids[:500].tolist(),
        ids[500:].tolist(),
    )
    assert_one_sentence(llmc("tokenize", train, "--val-data", val, *flags, "--val-tokens", "9"), 2)


def test_tokens_without_an_end_of_text_are_said(llmc: Llmc) -> None:
    """A sample without a prompt begins with end-of-text, which is then never trained."""
    byte = load_tokenizer("byte")
    for name, ids in (("with", stream()), ("without", np.array(byte.encode("a text " * 90)))):
        (llmc.workspace / f"{name}.bin").write_bytes(ids.astype("<u2").tobytes())
        done = ok(llmc("tokenize", f"{name}.bin", "--dtype", "uint16", "--tokenizer", "byte"))
        assert ("no end-of-text" in done.stderr) == (name == "without")


@pytest.mark.parametrize("vocab_size", [257, 70_000])
def test_files_with_llm_c_s_header_say_themselves_what_they_are(
    llmc: Llmc, vocab_size: int
) -> None:
    ids = stream()
    for number, some in enumerate((ids[:700], ids[700:]), start=1):
        write_tokens(llmc.workspace / f"web_train_{number:06}.bin", [some], vocab_size)
    ok(llmc("tokenize", "web_train_*.bin", "--tokenizer", "byte"))
    made = made_in(llmc, "web_train_000001")
    assert sorted(ids_of(made, made.val) + ids_of(made, made.train)) == sorted(ids.tolist())
    assert read_tokens(made.train_path).dtype == np.uint16


def test_what_cannot_be_is_refused(llmc: Llmc) -> None:
    path = llmc.workspace / "x.bin"
    path.write_bytes(np.array([5, 300, 7], "<u2").tobytes())
    flags = ("--tokenizer", "byte")
    error = assert_one_sentence(llmc("tokenize", "x.bin", *flags), 2)
    assert "--dtype uint16" in error and "int32" in error
    error = assert_one_sentence(llmc("tokenize", "x.bin", *flags, "--dtype", "uint16"), 1)
    assert "x.bin holds token 300 at position 1, but byte has 257 tokens" in error
    error = assert_one_sentence(llmc("tokenize", "x.bin", *flags, "--dtype", "int32"), 1)
    assert "6 bytes, which is not a whole number of int32 tokens" in error
    path.write_bytes(np.array([5, -1, 7], "<i4").tobytes())
    error = assert_one_sentence(llmc("tokenize", "x.bin", *flags, "--dtype", "int32"), 1)
    assert "holds token -1 at position 1" in error
    write_tokens(path, [np.arange(9)], 257)
    error = assert_one_sentence(llmc("tokenize", "x.bin", *flags, "--dtype", "uint16"), 1)
    assert "leave out --dtype" in error
    assert_one_sentence(llmc("tokenize", "nothing.bin", "x.bin", *flags, "--dtype", "int32"), 2)
    assert_one_sentence(llmc("tokenize", "x.bin", *flags, "--shard", "1/2"), 2)
    assert_one_sentence(llmc("tokenize", "x.bin", "--tokenizer", "bpe:300"), 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert "cut short" in assert_one_sentence(llmc("tokenize", "x.bin", *flags), 1)
    assert not (llmc.workspace / "data" / "x").exists()
