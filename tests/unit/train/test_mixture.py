"""What ``--data A --data B:0.3`` means, and what share of a run each text is."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import pytest

from llmc.cli.context import Context
from llmc.config import TrainConfig
from llmc.errors import BadData, MissingOutput, Usage
from llmc.preset import load_preset
from llmc.tokens.dataset import tokenize
from llmc.tokens.options import TokenizeOptions
from llmc.train.mixture import (
    MOST_WEIGHT,
    Named,
    Portion,
    check_rows,
    joined_name,
    named,
    place_of,
    recorded,
    seen,
    share_of_tokens,
    shares,
    spelled,
    whole_weights,
)
from llmc.train.start import find_data
from tests.helpers.workspace import write_texts


@pytest.fixture
def data(here: Context, tmp_path: Path) -> Path:
    """Return a folder of datasets: two of bytes, one of 300 tokens, and a file of no vocabulary."""
    texts = write_texts(tmp_path / "texts")
    for name, tokenizer in (("a", "byte"), ("b", "byte"), ("c", "bpe:300")):
        options = TokenizeOptions(tokenizer=tokenizer, out=here.workspace.data / name)
        tokenize(here.workspace, [str(texts)], options)
    (here.workspace.data / "bare").mkdir()
    shutil.copy(here.workspace.data / "b" / "val.bin", here.workspace.data / "bare" / "train.bin")
    return here.workspace.data


def one(here: Context, spec: str | Path) -> Named:
    (found,) = named(here.workspace, spec) or ()
    return found


@pytest.mark.parametrize(
    ("spec", "name", "weight"),
    [
        ("a", "a", 1),
        ("a:0.3", "a", Fraction(3, 10)),
        ("a:2", "a", 2),
        ("a:1e-3", "a", Fraction(1, 1000)),
        ("a:65k", "a", 65000),
    ],
)
def test_a_name_may_have_a_weight(
    here: Context, data: Path, spec: str, name: str, weight: Fraction
) -> None:
    assert one(here, spec) == Named(data / name, Fraction(weight))
    path, colon, rest = spec.partition(":")
    assert one(here, f"{data / path}{colon}{rest}") == Named(data / name, Fraction(weight))
    assert one(here, f"{data}/[{path}]/train.bin{colon}{rest}").weight == weight


def test_what_exists_wins(here: Context, data: Path, tmp_path: Path) -> None:
    odd = tmp_path / "x:1"
    shutil.copytree(data / "a", odd)
    assert one(here, str(odd)) == Named(odd)
    assert one(here, f"{odd}:2") == Named(odd, Fraction(2))
    assert one(here, f"{odd}/train.bin") == Named(odd / "train.bin")
    shutil.copytree(data / "a", tmp_path / "x")
    assert one(here, str(odd)) == Named(odd)
    assert one(here, f"{tmp_path}/x:3") == Named(tmp_path / "x", Fraction(3))


def test_a_folder_that_exists_is_no_dataset_s_name(
    here: Context, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`texts` is what the dataset was made of, not the dataset."""
    monkeypatch.chdir(tmp_path)
    tokenize(here.workspace, ["texts"], TokenizeOptions(tokenizer="byte"))
    assert one(here, "texts:2") == Named(Path("texts"), Fraction(2))
    (tmp_path / "texts").rename(tmp_path / "other")
    assert one(here, "texts:2") == Named(here.workspace.data / "texts", Fraction(2))


@pytest.mark.parametrize("path", [r"C:\data\a", "nowhere", "nowhere:x", "a/b:c"])
def test_what_is_not_there_keeps_its_name(here: Context, data: Path, path: str) -> None:
    assert one(here, path) == Named(Path(path))
    with pytest.raises(MissingOutput) as error:
        find_data(here.workspace, named(here.workspace, path))
    assert path in str(error.value)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "-0.5", "x", "", "1/3", "0.3.4"])
def test_a_weight_that_is_no_positive_number_is_refused(
    here: Context, data: Path, weight: str
) -> None:
    with pytest.raises(Usage) as error:
        named(here.workspace, f"a:{weight}")
    assert f"'{weight}'" in str(error.value) and "a:" in str(error.value)


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        (("1",), [1]),
        (("1", "0.3", "2"), [10, 3, 20]),
        (("4", "6"), [2, 3]),
        (("0.1", "0.2", "0.7"), [1, 2, 7]),
        (("1e-3", "1"), [1, 1000]),
        (("305260", "9823123"), [305260, 9823123]),
    ],
)
def test_weights_become_the_smallest_whole_numbers(
    weights: tuple[str, ...], whole: list[int]
) -> None:
    assert whole_weights([Named(Path(), Fraction(each)) for each in weights]) == whole


@pytest.mark.parametrize(
    "weights", [(0.6180339887498949, 0.38196601125010515), (1e12, 1.0), (1e-9, 3.3e11, 7.0)]
)
def test_weights_of_too_many_digits_are_rounded(weights: tuple[float, ...]) -> None:
    exact = [Fraction(str(each)) for each in weights]
    texts = [Portion(Path(), each) for each in exact]
    whole = whole_weights(texts)
    assert sum(whole) <= MOST_WEIGHT and min(whole) > 0
    for got, wanted in zip(shares(texts), exact, strict=True):
        assert got == pytest.approx(float(wanted / sum(exact)), abs=1e-9)


def test_a_mixture_has_the_texts_of_all_and_their_validation(here: Context, data: Path) -> None:
    found = find_data(here.workspace, named(here.workspace, ["a", "b:0.5", str(data / "bare/*")]))
    assert found.name == "a+b+bare"
    assert [text.path for text in found.train] == [
        data / "a/train.bin",
        data / "b/train.bin",
        data / "bare/*",
    ]
    assert [text.weight for text in found.val] == [1, Fraction(1, 2)]
    assert [text.path for text in found.val] == [data / "a/val.bin", data / "b/val.bin"]
    assert found.tokenizer is not None and found.tokenizer.name == "byte"
    other = find_data(here.workspace, named(here.workspace, ["a", "b"]), data / "a")
    assert [text.path for text in other.val] == [data / "a/val.bin"]


