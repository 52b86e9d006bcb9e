"""Links in a folder of texts are followed inside it, and named where they lead out."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.errors import BadData
from llmc.paths import Workspace
from llmc.text.source import Source, documents_of, open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("a secret")
    folder = tmp_path / "texts"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("text a")
    (folder / "inner" / "b.txt").write_text("text b")
    (folder / "in.txt").symlink_to("inner/b.txt")
    (folder / "out.txt").symlink_to("../secret.txt")
    (folder / "inner" / "up.txt").symlink_to("../../secret.txt")
    (folder / "far.txt").symlink_to("/etc/passwd")
    return folder


def opened(place: Path | str) -> tuple[list[str], Source]:
    source = open_source(Workspace(Path()), [str(place)])
    return list(documents_of(source.parts)), source


def test_a_link_out_of_a_folder_is_named_and_not_read(folder: Path) -> None:
    texts, source = opened(folder)
    assert sorted(texts) == ["text a", "text b", "text b"]
    reasons = {Path(each.name).name: each.reason for each in source.left_out}
    assert set(reasons) == {"out.txt", "up.txt", "far.txt"}
    assert all("link out of" in reason for reason in reasons.values())
    assert "/etc/passwd" in reasons["far.txt"]


@pytest.mark.parametrize("pattern", ["*.txt", "**/*.txt"])
def test_so_is_one_that_a_pattern_finds(folder: Path, pattern: str) -> None:
    texts, source = opened(folder / pattern)
    assert "a secret" not in texts
    assert {"out.txt", "far.txt"} <= {Path(each.name).name for each in source.left_out}


def test_a_link_that_is_named_itself_and_a_link_to_the_folder_are_followed(folder: Path) -> None:
    assert opened(folder / "out.txt")[0] == ["a secret"]
    (folder.parent / "linked").symlink_to(folder)
    assert sorted(opened(folder.parent / "linked")[0]) == ["text a", "text b", "text b"]


def test_a_folder_of_links_out_says_so(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "secret.txt").write_text("a secret")
    (tmp_path / "texts" / "x.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(BadData, match="link out of"):
        opened(tmp_path / "texts")


def test_the_hub_s_cache_keeps_its_files_beside_its_links(tmp_path: Path) -> None:
    cache = tmp_path / "datasets--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "1").mkdir(parents=True)
    (cache / "blobs" / "0f").write_text("text of the hub")
    (cache / "snapshots" / "1" / "x.txt").symlink_to("../../blobs/0f")
    assert opened(cache / "snapshots" / "1")[0] == ["text of the hub"]
