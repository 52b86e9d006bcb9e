"""What a run starts from: every token file is held to the manifest of its own dataset."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.cli.context import Context
from llmc.errors import BadData, LlmcError
from llmc.tokens.dataset import tokenize
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.template import PLAIN
from llmc.tokens.tokenizer import load_tokenizer
from llmc.train.match import check_match
from llmc.train.mixture import Named
from llmc.train.start import find_data
from llmc.weights.checkpoint import CheckpointHeader, read_header
from llmc.weights.export import export_weights
from tests.helpers.workspace import write_texts

SHAPE = {"layers": 1, "heads": 2, "channels": 16, "context": 16, "vocab_size": 300}


@pytest.fixture
def data(here: Context, tmp_path: Path) -> Path:
    """Return a folder of datasets: two of bytes, one of 300 tokens, and one of no vocabulary."""
    texts = write_texts(tmp_path / "texts")
    for name, tokenizer in (("a", "byte"), ("b", "byte"), ("c", "bpe:300")):
        tokenize(here.workspace, [str(texts)], options(here, name, tokenizer))
    bare = here.workspace.data / "bare"
    bare.mkdir()
    shutil.copy(here.workspace.data / "a" / "train.bin", bare)
    return here.workspace.data


def options(here: Context, name: str, tokenizer: str) -> TokenizeOptions:
    return TokenizeOptions(tokenizer=tokenizer, out=here.workspace.data / name)


@pytest.fixture
def model(here: Context, data: Path) -> tuple[Path, CheckpointHeader]:
    """Return a model of bytes that has rows for 300 tokens."""
    out = here.workspace.models / "m.bin"
    fingerprint = bytes.fromhex(load_tokenizer("byte").fingerprint)
    export_weights(here.workspace, "random", out=out, shape=SHAPE, fingerprint=fingerprint)
    return out, read_header(out)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("*/train.bin", None),
        ("[ac]/train.bin", None),
        ("a", "c/val.bin"),
        ("a/train.bin", "c/val.bin"),
        ("a", "c"),
        ("a", "[bc]/val.bin"),
        ("bare/train.bin", "[ac]/val.bin"),
    ],
)
def test_data_of_two_tokenizers_is_refused(
    here: Context, data: Path, train: str, val: str | None
) -> None:
    with pytest.raises(BadData) as error:
        find_data(here.workspace, data / train, data / val if val is not None else None)
    assert str(data / "c") in str(error.value)
    assert "byte" in str(error.value) and "bpe" in str(error.value)


@pytest.mark.parametrize(
    ("train", "val", "wrong"),
    [
        ("c", None, "c"),
        ("bare/train.bin", "c/val.bin", "c"),
        ("bare/*.bin", "c", "c"),
    ],
)
def test_the_model_is_held_to_every_dataset(
    here: Context, model: tuple[Path, CheckpointHeader], train: str, val: str | None, wrong: str
) -> None:
    data = here.workspace.data
    found = find_data(here.workspace, data / train, data / val if val is not None else None)
    with pytest.raises(BadData) as error:
        check_match(here.workspace, found, *model)
    assert f"data/{wrong} " in str(error.value)


@pytest.mark.parametrize(
    ("train", "val", "names"),
    [
        ("[ab]/train.bin", None, ["a", "b"]),
        ("[ab]/train.bin", "b", ["a", "b"]),
        ("a", "b/val.bin", ["a", "b"]),
        ("a", "a/val.bin", ["a"]),
        ("b", None, ["b"]),
        ("bare/train.bin", "b", ["b"]),
        ("bare/train.bin", None, []),
    ],
)
def test_data_of_one_tokenizer_is_taken(
    here: Context,
    model: tuple[Path, CheckpointHeader],
    train: str,
    val: str | None,
    names: list[str],
) -> None:
    data = here.workspace.data
    found = find_data(here.workspace, data / train, data / val if val is not None else None)
    check_match(here.workspace, found, *model)
    assert [manifest.folder.name for manifest in found.manifests] == names


def test_a_folder_to_validate_on_means_its_validation_split(here: Context, data: Path) -> None:
    (val,) = find_data(here.workspace, data / "a", data / "b").val
    assert val.path == data / "b" / "val.bin"


def test_a_link_belongs_to_the_dataset_it_leads_to(here: Context, data: Path) -> None:
    links = data / "links"
    links.mkdir()
    for name in "ac":
        (links / f"{name}.bin").symlink_to(data / name / "train.bin")
    with pytest.raises(BadData):
        find_data(here.workspace, links / "*.bin", None)
    assert find_data(here.workspace, links / "a.bin", None).manifests[0].dataset == "texts"


@pytest.mark.parametrize("val", [False, True])
def test_a_file_that_its_folder_s_manifest_does_not_name_is_refused(
    here: Context, data: Path, val: bool
) -> None:
    stray = data / "a" / "stray.bin"
    shutil.copy(data / "c" / "train.bin", stray)
    with pytest.raises(LlmcError, match=r"stray\.bin"):
        find_data(here.workspace, data / "b" if val else stray, stray if val else None)


def test_conversations_of_two_templates_are_refused(
    here: Context, data: Path, tmp_path: Path
) -> None:
    lines = [{"prompt": f"{n}?", "completion": f"It is {n}"} for n in range(40)]
    text = tmp_path / "talk.jsonl"
    text.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, template in (("chatml", "chatml"), ("plain", "plain"), ("other", "plain")):
        tokenizer = "byte" if name != "other" else str(data / "chatml")
        chosen = replace(options(here, name, tokenizer), template=template)
        tokenize(here.workspace, [str(text)], chosen)
    with pytest.raises(BadData, match="different chat templates"):
        find_data(here.workspace, (Named(data / "chatml"), Named(data / "other")))
    for names in (("a", "plain"), ("plain", "a")):
        found = find_data(here.workspace, tuple(Named(data / name) for name in names))
        assert found.tokenizer is not None and found.tokenizer.template == PLAIN
