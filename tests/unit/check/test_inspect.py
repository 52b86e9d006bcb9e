"""inspect says what things are, agrees with the libraries of their owners, and survives damage."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from llmc.check.inspect.describe import describe
from llmc.check.inspect.reading import kind_of_head
from llmc.cli.views.inspection import show
from llmc.errors import Usage
from tests.conftest import Llmc
from tests.helpers.inspecting import asked, looked_at
from tests.helpers.workspace import assert_left_in_peace

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


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in looked_at(tmp_path / "pipe")["problems"][0]
    assert looked_at(tmp_path)["files"][0]["kind"] == "special"


def test_what_is_not_there_is_usage(tmp_path: Path) -> None:
    for name in ("gone", "a\0b"):
        with pytest.raises(Usage):
            looked_at(tmp_path / name)


def test_json_s_kinds() -> None:
    assert kind_of_head(b"GGU") == "text"
    assert kind_of_head(b'\x60\0\0\0\0\0\0\0{"a') == "safetensors"
    assert kind_of_head(b"YQ== 0\nYg== 1\n") == "tokenizer.tiktoken"


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
    assert_left_in_peace(line, "inspect", "data/texts")


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
