from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from llmc.errors import BadData, MissingOutput, Usage
from llmc.paths import Workspace, cache_dir, link_or_copy, shipped_dir, written_whole


def test_paths_are_shown_as_they_would_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Workspace(Path()).shown(Path("runs/a")) == "runs/a"
    assert Workspace(tmp_path).shown(tmp_path / "runs" / "a") == "runs/a"
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert Workspace(tmp_path).shown(tmp_path / "runs") == str(tmp_path / "runs")


def test_the_newest_dataset_is_the_one_whose_manifest_was_written_last(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(MissingOutput, match="'llmc prepare stdlib' needs no network"):
        workspace.newest_dataset()
    for name, when in (("a", 5), ("b", 9), ("c", 7)):
        (workspace.data / name).mkdir(parents=True)
        (workspace.data / name / "manifest.json").touch()
        os.utime(workspace.data / name / "manifest.json", (when, when))
    (workspace.data / "unfinished").mkdir()
    assert workspace.newest_dataset() == workspace.data / "b"
    # Prepared again, with nothing left to do.
    (workspace.data / "a" / "prepared.json").touch()
    assert workspace.newest_dataset() == workspace.data / "a"


def test_the_cache_may_be_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(tmp_path))
    assert cache_dir() == tmp_path
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("LLMC_CACHE_DIR")
        else:
            monkeypatch.setenv("LLMC_CACHE_DIR", unset)
        assert cache_dir().name == "llmc"


def test_what_ships_is_found() -> None:
    assert (shipped_dir("native") / "main.c").is_file()
    with pytest.raises(BadData, match="lacks its nothing/ folder: reinstall llmc"):
        shipped_dir("nothing")


def test_a_file_is_there_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.txt"
    with written_whole(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.parent.parent == path.parent  # the same file system
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as partial:
        partial.write_text("half of the n")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "the disk is full: .*x.txt was not written"), (errno.EIO, "cannot write")],
)
def test_a_disk_that_fails_is_bad_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def fail(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("llmc.paths.os.fsync", fail)
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(BadData, match=said), written_whole(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_bad_data(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BadData, match="choose another place"),
        written_whole(tmp_path / "file" / "x"),
    ):
        pass


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_put_elsewhere_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def link(*_names: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if not links:
        monkeypatch.setattr("llmc.paths.os.link", link)
    source, path = tmp_path / "source", tmp_path / "new" / "x.txt"
    source.write_text("new")
    for _ in range(2):  # renaming a link over another of the same file does nothing
        link_or_copy(source, path)
        assert path.read_text() == "new"
        assert path.samefile(source) == links
        assert list(path.parent.iterdir()) == [path]
    (tmp_path / "file").touch()
    with pytest.raises(BadData, match="choose another place"):
        link_or_copy(source, tmp_path / "file" / "x")


def test_another_file_s_failure_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "x"):
        (tmp_path / "missing").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_file_takes_the_place_of_no_device(tmp_path: Path) -> None:
    """A rename onto /dev/null would leave the machine without it."""
    pipe, source = tmp_path / "pipe", tmp_path / "source"
    os.mkfifo(pipe)
    source.touch()
    with pytest.raises(Usage, match="name a file"), written_whole(pipe) as partial:
        partial.touch()
    with pytest.raises(Usage, match="name a file"):
        link_or_copy(source, pipe)
    assert pipe.is_fifo()
    assert {*tmp_path.iterdir()} == {pipe, source}
