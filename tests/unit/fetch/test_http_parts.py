"""An interrupted download resumes, and only with the rest of the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmc.errors import BadData, Interrupted
from llmc.fetch import network
from llmc.fetch.cache import Entry, Pin
from llmc.fetch.download import download
from llmc.fetch.network import Patience
from tests.helpers.bodies import BODY, SHA256, SIZE
from tests.helpers.report import Listener
from tests.helpers.web import Act, Web

pytestmark = pytest.mark.usefixtures("cache", "waits")


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


def test_a_web_page_does_not_cost_what_had_arrived(web: Web, place: Path) -> None:
    web.put("/x", BODY, ETag='"one"')
    login = Act(page=b"<html>Please log in</html>", headers={"Content-Type": "text/html"})
    web.acts["/x"] = [Act(cut=300_000), login]
    with pytest.raises(BadData, match="with a web page; 300,000 of 1,004,000 bytes are kept"):
        download(f"{web.url}/x", place)
    download(f"{web.url}/x", place)
    assert place.read_bytes() == BODY
    assert web.sent["/x"] == SIZE + len(login.page or b"")


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
