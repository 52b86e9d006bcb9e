from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from llmc.errors import BadData, Interrupted, Usage
from llmc.fetch import network
from llmc.fetch.cache import Entry, Pin
from llmc.fetch.download import copy, download
from llmc.fetch.network import Patience
from tests.conftest import NO_NETWORK
from tests.helpers.report import Listener
from tests.helpers.web import Act, Web, serving

pytestmark = pytest.mark.usefixtures("cache", "waits")

BODY = bytes(range(251)) * 4000  # a megabyte without a period of a power of two
SIZE = len(BODY)
SHA256 = hashlib.sha256(BODY).hexdigest()


def left(folder: Path) -> list[str]:
    """Return what lies in the cache, but for the locks."""
    files = (folder / "downloads").glob("*")
    return sorted(path.name for path in files if not path.name.endswith(".lock"))


def test_a_cut_is_gone_on_with(web: Web, place: Path, waits: list[float]) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.acts["/x"] = [Act(cut=300_000), Act(cut=200_000)]
    notes: list[str] = []
    steps: list[tuple[int, int | None]] = []
    download(f"{web.url}/x", place, report=Listener(notes.append, lambda *step: steps.append(step)))
    assert place.read_bytes() == BODY
    assert web.ranges("/x") == [None, "bytes=300000-", "bytes=500000-"]
    assert [asked.headers.get("if-range") for asked in web.requests] == [None, '"one"', '"one"']
    assert web.sent["/x"] == SIZE
    assert sum(step for step, _ in steps) == SIZE
    assert {total for _, total in steps} == {SIZE}
    assert all("the download of x broke off: trying again in 1 s (1 of 5)" in n for n in notes)
    assert len(notes) == 2
    # After bytes have come, patience is as it was in the beginning.
    assert all(0.5 <= wait <= 1 for wait in waits)


