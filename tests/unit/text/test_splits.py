"""A dataset's repository on disk keeps its splits apart, as on the hub."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from llmc.errors import Usage
from llmc.paths import Workspace
from llmc.text.reading import Reading
from llmc.text.source import AS_USUAL, Source, documents_of, open_source
from tests.helpers.texts import tar_of

CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: raw/a*
  - split: validation
    path: raw/b.jsonl
---
# Card
"""
BARE = "---\npretty_name: Rows\n---\n# Card\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(files: dict[str, str], reading: Reading = AS_USUAL) -> Source:
    for name, text in files.items():
        path = Path("rows", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return open_source(Workspace(Path()), ["rows"], reading)


def row(text: str) -> str:
    return f'{{"text": "{text}"}}\n'


@pytest.mark.parametrize(
    "files",
    [
        {"train.jsonl": row("t"), "validation.jsonl": row("v"), "test.jsonl": row("x")},
        {"train.txt": "t", "val.txt": "v", "test.txt": "x", "LICENSE": "no", "README.md": "no"},
        {"train.txt.gz": "t", "dev.txt.gz": "v", "test.txt.gz": "x"},
        {"train/1.txt": "t", "valid/1.txt": "v", "test/1.txt": "x", "README": "no"},
        {"data/train-00000-of-00001.csv": "text\nt\n", "data/validation_0.csv": "text\nv\n",
         "data/test.csv": "text\nx\n"},
        {"raw/a1.jsonl": row("t"), "raw/b.jsonl": row("v"), "README.md": CARD, "LICENSE": "no"},
        {"data/train-0.jsonl": row("t"), "data/validation-0.jsonl": row("v"),
         "data/test-0.jsonl": row("x"), "README.md": CARD.replace("raw/a", "data/train")},
        {"my_train_rows.jsonl": row("t"), "my_dev_rows.jsonl": row("v"), "README.md": BARE},
    ],
)  # fmt: skip
def test_splits_are_kept_apart(files: dict[str, str]) -> None:
    made = source(files)
    assert list(documents_of(made.parts)) == ["t"]
    assert made.val_parts is not None
    assert list(documents_of(made.val_parts)) == ["v"]
    used = {"t", "v"}
    assert {file.name for file in made.left_out} == {
        f"rows/{name}" for name, text in files.items() if used.isdisjoint(text) or "#" in text
        or text in ("no", row("x"), "x", "text\nx\n")
    }  # fmt: skip
    (record,) = made.records
    assert (record["split"], record["files"], record["validation"]["files"]) == ("train", 1, 1)
    assert "split train, 1 files; split validation, 1 files" in made.notes[0]


def test_without_validation_the_test_is_left_out_all_the_same() -> None:
    made = source({"train.jsonl": row("t"), "test.jsonl": row("x")})
    assert list(documents_of(made.parts)) == ["t"]
    assert made.val_parts is None
    assert [file.name for file in made.left_out] == ["rows/test.jsonl"]
    assert list(documents_of(source({}, Reading(include=("test*",))).parts)) == ["x"]


def test_a_card_without_splits_is_not_text() -> None:
    made = source({"rows.jsonl": row("t"), "README.md": BARE, "LICENSE.txt": "no"})
    assert list(documents_of(made.parts)) == ["t"]


@pytest.mark.parametrize(
    "files",
    [
        {"train.py": "t = 1", "test.py": "x = 1", "README.md": "read me"},
        {"notes.txt": "n", "train.txt": "trains I saw"},
        {"tests/a.txt": "a", "b.txt": "b"},
        {"README.md": "---\ntitle: Notes\n---\nHello", "a.md": "a"},
        {"training-plan.md": "p", "test-of-courage.md": "c"},
    ],
)
def test_other_folders_are_read_as_a_whole(files: dict[str, str]) -> None:
    made = source(files)
    assert sorted(documents_of(made.parts)) == sorted(files.values())
    assert made.left_out == ()


def test_code_beside_splits_is_still_text() -> None:
    made = source({"data/train.txt": "t", "data/test.txt": "x", "main.py": "main()"})
    assert sorted(documents_of(made.parts)) == ["main()", "t"]


def test_several_subsets_are_a_choice() -> None:
    card = "---\nconfigs:\n- config_name: de\n  data_files: de.jsonl\n"
    card += "- config_name: en\n  data_files: en.jsonl\n---\n"
    with pytest.raises(Usage, match="several texts"):
        source({"de.jsonl": row("a"), "en.jsonl": row("b"), "README.md": card})


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("TinyStories-train.txt", "TinyStories-valid.txt", "TinyStories-test.txt"),
        ("corpus_train_01.jsonl", "corpus_dev_2.jsonl", "corpus_test_01.jsonl"),
        ("train-of-x.csv", "validation-of-x.csv", "test-of-x.csv"),
        ("wiki_train_part1.txt", "wiki_valid.txt", "wiki_test_part-2.txt"),
        ("x-train-00001-of-00009.jsonl", "x-val.jsonl", "x-test.jsonl"),
        ("split=train/0.jsonl", "split=validation/1.jsonl", "split=test/2.jsonl"),
        ("train", "valid", "test"),
    ],
)
def test_names_that_differ_in_the_split_alone(train: str, val: str, test: str) -> None:
    files = {
        name: row(text) if name.endswith("jsonl") else f"text\n{text}\n"
        for name, text in ((train, "t"), (val, "v"), (test, "x"))
    }
    found = source(files)
    trained = "".join(documents_of(found.parts))
    assert "t" in trained.removeprefix("text") and "v" not in trained and found.val_parts
    assert "v" in "".join(documents_of(found.val_parts))
    assert [Path(each.name).name for each in found.left_out] == [Path(test).name]


