from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llmc.errors import BadData, MissingOutput, Usage
from llmc.fetch import registry
from llmc.fetch.registry import FETCHED, Dataset, RemoteFile, stdlib_folder
from llmc.paths import Workspace
from llmc.text.source import Reading, documents_of, open_source

E_ACUTE_LATIN1 = b"caf\xe9"
ENCODE = "name its --encoding, such as cp1252, or auto, or convert it"
OLD = "is not UTF-8 text (byte 3 is 0xe9): " + ENCODE


def test_tinyshakespeare_is_cut_as_in_llm_c(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "First Citizen:\nSpeak.\n\nAll:\nSpeak, speak.\n\n\n\nEnd\n\n"
    path = workspace.data / "tinyshakespeare" / "tinyshakespeare.txt"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    file = RemoteFile(path.name, sha256=hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr(registry, "TINYSHAKESPEARE", Dataset("tinyshakespeare", (file,)))
    source = open_source(workspace, ["tinyshakespeare"])
    # llm.c puts the separator in front and behind each blank line of the text as a whole.
    separated = "|" + text.replace("\n\n", "\n\n|")
    assert "".join(f"|{document}" for document in documents_of(source.parts)) == separated
    assert source.val_tokens == 32768


def test_stories_that_are_not_utf8_are_refused(workspace: Workspace) -> None:
    folder = workspace.data / "tinystories"
    folder.mkdir(parents=True)
    (folder / "TinyStoriesV2-GPT4-train.txt").write_text("A\n<|endoftext|>\nB\n")
    (folder / "TinyStoriesV2-GPT4-valid.txt").write_bytes(E_ACUTE_LATIN1)
    with pytest.raises(BadData, match=r"valid\.txt is not UTF-8 text \(byte 3 is 0xe9\)"):
        open_source(workspace, ["tinystories"])


def test_tinystories_validates_on_its_own_text(workspace: Workspace) -> None:
    folder = workspace.data / "tinystories"
    folder.mkdir(parents=True)
    (folder / "TinyStoriesV2-GPT4-train.txt").write_text("A\n<|endoftext|>\nB\n")
    (folder / "TinyStoriesV2-GPT4-valid.txt").write_text("C\n<|endoftext|>\n")
    source = open_source(workspace, ["tinystories"])
    assert list(documents_of(source.parts)) == ["A", "B"]
    assert source.val_parts is not None
    assert list(documents_of(source.val_parts)) == ["C"]
    assert source.records[1] == {
        "name": "TinyStoriesV2-GPT4-valid.txt",
        "bytes": 16,
        "sha256": hashlib.sha256(b"C\n<|endoftext|>\n").hexdigest(),
    }


@pytest.mark.parametrize("name", sorted(FETCHED))
def test_what_is_not_fetched_names_the_command(workspace: Workspace, name: str) -> None:
    with pytest.raises(MissingOutput, match=f"run 'llmc fetch {name}' first"):
        open_source(workspace, [name])


def test_another_text_is_not_tinyshakespeare(workspace: Workspace) -> None:
    path = workspace.data / "tinyshakespeare" / "tinyshakespeare.txt"
    path.parent.mkdir(parents=True)
    path.write_text("To be, or not to be\n")
    with pytest.raises(BadData, match="llmc fetch tinyshakespeare --force"):
        open_source(workspace, ["tinyshakespeare"])


def test_stdlib_is_the_sources_of_this_python_and_nothing_else(workspace: Workspace) -> None:
    source = open_source(workspace, ["stdlib"])
    documents = list(documents_of(source.parts))
    folder = stdlib_folder()
    assert (folder / "argparse.py").read_text(encoding="utf-8") in documents
    assert not set(documents) & {
        path.read_text(encoding="utf-8")
        for pattern in ("test/test_arg*.py", "encodings/cp*.py", "pydoc_data/topics.py")
        for path in folder.glob(pattern)
    }
    assert source.total_bytes == sum(len(document.encode()) for document in documents)
    assert source.total_bytes > 5_000_000
    assert source.records[0]["files"] == len(documents)


def test_stdlib_is_shuffled_the_same_way_every_time(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib"
    (library / "json").mkdir(parents=True)
    names = [*(f"{letter}.py" for letter in "abcdefghij"), "json/tool.py", "os.py"]
    for name in names:
        (library / name).write_text(f"name = '{name}'\n")
    for skipped in ("test", "site-packages", "json/tests", "__pycache__"):
        (library / skipped).mkdir()
        (library / skipped / "x.py").write_text("x = 1\n")
    (library / "latin.py").write_bytes(b"# caf\xe9\n")
    (library / "__init__.py").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(library))
    source = open_source(workspace, ["stdlib"])
    order = [document.split("'")[1] for document in documents_of(source.parts)]
    assert sorted(order) == sorted(names)
    assert order != sorted(names)
    (library / "a.py").unlink()
    shorter = [d.split("'")[1] for d in documents_of(open_source(workspace, ["stdlib"]).parts)]
    assert shorter == [name for name in order if name != "a.py"]
    assert len(source.left_out) == 2


def test_a_python_without_sources_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    with pytest.raises(BadData, match="no sources of its standard library"):
        open_source(workspace, ["stdlib"])


def test_a_file_is_one_document_to_the_last_byte(workspace: Workspace, tmp_path: Path) -> None:
    text = "\ufeffone\r\n\r\ntwo \n"
    (tmp_path / "my.text.txt").write_bytes(text.encode())
    source = open_source(workspace, ["my.text.txt"])
    assert list(documents_of(source.parts)) == ["one\n\ntwo \n"]
    assert source.line_ends_changed
    kept = open_source(workspace, ["my.text.txt"], Reading(newlines="keep"))
    assert list(documents_of(kept.parts)) == [text.removeprefix("\ufeff")]
    assert not kept.line_ends_changed
    assert source.name == "my.text"
    (record,) = source.records
    assert record == {
        "path": str(tmp_path / "my.text.txt"),
        "bytes": len(text.encode()),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "b.txt").write_text("B")
    (folder / "a.md").write_text("A")
    (folder / "deep" / "c.txt").write_text("C")
    (folder / ".git" / "config").write_text("hidden")
    (folder / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / "old.txt").write_bytes(E_ACUTE_LATIN1)
    (folder / "empty.txt").touch()
    return folder


@pytest.mark.parametrize(
    ("inputs", "wanted", "name"),
    [
        (["notes"], ["A", "B", "C"], "notes"),
        (["notes/"], ["A", "B", "C"], "notes"),
        (["notes/*.txt"], ["B"], "notes"),
        (["notes/**/*.txt"], ["B", "C"], "notes"),
        (["notes/b.txt", "notes"], ["B", "A", "C"], "b-and-1-more"),
    ],
)
def test_folders_and_patterns_give_their_text_files_sorted(
    workspace: Workspace, folder: Path, inputs: list[str], wanted: list[str], name: str
) -> None:
    assert folder.is_dir()
    source = open_source(workspace, inputs)
    assert list(documents_of(source.parts)) == wanted
    assert source.name == name


def test_the_combined_hash_sees_content_and_names(workspace: Workspace, folder: Path) -> None:
    def record() -> object:
        return open_source(workspace, ["notes"]).records[0]["sha256"]

    before = record()
    assert record() == before
    (folder / "a.md").write_text("Z")
    changed = record()
    (folder / "a.md").write_text("A")
    (folder / "a.md").rename(folder / "a2.md")
    assert len({before, changed, record()}) == 3


def test_what_is_left_out_is_named(workspace: Workspace, folder: Path) -> None:
    assert folder.is_dir()
    assert [file.record() for file in open_source(workspace, ["notes"]).left_out] == [
        {"file": "notes/empty.txt", "reason": "is empty"},
        {"file": "notes/image.png", "reason": "is not UTF-8 text (it is an image)"},
        {"file": "notes/old.txt", "reason": OLD},
    ]


def test_a_file_named_outright_must_be_text(workspace: Workspace, folder: Path) -> None:
    for name in ("old.txt", "image.png"):
        with pytest.raises(BadData, match=f"{name} is not UTF-8 text"):
            open_source(workspace, [str(folder / name)])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tinyshakespear", "did you mean 'tinyshakespeare'"), ("qqq", "known: tinyshakespeare")],
)
def test_an_unknown_name_is_a_usage_error(workspace: Workspace, name: str, hint: str) -> None:
    with pytest.raises(Usage, match=f"no dataset, file or folder '{name}'.*{hint}"):
        open_source(workspace, [name])


def test_a_dataset_s_name_leads_to_its_folder(workspace: Workspace) -> None:
    (workspace.data / "mine").mkdir(parents=True)
    with pytest.raises(Usage, match=r"'mine'; there is a dataset in data/mine: name that folder"):
        open_source(workspace, ["mine"])


def test_a_run_s_own_files_are_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = ("run.json", "config.toml", "metrics.jsonl", "checkpoints/note.txt")
    for name in (*(f"runs/one/{file}" for file in files), "a.txt", "app/run.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for place in (".", "**"):
        found = open_source(Workspace(tmp_path), [place])
        assert list(documents_of(found.parts)) == ["a.txt", "app/run.json"]
        assert [each.name for each in found.left_out] == ["runs/one"]


def test_json_among_many_files_is_said_to_be_plain_text(workspace: Workspace) -> None:
    folder = workspace.root / "j"
    folder.mkdir()
    for name in ("a.json", "b.json"):
        (folder / name).write_text('{"text": "x"}')
    found = open_source(workspace, ["j"])
    assert list(documents_of(found.parts)) == ['{"text": "x"}'] * 2
    assert "a.json and 1 more are read as plain text (--documents record" in found.notes[0]
    asked = open_source(workspace, ["j"], Reading(documents="record"))
    assert (list(documents_of(asked.parts)), asked.notes) == (["x", "x"], ())
    assert open_source(workspace, ["j"], Reading(documents="file")).notes == ()


def test_names_and_paths_do_not_mix(workspace: Workspace, folder: Path) -> None:
    with pytest.raises(Usage, match="'stdlib' is a dataset"):
        open_source(workspace, [str(folder), "stdlib"])


def test_a_dataset_takes_no_wishes(workspace: Workspace) -> None:
    reading = Reading(documents="line", include=("*.py",))
    with pytest.raises(Usage, match="leave out --include, --documents"):
        open_source(workspace, ["stdlib"], reading)


def test_nothing_to_read_is_bad_data(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    with pytest.raises(BadData, match="there are no files in hollow"):
        open_source(workspace, ["hollow"])
    with pytest.raises(BadData, match=r"no files in .*\.rst"):
        open_source(workspace, [f"{folder}/*.rst"])
    (folder / "deep" / "c.txt").unlink()
    (folder / "deep" / "x.png").write_bytes(b"\0")
    (folder / "deep" / "y.png").write_bytes(b"\0")
    with pytest.raises(BadData, match=r"none of the 2 files .*x\.png is not UTF-8 text"):
        open_source(workspace, [str(folder / "deep")])


def test_a_file_named_twice_is_read_once_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    source = open_source(Workspace(tmp_path), [".", str(tmp_path / "a.txt"), "./b.txt"])
    assert sorted(documents_of(source.parts)) == ["a", "b"]
