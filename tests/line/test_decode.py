from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.cli.commands.decode import parse_id, split_at_last_space
from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.errors import BadData
from llmc.paths import Workspace
from llmc.tokens.bpe import train_bpe
from llmc.tokens.dataset import tokenize
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.recorded import record_tokenizer
from llmc.tokens.tokenizer import Tokenizer
from llmc.train.folder import newest_tokenizer
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import assert_no_complaint

TEXT = "naïve — 東京 🙂\r\n\tend"


def test_ids_as_arguments(llmc: Llmc, gpt2: Tokenizer) -> None:
    assert gpt2.name == "gpt2"
    done = llmc.raw("decode", "15496", "995", "--tokenizer", "gpt2")
    assert done.returncode == 0
    assert done.stdout == b"Hello world"


@pytest.mark.parametrize("separator", [" ", "\n", "\t\r\n  "])
def test_ids_on_stdin_give_the_bytes_and_nothing_more(llmc: Llmc, separator: str) -> None:
    ids = separator.join(str(byte) for byte in TEXT.encode())
    done = llmc.raw("decode", "--tokenizer", "byte", stdin=ids.encode())
    assert done.stdout == TEXT.encode()


def test_bytes_that_are_no_utf8_pass_unchanged(llmc: Llmc) -> None:
    done = llmc.raw("decode", "--tokenizer", "byte", stdin=b"255 254 195 0 10")
    assert done.stdout == b"\xff\xfe\xc3\0\n"


def test_output_appears_as_ids_arrive(llmc: Llmc) -> None:
    with llmc.start(
        "decode", "--tokenizer", "byte", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # 104 is complete; 10 may be the start of 105, so it has to wait.
        process.stdin.write(b"104 10")
        assert process.stdout.read(1) == b"h"
        process.stdin.write(b"5\n226\n")
        assert process.stdout.read(2) == b"i\xe2"
        process.stdin.write(b"130 172")
        process.stdin.close()
        assert process.stdout.read() == b"\x82\xac"
    assert process.returncode == 0


def test_a_reader_that_leaves_early_is_no_error(llmc: Llmc) -> None:
    with llmc.start("decode", "--tokenizer", "byte", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"65 " * 10)
        process.stdin.flush()
        assert process.stdout.read(1) == b"A"
        process.stdout.close()
        process.stdin.write(b"66 " * 10)
        process.stdin.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert_no_complaint(errors)


@given(text=st.text(alphabet="0123456789 \n\t\r"), cut=st.integers(0, 50))
def test_no_id_is_cut_in_two_where_a_chunk_ends(text: str, cut: int) -> None:
    data = text.encode()
    whole, rest = split_at_last_space(data[:cut])
    assert whole + rest == data[:cut]
    assert whole.split() + (rest + data[cut:]).split() == data.split()


@pytest.mark.parametrize("word", ["abc", "1.5", "0x10", "+5", "1_0", "٣", ""])
def test_what_is_no_id_is_refused(word: str) -> None:
    with pytest.raises(BadData, match=f"'{re.escape(word)}' is not a token id"):
        parse_id(word)


def test_a_word_among_the_ids_ends_in_one_sentence(llmc: Llmc) -> None:
    error = assert_one_sentence(llmc("decode", "--tokenizer", "byte", "65", "abc"), 2)
    assert "'abc' is not a token id" in error
    assert_one_sentence(llmc("decode", "--tokenizer", "byte", stdin="abc 65"), 1)


def test_an_id_outside_the_vocabulary_is_refused(llmc: Llmc) -> None:
    error = assert_one_sentence(llmc("decode", "--tokenizer", "byte", "257"), 1)
    assert "token 257 is not in the byte vocabulary, whose ids are 0 to 256" in error


def test_an_unknown_tokenizer_is_refused(llmc: Llmc) -> None:
    assert "no tokenizer 'x'" in assert_one_sentence(llmc("decode", "--tokenizer", "x", "1"), 2)


def test_json_is_one_object(llmc: Llmc) -> None:
    done = llmc("decode", "--json", "--tokenizer", "byte", "104", "105", "255")
    assert json.loads(done.stdout) == {"text": "hi\ufffd", "tokens": 3, "tokenizer": "byte"}


def test_no_ids_give_no_bytes(llmc: Llmc) -> None:
    done = llmc.raw("decode", "--tokenizer", "byte", stdin=b" \n")
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.fixture
def here_in_tmp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Context:
    assert capsys is not None
    return Context(Workspace(tmp_path), Ui())


def dataset(here: Context, name: str, tokenizer: str) -> Path:
    """Make a dataset of that tokenizer in the workspace."""
    text = here.workspace.root / f"{name}.txt"
    text.write_text("some words, and some more words\n" * 20)
    return tokenize(here.workspace, [str(text)], TokenizeOptions(tokenizer=tokenizer)).folder


def run(here: Context, name: str) -> Path:
    """Make a folder as train leaves it, as far as decode looks."""
    folder = here.workspace.runs / name
    folder.mkdir(parents=True)
    (folder / "model.bin").touch()
    return folder


def test_the_newest_run_s_tokenizer_comes_first(
    here_in_tmp: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset(here_in_tmp, "data", "byte")
    old, new = run(here_in_tmp, "old"), run(here_in_tmp, "new")
    trained = train_bpe(["some words, and some more words"], 262)
    record_tokenizer(train_bpe(["other words"], 259), old)
    record_tokenizer(trained, new)
    os.utime(old / "model.bin", (1, 1))
    assert (
        newest_tokenizer(here_in_tmp.workspace, here_in_tmp.ui).fingerprint == trained.fingerprint
    )
    assert "tokenizer: bpe, of the run" in capsys.readouterr().err


def test_then_the_newest_dataset_s(
    here_in_tmp: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    old = dataset(here_in_tmp, "old", "bpe:262")
    dataset(here_in_tmp, "new", "byte")
    os.utime(old / "manifest.json", (1, 1))
    run(here_in_tmp, "without-a-record")
    assert newest_tokenizer(here_in_tmp.workspace, here_in_tmp.ui).name == "byte"
    assert "tokenizer: byte, of the dataset" in capsys.readouterr().err


def test_then_gpt2_s(
    here_in_tmp: Context, gpt2: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert newest_tokenizer(here_in_tmp.workspace, here_in_tmp.ui).fingerprint == gpt2.fingerprint
    assert "tokenizer: gpt2 (there is no run" in capsys.readouterr().err


def test_a_broken_record_is_no_reason_to_take_another(here_in_tmp: Context) -> None:
    (run(here_in_tmp, "new") / "tokenizer.json").write_text("{}")
    with pytest.raises(BadData, match=r"cannot read .*tokenizer\.json"):
        newest_tokenizer(here_in_tmp.workspace, here_in_tmp.ui)