@pytest.mark.parametrize(
    "names",
    [
        ("train.py", "test.py", "model.py"),
        ("the train.txt", "the test.txt"),
        ("a-train.txt", "b-test.txt"),
        ("a-dev.txt", "a-test.txt"),
        ("trains.txt", "tests.txt"),
        ("trainer", "tester"),
        ("on-training.md", "on-evaluation.md", "intro.md", "models.md", "plans.md"),
    ],
)
def test_other_names_are_one_text(names: tuple[str, ...]) -> None:
    found = source({name: f"of {name}" for name in names})
    assert len(list(documents_of(found.parts))) == len(names)
    assert found.val_parts is None


def test_a_few_files_that_are_called_like_splits_are_named() -> None:
    files = {f"{number}.md": "text" for number in range(9)}
    plain = source(files)
    few = {"sub/wiki.train.txt": "t", "sub/wiki.test.txt": "x", "sub/wiki.valid.txt": "v"}
    made = source(few)
    assert sorted(documents_of(made.parts)) == sorted([*files.values(), *few.values()])
    assert plain.notes == ()
    (note,) = made.notes
    assert all(name in note for name in few) and "read as text" in note


MANY = {f"{number}.md": "n" for number in range(30)}


@pytest.mark.parametrize(
    "few",
    [
        ("training.md", "eval.md"),
        ("training.md", "test.txt"),
        ("Training.txt", "testing.md"),
        ("train.md", "valid.md", "test.md"),
        ("ml/training.md", "ml/eval.md"),
        ("training-2.md", "test-data.md", "plans.txt"),
    ],
)
def test_a_few_notes_with_the_names_of_splits_are_notes(few: tuple[str, ...]) -> None:
    files = MANY | {name: f"of {name}" for name in few}
    made = source(files)
    assert sorted(documents_of(made.parts)) == sorted(files.values())
    assert (made.left_out, made.val_parts) == ((), None)
    (note,) = made.notes
    assert few[0] in note and few[1] in note and "read as text" in note
    Path("d.zip").write_bytes(zip_of({name: text.encode() for name, text in files.items()}))
    packed = open_source(Workspace(Path()), ["d.zip"])
    assert sorted(documents_of(packed.parts)) == sorted(files.values())
    assert (packed.left_out, packed.val_parts) == ((), None)
    assert any(few[1] in note and "read as text" in note for note in packed.notes)


