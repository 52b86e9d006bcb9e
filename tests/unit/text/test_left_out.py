"""What cannot be read among many files is left out and named; what is named outright is refused."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc.errors import BadData
from llmc.paths import Workspace
from llmc.text.examine import LeftOut, lines_of
from llmc.text.reading import Reading
from llmc.text.source import documents_of, open_source

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"
# A file that is not text, and words of the reason.
FAULTY = {
    "empty.txt": (b"", "is empty"),
    "empty.jsonl": (b"", "is empty"),
    "latin.txt": (b"caf\xe9", "byte 3 is 0xe9"),
    "wide.md": ("wide\n".encode("utf-16"), "UTF-16"),
    "wide.jsonl": ('{"text": "wide"}\n'.encode("utf-16"), "UTF-16"),
    "image.png": (b"\x89PNG\r\n\x1a\n\0\0", "it is an image"),
    "image.jpg": (b"\xff\xd8\xff\xe0\0", "it is an image"),
    "photo.txt": (b"\xff\xd8\xff\xe0\0", "it is an image"),
    "pointer.txt": (POINTER, "git lfs pull"),
    "pointer.parquet": (POINTER, "git lfs pull"),
    "pointer.txt.gz": (POINTER, "git lfs pull"),
    "page.jsonl": (b"<!doctype html><p>404", "is a web page"),
    "old.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "Microsoft Office"),
    "misnamed.txt": (gzip.compress(b"text"), "gzip-compressed"),
    "damaged.docx": (b"PK\x03\x04 and no more", "is not DOCX, or damaged"),
    "damaged.pdf": (b"%PDF-1.4 and no more", "is not PDF, or damaged"),
    "damaged.epub": (b"PK\x03\x04 and no more", "is not EPUB, or damaged"),
    "damaged.zip": (b"PK\x03\x04 and no more", "is not a zip, or damaged"),
    "damaged.tar": (b"no tar at all" * 99, "is not a tar, or damaged"),
    "damaged.txt.gz": (b"no gzip", "is not gz data, or damaged"),
    "damaged.parquet": (b"PAR1 and no more", "is not parquet, or damaged"),
    "numbers.csv": (b"a,b\n1,2\n", "there: 'a', 'b'"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(here: Path) -> Path:
    folder = here / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("A")
    return folder


def left_out(*inputs: str) -> dict[str, str]:
    return {file.name: file.reason for file in open_source(Workspace(Path()), [*inputs]).left_out}


@pytest.mark.parametrize("name", FAULTY)
def test_one_of_many_is_named_and_alone_it_is_refused(folder: Path, name: str) -> None:
    data, words = FAULTY[name]
    (folder / name).write_bytes(data)
    source = open_source(Workspace(Path()), ["notes"])
    assert list(documents_of(source.parts)) == ["A"]
    ((found, reason),) = left_out("notes", "notes/*").items()
    assert found == f"notes/{name}"
    assert words in reason
    with pytest.raises(BadData, match=name):
        list(documents_of(open_source(Workspace(Path()), [f"notes/{name}"]).parts))


def packed(form: str, files: dict[str, bytes]) -> bytes:
    stored = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return stored.getvalue()
    with tarfile.open(fileobj=stored, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(stored.getvalue()) if form == "tar.gz" else stored.getvalue()


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_files_in_an_archive_are_named_too(here: Path, form: str) -> None:
    files = {name: data for name, (data, _) in FAULTY.items() if "gz" not in name}
    texts = {"a.txt": b"A", "deep/b.jsonl": b'{"text": "B"}\n', "c.csv": b"n,text\n1,C\n"}
    (here / f"x.{form}").write_bytes(packed(form, {**files, **texts, ".hidden": b"no"}))
    source = open_source(Workspace(Path()), [f"x.{form}"])
    assert list(documents_of(source.parts)) == ["A", "B", "C"]
    reasons = {file.name.partition(":")[2]: file.reason for file in source.left_out}
    assert set(reasons) == set(files)
    for name, reason in reasons.items():
        in_archive = "in an archive" if name in ("damaged.zip", "damaged.tar") else FAULTY[name][1]
        assert in_archive in reason


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_an_archive_without_text_says_why(here: Path, form: str) -> None:
    (here / f"x.{form}").write_bytes(packed(form, {"a.png": FAULTY["image.png"][0]}))
    with pytest.raises(BadData, match=r"x\.\S+ holds no text: .*a\.png is not .* an image"):
        open_source(Workspace(Path()), [f"x.{form}"])


def test_links_pipes_and_what_is_not_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "locked").mkdir()
    (folder / "inner").mkdir()
    (folder / "secret.txt").write_text("S")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "linked").symlink_to("inner")
    os.mkfifo(folder / "pipe")
    scandir, opening = os.scandir, Path.open

    def refused(place: Any = ".") -> Any:
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    def closed(path: Path, *args: Any, **more: Any) -> Any:
        if path.name == "secret.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return opening(path, *args, **more)

    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.setattr(Path, "open", closed)
    assert left_out("notes") == {
        "notes/gone.txt": "cannot be read (a link to nothing)",
        "notes/linked": "is a link to a folder",
        "notes/locked": "cannot be entered (Permission denied)",
        "notes/pipe": "is a device, a pipe or a socket",
        "notes/secret.txt": "cannot be read (Permission denied)",
    }
    for name, words in {
        "secret.txt": "Permission denied",
        "locked": "Permission denied",
        "pipe": "is a device",
        "gone.txt": "No such file",
    }.items():
        with pytest.raises(BadData, match=f"{name}.*{words}"):
            open_source(Workspace(Path()), [f"notes/{name}"])


def test_a_parquet_table_of_numbers_among_texts_is_left_out(folder: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a": [1, 2], "b": [3, 4]}), folder / "x.parquet")
    assert "no column 'text'" in left_out("notes")["notes/x.parquet"]
    with pytest.raises(BadData, match=r"--field \(there: 'a', 'b'\)"):
        open_source(Workspace(Path()), ["notes/x.parquet"])
    with pytest.raises(BadData, match="no column 'story'"):  # a wish is not passed over
        open_source(Workspace(Path()), ["notes"], Reading(field=("story",)))


def test_a_terminal_shows_ten() -> None:
    def lines(count: int) -> Iterator[str]:
        yield from lines_of([LeftOut(f"{at}.bin", "is empty") for at in range(count)])

    assert list(lines(0)) == []
    assert list(lines(1)) == ["left out 1 file:", "  0.bin is empty"]
    assert len(list(lines(10))) == 11
    assert list(lines(14))[-1] == "  and 4 more, which manifest.json lists"
