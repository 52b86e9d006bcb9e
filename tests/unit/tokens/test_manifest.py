from __future__ import annotations

import glob
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc import __version__
from llmc.errors import BadData, MissingOutput
from llmc.tokens.files import write_tokens
from llmc.tokens.manifest import (
    Manifest,
    PartRecord,
    Shard,
    Split,
    TokenizerRecord,
    load_manifest,
    verify,
    write_manifest,
)
from llmc.tokens.tokenizer import load_tokenizer


@pytest.fixture
def dataset(tmp_path: Path) -> Manifest:
    byte = load_tokenizer("byte")
    train = write_tokens(tmp_path / "train.bin", [np.arange(200)], 257)
    val = write_tokens(tmp_path / "val.bin", [np.arange(20)], 257)
    manifest = Manifest(
        folder=tmp_path,
        dataset="numbers",
        tokenizer=TokenizerRecord("byte", byte.fingerprint, 257, 256, None),
        train=Split((Shard("train.bin", train.tokens, train.sha256),)),
        val=Split((Shard("val.bin", val.tokens, val.sha256),)),
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
        "left_out",
        "special",
        "part",
        "split",
        "created_by",
    ]
    assert fields["format"] == 2
    assert list(fields["tokenizer"]) == ["name", "fingerprint", "vocab_size", "eot", "file"]
    assert [list(shard) for shard in fields["train"]] == [["file", "tokens", "sha256"]]
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
                (fields[outer][0] if isinstance(fields[outer], list) else fields[outer])[inner] = (
                    value
                )
            else:
                fields[outer] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(put(format=3), id="another format"),
        pytest.param(lambda fields: fields.pop("format"), id="no format"),
        pytest.param(lambda fields: fields.pop("val"), id="no val"),
        pytest.param(put(surprise=1), id="an unknown field"),
        pytest.param(put(train=None), id="no split"),
        pytest.param(put(source=["x"]), id="a source that is not a table"),
        pytest.param(put(source__path=None), id="a source whose path is no text"),
        pytest.param(put(source__name=[1]), id="a source whose name is no text"),
        pytest.param(put(train__tokens="many"), id="tokens in words"),
        pytest.param(put(train__tokens=True), id="tokens as a truth"),
        pytest.param(put(text_bytes=-1), id="a negative size"),
        pytest.param(put(train__file="../train.bin"), id="a file elsewhere"),
        pytest.param(put(val__file="/etc/passwd"), id="an absolute file"),
        pytest.param(put(tokenizer__file=".."), id="the folder above"),
        pytest.param(put(tokenizer__fingerprint=None), id="no fingerprint"),
        pytest.param(put(special=1), id="a number for a truth"),
        pytest.param(put(train=[]), id="no files"),
        pytest.param(put(train={"file": "train.bin"}), id="files that are no list"),
        pytest.param(lambda fields: fields["train"].append(fields["val"][0]), id="a file twice"),
        pytest.param(
            lambda fields: fields["train"].append({**fields["val"][0], "file": "other.bin"}),
            id="files without numbers",
        ),
        pytest.param(put(part={"index": 1}), id="half a part"),
        pytest.param(
            put(part={"index": 1, "of": 2, "val_tokens": "all", "own_val": False}),
            id="a part of the wrong type",
        ),
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
    with pytest.raises(BadData, match="run 'llmc tokenize PATH' again"):
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
    with pytest.raises(BadData, match="cut short"):
        verify(dataset)
    path.unlink()
    with pytest.raises(BadData, match="cannot read"):
        verify(dataset)


def test_verify_finds_another_file_that_is_whole(dataset: Manifest) -> None:
    with pytest.raises(BadData, match="200 tokens, 201 in the manifest"):
        (shard,) = dataset.train.shards
        verify(replace(dataset, train=Split((replace(shard, tokens=201),))))


def test_format_1_is_still_read(dataset: Manifest) -> None:
    path = dataset.folder / "manifest.json"
    fields = json.loads(path.read_text())
    (train,), (val,) = fields["train"], fields["val"]
    old = {name: value for name, value in fields.items() if name not in ("special", "part")}
    path.write_text(json.dumps({**old, "format": 1, "train": train, "val": val}))
    assert load_manifest(dataset.folder) == dataset


def sharded(dataset: Manifest, folder: Path) -> Manifest:
    """Return a dataset like the other one, its training tokens in three files."""
    folder.mkdir()
    pieces = (np.arange(150), np.arange(150, 151), np.arange(151, 200))
    shards = []
    for number, piece in enumerate(pieces, start=1):
        file = write_tokens(folder / f"train_{number:06}.bin", [piece], 257)
        shards.append(Shard(file.path.name, file.tokens, file.sha256))
    (folder / "val.bin").write_bytes((dataset.folder / "val.bin").read_bytes())
    made = replace(dataset, folder=folder, train=Split(tuple(shards)))
    write_manifest(made)
    return made


def test_shards_are_read_back_and_found_by_their_pattern(dataset: Manifest, tmp_path: Path) -> None:
    made = sharded(dataset, tmp_path / "[shards]")
    loaded = load_manifest(made.folder)
    verify(loaded)
    assert loaded == made
    assert loaded.train.tokens == 200
    assert sorted(glob.glob(str(loaded.train_path))) == [  # noqa: PTH207
        str(made.folder / shard.file) for shard in loaded.train.shards
    ]
    path = made.folder / "train_000002.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(BadData, match=r"train_000002\.bin is not the file its manifest describes"):
        verify(loaded)


def test_a_part_may_hold_nothing(dataset: Manifest, tmp_path: Path) -> None:
    part = PartRecord(index=2, of=3, val_tokens=None, own_val=True)
    made = replace(dataset, folder=tmp_path, train=Split(()), val=Split(()), part=part)
    write_manifest(made)
    assert load_manifest(tmp_path) == made