@pytest.mark.parametrize(
    ("files", "others"),
    [
        ({"train.txt": "t", "valid.txt": "v", "test.txt": "x"}, MANY),
        ({"train.txt.gz": "t", "valid.txt.gz": "v", "test.txt.gz": "x"}, MANY),
        ({"train.jsonl": row("t"), "valid.jsonl": row("v"), "test.jsonl": row("x")},
         {f"notes/{number}.txt": "n" for number in range(30)}),
        ({"train/1.txt": "t", "valid/1.txt": "v", "test/1.txt": "x"},
         {f"raw/{number}.txt": "n" for number in range(30)}),
        ({"train.txt": "t", "valid.txt": "v", "test.txt": "x"},
         {f"words-{number}.txt": "n" for number in range(9)}),
        ({f"train/{number}.txt": "t" for number in range(30)} | {"valid.txt": "v", "test.txt": "x"},
         {}),
    ],
)  # fmt: skip
def test_splits_stay_apart_among_other_files(files: dict[str, str], others: dict[str, str]) -> None:
    made = source(files | others)
    assert sorted({*documents_of(made.parts)}) == sorted({*others.values()} | {"t"})
    assert list(documents_of(made.val_parts or ())) == ["v"]
    (left_out,) = made.left_out
    assert "test" in left_out.name and "split test" in left_out.reason


def test_a_dataset_with_a_card_may_have_few_files_of_other_splits() -> None:
    files = {f"raw/a{number}.jsonl": row("t") for number in range(30)}
    card = CARD.partition("  - split: validation")[0] + "---\n# Card\n"
    made = source(
        {**files, "validation.jsonl": row("v"), "test.jsonl": row("x"), "README.md": card}
    )
    assert len(list(documents_of(made.parts))) == 30
    assert list(documents_of(made.val_parts or ())) == ["v"]


def test_what_save_to_disk_wrote() -> None:
    pa = pytest.importorskip("pyarrow")
    about = {"state.json": "{}", "dataset_info.json": "{}"}
    for split in ("train", "test"):
        for name, text in about.items():
            Path("rows", split).mkdir(parents=True, exist_ok=True)
            Path("rows", split, name).write_text(text)
        table = pa.table({"text": [f"{split} row"]})
        path = f"rows/{split}/data-00000-of-00001.arrow"
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    found = source({"dataset_dict.json": "{}"})
    assert list(documents_of(found.parts)) == ["train row"]
    assert len(found.left_out) == 6
    one = open_source(Workspace(Path()), ["rows/test"])
    assert list(documents_of(one.parts)) == ["test row"]
    assert {Path(each.name).name for each in one.left_out} == {*about}


SPLITS = {
    "x/wiki.train.tokens": b"t",
    "x/wiki.valid.tokens": b"v",
    "x/wiki.test.tokens": b"x",
    "x/README.md": b"about",
    "x/notes.txt": b"n",
}


def zip_of(files: dict[str, bytes]) -> bytes:
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stored.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("d.zip", zip_of(SPLITS)),
        ("d.zip.gz", gzip.compress(zip_of(SPLITS))),
        ("d.tar", tar_of(SPLITS)),
        ("d.tgz", gzip.compress(tar_of(SPLITS))),
    ],
)
def test_an_archive_keeps_its_splits_apart(name: str, data: bytes) -> None:
    Path("f").mkdir()
    Path("f", name).write_bytes(data)
    Path("f", "other.txt").write_text("o")
    for place, texts in ((f"f/{name}", ["t", "n"]), ("f", ["t", "n", "o"])):
        found = open_source(Workspace(Path()), [place])
        assert list(documents_of(found.parts)) == texts
        assert list(documents_of(found.val_parts or ())) == ["v"]
        left_out = [Path(each.name).name for each in found.left_out]
        assert left_out == ["wiki.test.tokens", "README.md"]
        assert any("split train, 2 files; split validation, 1 files" in n for n in found.notes)
        assert found.records[0]["split"] == "train"
    alone = open_source(Workspace(Path()), [f"f/{name}"], Reading(include=("*.test.*",)))
    assert list(documents_of(alone.parts)) == ["x"]
    assert "split" not in alone.records[0]


@pytest.mark.parametrize("names", [("a.txt", "test.txt"), ("train.txt", "README.md"), ("tests/a",)])
def test_an_archive_without_splits_is_one_text(names: tuple[str, ...]) -> None:
    Path("d.zip").write_bytes(zip_of({name: name.encode() for name in names}))
    found = open_source(Workspace(Path()), ["d.zip"])
    assert list(documents_of(found.parts)) == [*names]
    assert not found.left_out
    assert found.val_parts is None