def test_a_part_is_gone_on_with_by_the_next_call(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put("/x", BODY, Last_Modified="Sat, 21 Nov 2026 10:00:00 GMT")
    web.acts["/x"] = [Act(cut=400_000)]
    monkeypatch.setenv("LLMC_RETRIES", "0")
    with pytest.raises(
        BadData,
        match=r"broke off .*; 400,000 of 1,004,000 bytes are kept: the same command goes on",
    ):
        download(f"{web.url}/x", place)
    assert not place.exists()
    steps: list[int] = []
    download(f"{web.url}/x", place, report=Listener(advance=lambda step, _: steps.append(step)))
    assert place.read_bytes() == BODY
    assert web.ranges("/x") == [None, "bytes=400000-"]
    assert web.requests[1].headers["if-range"] == "Sat, 21 Nov 2026 10:00:00 GMT"
    assert steps[0] == 400_000  # what was there is told first
    assert web.sent["/x"] == SIZE


@pytest.mark.parametrize("kind", ["etag", "careless", "date", "weak", "none"])
def test_a_file_that_changed_between_the_parts_starts_anew(
    web: Web, place: Path, kind: str
) -> None:
    first, second = {
        "etag": ({"ETag": '"one"'}, {"ETag": '"two"'}),
        "careless": ({"ETag": '"one"'}, {"ETag": '"two"'}),
        "date": (
            {"Last_Modified": "Sat, 21 Nov 2026 10:00:00 GMT"},
            {"Last_Modified": "Sat, 21 Nov 2026 11:00:00 GMT"},
        ),
        "weak": ({"ETag": 'W/"one"'}, {"ETag": 'W/"one"'}),
        "none": ({}, {}),
    }[kind]
    changed = BODY[::-1]
    if kind == "careless":
        web.careless.add("/x")  # it answers If-Range with the rest of another file
    web.put("/x", BODY, **first)
    web.acts["/x"] = [Act(cut=300_000)]
    steps: list[int] = []

    def note(_message: str) -> None:
        web.put("/x", changed, **second)

    download(f"{web.url}/x", place, report=Listener(note, lambda step, _: steps.append(step)))
    assert place.read_bytes() == changed
    assert sum(steps) == SIZE
    if kind in ("weak", "none"):  # nothing would tell one file from the other
        assert web.ranges("/x") == [None, None]


@pytest.mark.parametrize("kind", ["shorter", "longer", "elsewhere"])
def test_a_rest_that_does_not_fit_starts_anew(web: Web, place: Path, kind: str) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.acts["/x"] = [Act(cut=300_000)]
    if kind == "elsewhere":
        web.acts["/x"].append(Act(headers={"Content-Range": "bytes 5-9/1004000"}))
        web.rangeless.add("/x")

    def note(_message: str) -> None:
        # The same ETag, another size: If-Range does not tell.
        web.files["/x"] = {"shorter": BODY[:200_000], "longer": BODY + BODY, "elsewhere": BODY}[
            kind
        ]

    download(f"{web.url}/x", place, report=Listener(note))
    assert place.read_bytes() == web.files["/x"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(web: Web, place: Path) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.rangeless.add("/x")
    web.acts["/x"] = [Act(cut=300_000)]
    steps: list[int] = []
    download(f"{web.url}/x", place, report=Listener(advance=lambda step, _: steps.append(step)))
    assert place.read_bytes() == BODY
    assert web.sent["/x"] == SIZE + 300_000
    assert sum(steps) == SIZE


def test_a_server_that_always_cuts_wears_patience_out(
    web: Web, place: Path, waits: list[float]
) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.rangeless.add("/x")
    web.always["/x"] = Act(cut=300_000)
    with pytest.raises(BadData, match=r"broke off .*; 300,000 of 1,004,000 bytes are kept"):
        download(f"{web.url}/x", place)
    assert len(web.asked) == 6
    for wait, longest in zip(waits, (1, 2, 4, 8, 16), strict=True):
        assert longest / 2 <= wait <= longest
    assert not place.exists()


def test_every_wait_counts(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    # It lets through a little every time: failures never are in a row.
    web.put("/x", BODY, ETag='"one"')
    web.always["/x"] = Act(cut=1000)
    monkeypatch.setattr(network, "PATIENCE", Patience(sleep=waits.append, total_s=10))
    with pytest.raises(BadData, match="broke off"):
        download(f"{web.url}/x", place)
    assert 8 < sum(waits) <= 10


def test_chunks_without_a_length(web: Web, place: Path) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.chunked.add("/x")
    web.acts["/x"] = [Act(cut=300_000)]
    download(f"{web.url}/x", place)
    assert place.read_bytes() == BODY
    assert web.ranges("/x") == [None, "bytes=300000-"]


def test_compression_that_nobody_asked_for_is_undone(web: Web, place: Path) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.zipped.add("/x")
    web.acts["/x"] = [Act(cut=1000)]
    download(f"{web.url}/x", place, sha256=SHA256)
    assert place.read_bytes() == BODY
    # The middle of a compressed body is no place to go on from.
    assert web.ranges("/x") == [None, None]
    assert {asked.headers["accept-encoding"] for asked in web.requests} == {"identity"}


def test_damaged_compression_is_bad_data(web: Web, place: Path, cache: Path) -> None:
    web.always["/x"] = Act(page=b"no gzip at all" * 99, headers={"Content-Encoding": "gzip"})
    with pytest.raises(BadData, match="broke off"):
        download(f"{web.url}/x", place)
    assert not place.exists()


@pytest.mark.parametrize("pinned", [True, False])
def test_more_bytes_announced_than_sent(web: Web, place: Path, pinned: bool) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.lengths["/x"] = SIZE + 5
    with pytest.raises(BadData, match=r"broke off|is not the expected file"):
        download(f"{web.url}/x", place, sha256=SHA256 if pinned else None)
    assert not place.exists()


def test_fewer_bytes_announced_than_sent(web: Web, place: Path, cache: Path) -> None:
    web.put("/x", BODY)
    web.lengths["/x"] = SIZE - 5
    with pytest.raises(BadData, match="is not the expected file"):
        download(f"{web.url}/x", place, sha256=SHA256)
    assert left(cache) == []


def test_another_content_is_refused(web: Web, place: Path, cache: Path) -> None:
    web.put("/x", BODY[:-1] + b"?")
    with pytest.raises(BadData, match=f"its SHA-256 is .*, not {SHA256}; nothing was saved"):
        download(f"{web.url}/x", place, sha256=SHA256)
    assert not place.exists()
    assert left(cache) == []
    assert len(web.asked) == 1  # it would be no other the next time


def test_a_part_of_another_content_is_dropped(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put("/wrong", BODY[::-1])
    web.put("/x", BODY)
    web.acts["/wrong"] = [Act(cut=300_000)]
    monkeypatch.setenv("LLMC_RETRIES", "0")
    with pytest.raises(BadData, match="300,000 of"):
        download(f"{web.url}/wrong", place, sha256=SHA256)
    notes: list[str] = []
    download(f"{web.url}/x", place, sha256=SHA256, report=Listener(notes.append))
    assert place.read_bytes() == BODY
    assert len(notes) == 1 and "part of x does not fit" in notes[0]


def test_a_mirror_goes_on_with_what_another_began(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.put("/mirror/x", BODY, ETag='"of the mirror"')
    web.acts["/x"] = [Act(cut=300_000)]
    monkeypatch.setenv("LLMC_RETRIES", "0")
    with pytest.raises(BadData, match="broke off"):
        download(f"{web.url}/x", place, sha256=SHA256)
    download(f"{web.url}/mirror/x", place, sha256=SHA256)
    assert place.read_bytes() == BODY
    assert web.ranges("/mirror/x") == ["bytes=300000-"]
    assert "if-range" not in web.requests[1].headers


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(
    web: Web, place: Path, waits: list[float], status: int
) -> None:
    web.put("/x", BODY)
    web.acts["/x"] = [Act(status), Act(status)]
    notes: list[str] = []
    download(f"{web.url}/x", place, report=Listener(notes.append))
    assert place.read_bytes() == BODY
    assert [f"answered {status}" in note for note in notes] == [True, True]
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451, 501, 204, 206])
def test_a_refusal_is_final(web: Web, place: Path, cache: Path, status: int) -> None:
    web.put("/x", BODY)
    web.always["/x"] = Act(status)
    with pytest.raises(BadData, match=rf"/x answered {status} .*; nothing was saved"):
        download(f"{web.url}/x", place)
    assert len(web.asked) == 1
    assert not place.exists()
    assert left(cache) == []


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_respected(web: Web, place: Path, waits: list[float], status: int) -> None:
    web.put("/x", BODY)
    web.acts["/x"] = [Act(status, {"Retry-After": "7"}), Act(status, {"Retry-After": "nonsense"})]
    notes: list[str] = []
    download(f"{web.url}/x", place, report=Listener(notes.append))
    assert waits[0] == 7
    assert 1 <= waits[1] <= 2
    assert "asks to wait 7 s: trying again in 7 s" in notes[0]


def test_retry_after_may_be_a_date(web: Web, place: Path, waits: list[float]) -> None:
    web.put("/x", BODY)
    web.acts["/x"] = [Act(503, {"Retry-After": "Sat, 21 Nov 2015 10:00:00 GMT"})]
    download(f"{web.url}/x", place)
    assert waits == [0]


def test_a_wait_beyond_patience_is_not_begun(web: Web, place: Path, waits: list[float]) -> None:
    web.always["/x"] = Act(429, {"Retry-After": "7200"})
    with pytest.raises(BadData, match=r"answered 429 .* and asks to wait 7200 s"):
        download(f"{web.url}/x", place)
    assert waits == []


def test_trouble_with_no_end_ends(web: Web, place: Path) -> None:
    web.always["/x"] = Act(500)
    with pytest.raises(BadData, match="answered 500"):
        download(f"{web.url}/x", place)
    assert len(web.asked) == 6


def test_a_connection_that_closes_without_an_answer_is_tried_again(web: Web, place: Path) -> None:
    web.put("/x", BODY)
    web.acts["/x"] = [Act(silent=True)]
    download(f"{web.url}/x", place)
    assert place.read_bytes() == BODY


def test_a_server_that_stalls_is_left(
    web: Web, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.acts["/x"] = [Act(pause_s=2)]
    monkeypatch.setattr("llmc.fetch.http.TIMEOUT_S", (5, 0.5))
    download(f"{web.url}/x", place)
    assert place.read_bytes() == BODY
    assert web.ranges("/x") == [None, "bytes=16384-"]


def test_slow_bytes_are_waited_for(web: Web, place: Path) -> None:
    web.put("/x", BODY[:100_000])
    web.always["/x"] = Act(pause_s=0.02)
    steps: list[int] = []
    download(f"{web.url}/x", place, report=Listener(advance=lambda step, _: steps.append(step)))
    assert place.read_bytes() == BODY[:100_000]
    assert len(steps) > 3  # and told as they come
    assert len(web.asked) == 1


def test_nobody_there_is_tried_twice_more(place: Path, waits: list[float]) -> None:
    notes: list[str] = []
    with pytest.raises(BadData, match=r"no answer from 127\.0\.0\.1:9 \(ConnectionError\); get"):
        download("http://127.0.0.1:9/x", place, report=Listener(notes.append))
    assert len(waits) == len(notes) == 2


def test_retries_are_a_setting(web: Web, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.always["/x"] = Act(500)
    monkeypatch.setenv("LLMC_RETRIES", "1")
    with pytest.raises(BadData, match="answered 500"):
        download(f"{web.url}/x", place)
    assert len(web.asked) == 2
    monkeypatch.setenv("LLMC_RETRIES", "often")
    with pytest.raises(Usage, match="LLMC_RETRIES is 'often'"):
        download(f"{web.url}/x", place)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "ftp://x/y", "http://\nx/"])
def test_an_address_that_is_none(url: str, place: Path, waits: list[float]) -> None:
    with pytest.raises(BadData):
        download(url, place)
    assert waits == []


def test_redirects_are_followed_and_a_circle_is_not(web: Web, place: Path) -> None:
    web.put("/x", BODY)
    web.put("/a", b"")
    web.redirects["/a"] = "/x"
    download(f"{web.url}/a", place)
    assert place.read_bytes() == BODY
    web.put("/b", b"")
    web.redirects["/b"] = f"{web.url}/b"
    with pytest.raises(BadData, match="TooManyRedirects"):
        download(f"{web.url}/b", place)


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("kind", ["declared", "undeclared"])
def test_a_web_page_is_not_kept(
    web: Web, place: Path, cache: Path, kind: str, pinned: bool
) -> None:
    page = b"\n <!DOCTYPE html><title>Please log in</title>"
    headers = {"Content-Type": "text/html; charset=utf-8"} if kind == "declared" else {}
    web.always["/x"] = Act(page=page, headers=headers)
    with pytest.raises(BadData, match=r"answered with a web page|is not the expected file"):
        download(f"{web.url}/x", place, sha256=SHA256 if pinned else None)
    assert not place.exists()
    assert left(cache) == []


def test_a_web_page_does_not_cost_what_had_arrived(web: Web, place: Path) -> None:
    web.put("/x", BODY, ETag='"one"')
    login = Act(page=b"<html>Please log in</html>", headers={"Content-Type": "text/html"})
    web.acts["/x"] = [Act(cut=300_000), login]
    with pytest.raises(BadData, match="with a web page; 300,000 of 1,004,000 bytes are kept"):
        download(f"{web.url}/x", place)
    download(f"{web.url}/x", place)
    assert place.read_bytes() == BODY
    assert web.sent["/x"] == SIZE + len(login.page or b"")


def test_a_web_page_that_is_asked_for_is_one(web: Web, place: Path) -> None:
    web.put("/x.html", b"<html></html>", Content_Type="text/html")
    download(f"{web.url}/x.html", place)
    assert place.read_bytes() == b"<html></html>"


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


def test_ctrl_c_keeps_what_has_arrived(web: Web, place: Path) -> None:
    web.put("/x", BODY, ETag='"one"')
    arrived = 0

    def advance(step: int, _total: int | None) -> None:
        nonlocal arrived
        arrived += step
        if arrived > 200_000:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"stopped; .* of 1,004,000 bytes are kept: the same"):
        download(f"{web.url}/x", place, report=Listener(advance=advance))
    assert not place.exists()
    download(f"{web.url}/x", place)
    assert place.read_bytes() == BODY
    assert web.ranges("/x")[1] == f"bytes={arrived}-"


def test_ctrl_c_while_waiting(web: Web, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(network, "PATIENCE", Patience(sleep=sleep))
    web.always["/x"] = Act(500)
    with pytest.raises(Interrupted, match="nothing was saved"):
        download(f"{web.url}/x", place)


def test_a_whole_part_is_not_asked_for_again(web: Web, place: Path) -> None:
    # The process was killed after the last byte, before the file got its name.
    web.put("/x", BODY)
    entry = Entry(Pin(SHA256).key)
    entry.part.parent.mkdir(parents=True)
    entry.begin_part({"fingerprint": "of another address", "size": SIZE})
    entry.part.write_bytes(BODY)
    download(f"{web.url}/x", place, sha256=SHA256)
    assert place.read_bytes() == BODY
    assert web.asked == []


@pytest.mark.parametrize("record", [b"", b"[]", b"{", b"\xff", b'{"size": "many"}'])
def test_a_broken_record_starts_anew(web: Web, place: Path, cache: Path, record: bytes) -> None:
    web.put("/x", BODY)
    entry = Entry(Pin(SHA256).key)
    entry.part.parent.mkdir(parents=True)
    entry.part.write_bytes(BODY[::-1][:1000])
    entry.part.with_name(f"{entry.key}.part.json").write_bytes(record)
    download(f"{web.url}/x", place, sha256=SHA256)
    assert place.read_bytes() == BODY


def test_a_part_beyond_the_end_starts_anew(web: Web, place: Path) -> None:
    web.put("/x", BODY)
    entry = Entry(Pin(SHA256).key)
    entry.part.parent.mkdir(parents=True)
    entry.begin_part({"fingerprint": "of another address", "size": None})
    entry.part.write_bytes(BODY + BODY)
    download(f"{web.url}/x", place, sha256=SHA256)
    assert place.read_bytes() == BODY
    assert web.ranges("/x") == [f"bytes={2 * SIZE}-", None]


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


def test_secrets_in_an_address_stay_there(web: Web, place: Path, cache: Path) -> None:
    address = web.url.replace("http://", "http://me:pass-word@")
    web.put("/x?signature=sig-nature", BODY, ETag='"one"')
    web.acts["/x?signature=sig-nature"] = [Act(cut=1000)]
    notes: list[str] = []
    download(f"{address}/x?signature=sig-nature", place, report=Listener(notes.append))
    assert web.requests[0].headers["authorization"].startswith("Basic ")
    web.always["/x?signature=sig-nature"] = Act(404)
    with pytest.raises(BadData) as caught:
        download(f"{address}/x?signature=sig-nature", place)
    kept = "".join(path.read_text() for path in cache.rglob("*.json"))
    assert json.loads(kept)["url"] == f"{web.url}/x"
    for text in (kept, str(caught.value), *notes):
        assert "pass-word" not in text
        assert "sig-nature" not in text


def test_a_certificate_that_is_not_trusted_is_final(
    place: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_session: object, url: str, **_settings: object) -> None:
        raise requests.exceptions.SSLError(f"Max retries exceeded with url: {url}")

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(BadData, match=r"certificate of x\.example is not trusted") as caught:
        download("https://x.example/x?signature=sig-nature", place)
    assert "sig-nature" not in str(caught.value)
    assert waits == []


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with serving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        yield proxy


def test_a_proxy_is_used(proxy: Web, place: Path) -> None:
    proxy.put("/x", BODY)
    download("http://files.example/x", place)
    assert place.read_bytes() == BODY
    assert proxy.proxied == ["http://files.example/x"]


def test_no_proxy_is_respected(web: Web, proxy: Web, place: Path) -> None:
    assert "127.0.0.1" in NO_NETWORK["NO_PROXY"]
    web.put("/x", BODY)
    download(f"{web.url}/x", place)
    assert proxy.proxied == []


def test_waits_grow_up_to_a_limit_and_are_not_the_same_for_all() -> None:
    limits = replace(Patience(), first_s=1, longest_s=10)
    for failures, longest in ((1, 1), (2, 2), (4, 8), (5, 10), (60, 10)):
        waits = {limits.wait_s(failures) for _ in range(20)}
        assert len(waits) > 10
        assert all(longest / 2 <= wait <= longest for wait in waits)


def test_a_copy_is_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    copy(tmp_path / "a", tmp_path / "b", sha256=SHA256)
    assert (tmp_path / "b").read_bytes() == BODY
    assert (tmp_path / "b").stat().st_nlink == 1
