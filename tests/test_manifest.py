from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc import __version__
from llmc.errors import BadData, MissingOutput
from llmc.formats.tokens import write_tokens
from llmc.manifest import (
    Manifest,
    Split,
    TokenizerRecord,
    load_manifest,
    verify,
    write_manifest,
)
from llmc.tokenizers import load_tokenizer


@pytest.fixture
def dataset(tmp_path: Path) -> Manifest:
    byte = load_tokenizer("byte")
    train = write_tokens(tmp_path / "train.bin", [np.arange(200)], 257)
    val = write_tokens(tmp_path / "val.bin", [np.arange(20)], 257)
    manifest = Manifest(
        folder=tmp_path,
        dataset="numbers",
        tokenizer=TokenizerRecord("byte", byte.fingerprint, 257, 256, None),
        train=Split("train.bin", train.tokens, train.sha256),
        val=Split("val.bin", val.tokens, val.sha256),
        source=({"path": "/numbers.txt", "bytes": 220, "sha256": "0" * 64},),
        text_bytes=220,
    )
    write_manifest(manifest)
    return manifest


def test_a_manifest_is_read_back(dataset: Manifest) -> None:
    loaded = load_manifest(dataset.folder)
    assert loaded == dataset
    verify(loaded)
    assert loaded.train_path == dataset.folder / "train.bin"
    assert loaded.val_path == dataset.folder / "val.bin"
    assert loaded.load_tokenizer().name == "byte"


def test_the_file_is_as_documented(dataset: Manifest) -> None:
    fields = json.loads((dataset.folder / "manifest.json").read_text())
    assert list(fields) == [
        "format",
        "dataset",
        "tokenizer",
        "train",
        "val",
        "source",
        "text_bytes",
        "created_by",
    ]
    assert fields["format"] == 1
    assert list(fields["tokenizer"]) == ["name", "fingerprint", "vocab_size", "eot", "file"]
    assert list(fields["train"]) == ["file", "tokens", "sha256"]
    assert fields["created_by"] == f"llmc {__version__}"


def test_a_missing_manifest_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingOutput, match=f"no dataset in {tmp_path}.*llmc tokenize"):
        load_manifest(tmp_path)


def put(**values: object) -> Callable[[dict[str, Any]], None]:
    """Return an edit that sets fields; ``train__file`` is the file in train."""

    def edit(fields: dict[str, Any]) -> None:
        for name, value in values.items():
            outer, _, inner = name.partition("__")
            if inner:
                fields[outer][inner] = value
            else:
                fields[outer] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(put(format=2), id="another format"),
        pytest.param(lambda fields: fields.pop("format"), id="no format"),
        pytest.param(lambda fields: fields.pop("val"), id="no val"),
        pytest.param(put(surprise=1), id="an unknown field"),
        pytest.param(put(train=None), id="no split"),
        pytest.param(put(source=["x"]), id="a source that is no table"),
        pytest.param(put(train__tokens="many"), id="tokens in words"),
        pytest.param(put(train__tokens=True), id="tokens as a truth"),
        pytest.param(put(text_bytes=-1), id="a negative size"),
        pytest.param(put(train__file="../train.bin"), id="a file elsewhere"),
        pytest.param(put(val__file="/etc/passwd"), id="an absolute file"),
        pytest.param(put(tokenizer__file=".."), id="the folder above"),
        pytest.param(put(tokenizer__fingerprint=None), id="no fingerprint"),
    ],
)
def test_a_tampered_manifest_is_refused(
    dataset: Manifest, edit: Callable[[dict[str, Any]], None]
) -> None:
    path = dataset.folder / "manifest.json"
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(BadData, match="is not a manifest that llmc wrote") as caught:
        load_manifest(dataset.folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\udcff"])
def test_a_manifest_that_is_no_json_table_is_refused(dataset: Manifest, text: str) -> None:
    path = dataset.folder / "manifest.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadData, match="run 'llmc tokenize' again"):
        load_manifest(dataset.folder)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_verify_finds_a_changed_token(dataset: Manifest, name: str) -> None:
    path = dataset.folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadData, match=f"{name} is not the file its manifest describes"):
        verify(dataset)


def test_verify_finds_files_cut_short_or_gone(dataset: Manifest) -> None:
    path = dataset.folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(BadData, match="cut short or changed"):
        verify(dataset)
    path.unlink()
    with pytest.raises(BadData, match="cannot read the token file"):
        verify(dataset)


def test_verify_finds_another_file_that_is_whole(dataset: Manifest) -> None:
    with pytest.raises(BadData, match="200 tokens, 201 in the manifest"):
        verify(replace(dataset, train=replace(dataset.train, tokens=201)))