@pytest.mark.parametrize("specs", [["a", "c"], ["a", "b", "c:0.1"], ["bare/train.bin", "a", "c"]])
def test_texts_of_two_tokenizers_are_refused(here: Context, data: Path, specs: list[str]) -> None:
    with pytest.raises(BadData, match="tokenizers"):
        find_data(here.workspace, named(here.workspace, [str(data / spec) for spec in specs]))


@pytest.mark.parametrize("again", ["a", "a:0.5", "a/train.bin", "[ab]/train.bin", "link.bin"])
def test_a_text_that_is_named_twice_is_refused(here: Context, data: Path, again: str) -> None:
    (data / "link.bin").symlink_to(data / "a" / "train.bin")
    with pytest.raises(Usage, match="named twice"):
        find_data(here.workspace, named(here.workspace, [data / "a", str(data / again)]))


def test_names_are_told_apart(here: Context, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "a", tmp_path / "elsewhere" / "a")
    found = find_data(
        here.workspace, named(here.workspace, ["a", str(tmp_path / "elsewhere" / "a")])
    )
    assert [text.name for text in found.train] == ["a", "a-2"] == [t.name for t in found.val]
    assert joined_name(["one"]) == "one"
    assert joined_name(["long" * 9] * 3) == f"{'long' * 9}+2"


def test_a_text_that_is_shorter_than_a_row_is_refused(here: Context, data: Path) -> None:
    found = find_data(here.workspace, named(here.workspace, ["a", str(data / "bare/train.bin")]))
    small = found.train[1].tokens
    check_rows(found.train, small - 1)
    check_rows(found.train[1:], small)  # a single text is repeated
    with pytest.raises(BadData, match="less than a row"):
        check_rows(found.train, small)


def test_the_epochs_of_each_text_are_known(here: Context, data: Path) -> None:
    found = find_data(here.workspace, named(here.workspace, ["a", "b:3"])).train
    windows = -(-(found[0].tokens - 1) // 16)
    settings = TrainConfig(steps=50, batch_size=8, seq_len=16)
    one, two = seen(found, settings)
    assert (one.share, two.share) == (0.25, 0.75)
    assert one.epochs == pytest.approx(50 * 8 * 0.25 / windows)
    assert one.epochs and two.epochs == pytest.approx(3 * one.epochs)
    endless = TrainConfig(steps=10**9, batch_size=8, seq_len=16)
    assert [each.epochs for each in seen(found, endless)] == [None, None]
    assert f"{one.steps:,.0f} steps" in seen(found, endless)[0].shown(here.workspace)
    passes = TrainConfig(steps=10**9, epochs=2, batch_size=8, seq_len=16)
    assert seen(found, passes)[0].epochs == pytest.approx(2, rel=0.1)
    tokens = TrainConfig(steps=10**9, max_tokens=50 * 128, batch_size=8, seq_len=16)
    assert seen(found, tokens)[0].epochs == one.epochs


def test_validation_tokens_are_shared_by_weight() -> None:
    texts = [Portion(Path(), Fraction(weight)) for weight in (1, 3)]
    assert share_of_tokens(texts, 1000) == [250, 750]
    assert share_of_tokens(texts, 10) == [3, 8]
    assert share_of_tokens(texts, 0) == [0, 0]
    assert share_of_tokens(texts[:1], 7) == [7]


def test_run_json_names_texts_and_weights(here: Context, data: Path) -> None:
    texts = find_data(here.workspace, named(here.workspace, ["a", "b:0.3"])).train
    place = place_of(here.workspace, texts)
    assert place == [
        {"path": "data/a/train.bin", "weight": 1},
        {"path": "data/b/train.bin", "weight": 0.3},
    ]
    again = recorded(here.workspace, place)
    assert [(each.path, each.weight) for each in again] == [
        (each.path, each.weight) for each in texts
    ]
    assert spelled(place) == "data/a/train.bin:1 data/b/train.bin:0.3"
    assert place_of(here.workspace, texts[:1]) == "data/a/train.bin"
    assert recorded(here.workspace, "data/a/train.bin") == (Named(data / "a/train.bin"),)
    assert recorded(here.workspace, None) == () and place_of(here.workspace, ()) is None


@pytest.mark.parametrize(
    ("top", "table", "texts"),
    [
        ('data = ["A", "B:0.3"]', "", ("A", "B:0.3")),
        ('data = "A"', "", ("A",)),
        ("", 'data = ["A", "B:0.3"]', ("A", "B:0.3")),
        ("", "", ()),
    ],
)
def test_a_preset_may_name_texts(
    tmp_path: Path, top: str, table: str, texts: tuple[str, ...]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{top}\n[train]\n{table}\nsteps = 3\n")
    preset = load_preset(str(path))
    assert preset.data == texts and preset.train.steps == 3 and preset.val_data == ()


@pytest.mark.parametrize(
    ("top", "table"),
    [
        ("data = 3", ""),
        ("data = []", ""),
        ('data = ["A", 3]', ""),
        ('data = ""', ""),
        ('data = "A"', 'data = "B"'),
        ("", 'val_data = {a = "b"}'),
    ],
)
def test_a_preset_s_texts_that_make_no_sense_are_refused(
    tmp_path: Path, top: str, table: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{top}\n[train]\n{table}\n")
    with pytest.raises(Usage, match="data"):
        load_preset(str(path))
