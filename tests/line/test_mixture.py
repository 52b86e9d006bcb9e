"""``llmc train --data A --data B:0.3`` from the command line to the run's folder, and back."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import llmc as library
from llmc.errors import Usage
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import copy_of, losses, metrics, ok, runs

MIXED = ("--data", "data/texts", "--data", "songs:0.5", "--data", "data/notes/train.bin:2")
START = ("train", "--config", "tiny.toml", "--val-tokens", "300")


@pytest.fixture(scope="module")
def mixed(template: Llmc, tmp_path_factory: pytest.TempPathFactory) -> Llmc:
    """Return a workspace with three datasets of bytes; notes has no validation split."""
    llmc = copy_of(template, tmp_path_factory.mktemp("mixed") / "workspace")
    for name, options in (("songs", ("--val-fraction", "0.3")), ("notes", ("--val-tokens", "0"))):
        (llmc.workspace / f"{name}.txt").write_text(f"la la {name}, do re mi fa so. " * 40)
        ok(llmc("tokenize", f"{name}.txt", "--tokenizer", "byte", *options))
    return llmc


@pytest.fixture
def llmc(mixed: Llmc, tmp_path: Path) -> Llmc:
    return copy_of(mixed, tmp_path / "workspace")


def record(llmc: Llmc, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((llmc.workspace / "runs" / run / "run.json").read_text())
    return found


def bits(llmc: Llmc, run: str) -> bytes:
    return (llmc.workspace / "runs" / run / "model.bin").read_bytes()


def last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def test_a_run_says_what_it_sees_and_records_it(llmc: Llmc) -> None:
    done = ok(llmc("--json", *START, *MIXED, "--steps", "20"))
    assert runs(llmc) == ["texts+songs+notes-1"]
    said = done.stderr.replace("../", "")
    assert "28.6 % of the rows" in said and "14.3 % of the rows" in said
    for name in ("texts", "songs", "notes"):
        (line,) = re.findall(rf"data/{name}/train.bin: .* of the rows.*", said)
        tokens = json.loads((llmc.workspace / f"data/{name}/manifest.json").read_text())["train"]
        assert f"{tokens[0]['tokens']:,} tokens" in line and "epochs" in line
    assert re.search(r"validation: .*texts/val.bin \(66.7 %\), .*songs/val.bin \(33.3 %\)", said)
    assert "not validated" in said and "notes" in said.split("not validated")[1].splitlines()[0]
    result = last_json(done.stdout)
    assert list(result["val_parts"]) == ["texts", "songs"]
    parts = result["val_parts"]
    assert result["val_loss"] == pytest.approx((2 * parts["texts"] + parts["songs"]) / 3)

    written = record(llmc, "texts+songs+notes-1")
    assert written["data"] == [
        {"path": "data/texts/train.bin", "weight": 1},
        {"path": "data/songs/train.bin", "weight": 0.5},
        {"path": "data/notes/train.bin", "weight": 2},
    ]
    assert [each["path"] for each in written["val_data"]] == [
        "data/texts/val.bin",
        "data/songs/val.bin",
    ]
    assert [each["part"] for each in written["files"]["train"]] == [1, 2, 3]
    assert [each["dataset"] for each in written["manifest"]] == ["texts", "songs", "notes"]
    for each, dataset in zip(written["files"]["train"], written["manifest"], strict=True):
        assert each["sha256"] == dataset["train"][0]["sha256"]
    val = [line for line in metrics(llmc, "texts+songs+notes-1") if "val_loss" in line]
    assert all(len(line["val_parts"]) == 2 for line in val)
    (row,) = last_json(ok(llmc("--json", "runs")).stdout)["runs"]
    assert row["dataset"] == "texts+songs+notes"
    ok(llmc("plot", "--out", "plot.svg"))
    assert ok(llmc("sample", "--tokens", "4", "--decode")).stdout


def test_a_run_on_one_text_is_what_it_was(llmc: Llmc) -> None:
    ok(llmc(*START, "--data", "data/texts", "--run", "plain", "--steps", "6"))
    ok(llmc(*START, "--data", "data/texts:0.25", "--run", "weighed", "--steps", "6"))
    assert bits(llmc, "plain") == bits(llmc, "weighed")
    assert losses(llmc, "plain") == losses(llmc, "weighed")
    one, two = record(llmc, "plain"), record(llmc, "weighed")
    for key in ("data", "val_data", "files", "manifest"):
        assert one[key] == two[key]
    assert one["data"] == "data/texts/train.bin" and "part" not in one["files"]["train"][0]


def test_equal_weights_of_any_size_are_the_same_run(llmc: Llmc) -> None:
    for run, specs in (("a", ("data/texts:3", "songs:1.5")), ("b", ("data/texts:2", "songs"))):
        data = [word for spec in specs for word in ("--data", spec)]
        ok(llmc(*START, *data, "--run", run, "--steps", "6"))
    assert bits(llmc, "a") == bits(llmc, "b")


def test_a_preset_names_the_texts(llmc: Llmc) -> None:
    text = (llmc.workspace / "tiny.toml").read_text()
    listed = 'data = ["data/texts", "songs:0.5", "data/notes/train.bin:2"]\n'
    (llmc.workspace / "top.toml").write_text(listed + text)
    table = text.replace("[train]\n", f"[train]\n{listed}")
    (llmc.workspace / "table.toml").write_text(table)
    ok(llmc(*START, *MIXED, "--run", "typed"))
    for name in ("top", "table"):
        ok(llmc("train", "--config", f"{name}.toml", "--val-tokens", "300", "--run", name))
        assert bits(llmc, name) == bits(llmc, "typed")
    ok(llmc("train", "--config", "top.toml", "--data", "songs", "--run", "flag"))
    assert record(llmc, "flag")["data"] == "data/songs/train.bin"


def test_the_library_takes_a_list(llmc: Llmc) -> None:
    ok(llmc(*START, *MIXED, "--run", "typed"))
    config, where = str(llmc.workspace / "tiny.toml"), llmc.workspace
    notes = where / "data" / "notes"
    listed: tuple[tuple[str, Any], ...] = (
        ("strings", [f"{where}/data/texts", "songs:0.5", f"{notes}:2"]),
        ("pairs", [f"{where}/data/texts", (where / "data/songs", 0.5), (notes, 2)]),
    )
    for run, data in listed:
        model = where / "models" / "tiny-texts.bin"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLMC_CACHE_DIR", str(llmc.cache))
            result = library.train(
                data, model=model, config=config, run=run, val_tokens=300, workspace=where
            )
        assert bits(llmc, run) == bits(llmc, "typed")
        assert list(result.val_parts) == ["texts", "songs"]
    with pytest.raises(Usage, match="positive"):
        library.train([("songs", -1)], workspace=where)


def test_a_resume_is_bit_exact_at_any_step(llmc: Llmc) -> None:
    ok(llmc(*START, *MIXED, "--run", "calm", "--steps", "7"))
    for step in range(1, 7):
        run = f"a{step}"
        ok(llmc(*START, *MIXED, "--run", run, "--steps", str(step)))
        done = ok(llmc("train", "--resume", "--run", run, "--steps", "7", "--threads", "1"))
        assert "bit for bit" not in done.stderr
        assert bits(llmc, run) == bits(llmc, "calm")
        assert losses(llmc, run) == losses(llmc, "calm")


def test_a_resume_knows_data_that_was_moved_from_other_data(llmc: Llmc) -> None:
    ok(llmc(*START, *MIXED, "--run", "calm", "--steps", "6"))
    ok(llmc(*START, *MIXED, "--run", "a", "--steps", "3"))
    shutil.move(llmc.workspace / "data", llmc.workspace / "moved")
    done = llmc("train", "--resume", "--run", "a", "--steps", "6")
    assert "--data" in assert_one_sentence(done, 3)
    places = ("moved/texts", "moved/songs:0.5", "moved/notes:2")
    data = [word for place in places for word in ("--data", place)]
    done = ok(llmc("train", "--resume", "--run", "a", "--steps", "6", *data))
    assert "bit for bit" not in done.stderr
    assert bits(llmc, "a") == bits(llmc, "calm")
    assert record(llmc, "a")["data"][1] == {"path": "moved/songs/train.bin", "weight": 0.5}
    assert record(llmc, "a")["resumes"][0]["changes"] == {"steps": [3, 6]}


@pytest.mark.parametrize(
    "specs",
    [
        ("data/texts", "songs", "notes:2"),  # another weight
        ("songs:0.5", "data/texts", "notes:2"),  # another order
        ("data/texts", "songs:0.5"),
        ("data/texts",),
    ],
)
def test_another_mixture_is_a_recorded_change(llmc: Llmc, specs: Sequence[str]) -> None:
    ok(llmc(*START, *MIXED, "--run", "a", "--steps", "3"))
    before = record(llmc, "a")
    data = [word for spec in specs for word in ("--data", spec)]
    done = ok(llmc("train", "--resume", "--run", "a", "--steps", "6", *data))
    assert "bit for bit" in done.stderr and "data data/" in done.stderr.replace("../", "")
    after = record(llmc, "a")
    changes = after["resumes"][0]["changes"]
    assert changes["data"] == [before["data"], after["data"]]
    assert changes["files"][1] == after["files"]
    assert len(losses(llmc, "a")) == 6
    ok(llmc("train", "--resume", "--run", "a", "--steps", "7"))
    assert "data" not in record(llmc, "a")["resumes"][1]["changes"]


def test_a_run_on_one_text_may_go_on_on_a_mixture(llmc: Llmc) -> None:
    ok(llmc(*START, "--data", "data/texts", "--run", "a", "--steps", "3"))
    ok(llmc("train", "--resume", "--run", "a", "--steps", "6", *MIXED))
    assert len(record(llmc, "a")["data"]) == 3
    assert [len(line.get("val_parts", [])) for line in metrics(llmc, "a") if "val_loss" in line][
        -1
    ] == 2


def test_changed_texts_are_refused_by_name(llmc: Llmc) -> None:
    ok(llmc(*START, *MIXED, "--run", "a", "--steps", "3"))
    (llmc.workspace / "songs.txt").write_text("other words, and more of them. " * 60)
    ok(llmc("tokenize", "songs.txt", "--tokenizer", "byte", "--val-fraction", "0.3", "--force"))
    assert "songs" in assert_one_sentence(llmc("train", "--resume", "--steps", "6"), 1)
    assert "songs" in assert_one_sentence(llmc("eval", "a"), 1)


def test_eval_measures_what_the_run_validated_on(llmc: Llmc) -> None:
    done = last_json(ok(llmc("--json", *START, *MIXED, "--run", "a")).stdout)
    measured = last_json(ok(llmc("--json", "eval", "a", "--last", "--max-tokens", "300")).stdout)
    assert measured["loss"] == pytest.approx(done["val_loss"], rel=1e-6)
    assert [part["text"] for part in measured["parts"]] == ["texts", "songs"]
    assert measured["loss_error"] == pytest.approx(done["val_error"], rel=1e-2)
    for part in measured["parts"]:
        assert part["loss"] == pytest.approx(done["val_parts"][part["text"]], rel=1e-6)
    bits = [part["loss"] for part in measured["parts"]]
    assert min(bits) <= measured["loss"] <= max(bits) and measured["bits_per_byte"] > 0
    whole = ok(llmc("eval", "a", "--split", "train"))
    assert "notes" in whole.stdout and "57.1 %" in whole.stdout
    alone = last_json(ok(llmc("--json", "eval", "a", "--data", "data/songs")).stdout)
    assert "parts" not in alone


def test_a_dry_run_says_the_same_and_prints_the_command(llmc: Llmc) -> None:
    done = ok(llmc(*START, *MIXED, "--dry-run"))
    assert "28.6 % of the rows" in done.stderr
    (command,) = re.findall(r"llmc (train .*)", done.stderr)
    assert shlex.split(command).count("--data") == 3
    ok(llmc(*shlex.split(command)))
    plan = last_json(ok(llmc("--json", *START, *MIXED, "--dry-run")).stdout)
    assert [text["text"] for text in plan["texts"]] == ["texts", "songs", "notes"]
    assert sum(text["share"] for text in plan["texts"]) == pytest.approx(1)


def test_validation_may_be_named(llmc: Llmc) -> None:
    flags = ("--val-data", "data/songs", "--val-data", "data/texts/val.bin:3")
    done = ok(llmc("--json", *START, *MIXED, *flags, "--run", "a"))
    result = last_json(done.stdout)
    parts = result["val_parts"]
    assert list(parts) == ["songs", "texts"]
    assert result["val_loss"] == pytest.approx((parts["songs"] + 3 * parts["texts"]) / 4)
    done = ok(llmc("--json", *START, *MIXED, "--val-data", "songs", "--run", "b"))
    assert "val_parts" not in last_json(done.stdout)
    assert "not validated, because --val-data does not name it: data/texts" in done.stderr
    assert record(llmc, "b")["val_data"] == "data/songs/val.bin"


@pytest.mark.parametrize(
    ("specs", "code", "word"),
    [
        (("data/texts", "songs:0"), 2, "positive"),
        (("data/texts", "songs:-1"), 2, "positive"),
        (("data/texts:nan", "songs"), 2, "positive"),
        (("data/texts", "data/texts:2"), 2, "twice"),
        (("data/texts", "data/*/train.bin"), 2, "twice"),
        (("data/texts", "other"), 1, "tokenizers"),
        (("data/texts", "nowhere:0.3"), 3, "nowhere"),
        (("data/texts", "short"), 1, "less than a row"),
    ],
)
def test_what_makes_no_mixture_is_refused(
    llmc: Llmc, specs: Sequence[str], code: int, word: str
) -> None:
    ok(llmc("tokenize", "texts", "--tokenizer", "bpe:270", "--out", "data/other"))
    (llmc.workspace / "short.txt").write_text("short")
    ok(llmc("tokenize", "short.txt", "--tokenizer", "byte", "--val-tokens", "0"))
    if word == "twice":
        shutil.rmtree(llmc.workspace / "data/other")
    data = [word for spec in specs for word in ("--data", spec)]
    assert word in assert_one_sentence(llmc(*START, *data), code)
    assert runs(llmc) == []
