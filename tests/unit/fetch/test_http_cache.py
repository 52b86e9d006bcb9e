"""The cache: links, copies, validators, no network, full disks."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from llmc.errors import BadData
from llmc.fetch.download import copy, download
from tests.helpers.bodies import BODY, SHA256, SIZE
from tests.helpers.report import Listener
from tests.helpers.web import Act, Web

pytestmark = pytest.mark.usefixtures("cache", "waits")


def test_the_place_is_a_link_to_the_cache(web: Web, place: Path, cache: Path) -> None:
    web.put("/x", BODY)
    download(f"{web.url}/x", place, sha256=SHA256)
    kept = cache / "downloads" / f"sha256-{SHA256}"
    assert kept.samefile(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o444
    download(f"{web.url}/x", place, sha256=SHA256)
    download(f"{web.url}/elsewhere", place.with_name("y"), sha256=SHA256)
    assert kept.stat().st_nlink == 3
    assert len(web.asked) == 1
    assert (
        list(place.parent.iterdir()) in ([place, place.with_name("y")],)
        or len(list(place.parent.iterdir())) == 2
    )


def test_without_links_the_place_is_a_copy(
    web: Web, place: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_names: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr("llmc.paths.os.link", link)
    web.put("/x", BODY)
    download(f"{web.url}/x", place, sha256=SHA256)
    assert place.read_bytes() == BODY
    assert place.stat().st_nlink == 1
    assert list(place.parent.iterdir()) == [place]


def test_a_damaged_cache_is_not_believed(web: Web, place: Path, cache: Path) -> None:
    web.put("/x", BODY)
    download(f"{web.url}/x", place, sha256=SHA256)
    kept = cache / "downloads" / f"sha256-{SHA256}"
    kept.chmod(0o644)
    kept.write_bytes(BODY[:-1])
    download(f"{web.url}/x", place, sha256=SHA256)
    assert place.read_bytes() == BODY
    assert len(web.asked) == 2


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_an_unchanged_file_is_not_sent_again(web: Web, place: Path, header: str) -> None:
    web.put("/x", BODY)
    web.headers["/x"] = {header: "Sat, 21 Nov 2026 10:00:00 GMT"}
    download(f"{web.url}/x", place)
    notes: list[str] = []
    download(f"{web.url}/x", place.with_name("y"), report=Listener(notes.append))
    assert place.with_name("y").read_bytes() == BODY
    assert web.sent["/x"] == SIZE
    assert len(web.asked) == 2
    assert "in the cache is still the newest" in notes[0]
    web.put("/x", b"a new version")
    download(f"{web.url}/x", place)
    assert place.read_bytes() == b"a new version"
    assert place.with_name("y").read_bytes() == BODY


def test_fresh_asks_for_all_of_it(web: Web, place: Path) -> None:
    web.put("/x", BODY, ETag='"one"')
    download(f"{web.url}/x", place)
    download(f"{web.url}/x", place, fresh=True)
    assert web.sent["/x"] == 2 * SIZE


@pytest.mark.parametrize("variable", ["LLMC_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("pinned", [True, False])
def test_offline_takes_the_cache_only(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch, variable: str, pinned: bool
) -> None:
    web.put("/x", BODY)
    sha256 = SHA256 if pinned else None
    monkeypatch.setenv(variable, "1")
    with pytest.raises(BadData, match=r"x is not in the cache, and the network is switched off"):
        download(f"{web.url}/x", place, sha256=sha256)
    assert web.asked == []
    monkeypatch.setenv(variable, "0")
    download(f"{web.url}/x", place, sha256=sha256)
    place.unlink()
    monkeypatch.setenv(variable, "true")
    download(f"{web.url}/x", place, sha256=sha256)
    assert place.read_bytes() == BODY
    assert len(web.asked) == 1


def test_an_unreachable_server_and_a_copy_in_the_cache(web: Web, place: Path) -> None:
    web.put("/x", BODY)
    download(f"{web.url}/x", place)
    web.always["/x"] = Act(404)
    with pytest.raises(BadData, match="--offline takes the copy that is in the cache"):
        download(f"{web.url}/x", place)


def test_a_disk_without_room_is_not_filled(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    web.put("/x", BODY)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("llmc.paths.shutil.disk_usage", lambda _: usage._replace(free=9))
    with pytest.raises(BadData, match=r"x takes 1\.0 MB more, and the disk of .* has 0\.0 MB free"):
        download(f"{web.url}/x", place)


def test_a_disk_that_fills_up_keeps_the_part(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit on file sizes is the nearest to a full disk that needs no disk.
    import resource
    import signal

    web.put("/x", BODY, ETag='"one"')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(
            BadData, match=r"cannot go on writing x in .*File too large.*; 500,000 of .* are kept"
        ):
            download(f"{web.url}/x", place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    download(f"{web.url}/x", place)
    assert place.read_bytes() == BODY
    assert web.ranges("/x")[1] == "bytes=500000-"


def test_a_cache_that_cannot_be_written(
    web: Web, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMC_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(BadData, match=r"cannot write in the cache.*set LLMC_CACHE_DIR"):
        download(f"{web.url}/x", place)


def test_a_copy_is_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    copy(tmp_path / "a", tmp_path / "b", sha256=SHA256)
    assert (tmp_path / "b").read_bytes() == BODY
    assert (tmp_path / "b").stat().st_nlink == 1
