"""Which answers are asked for again, how long llmc waits, and what is final."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmc.errors import BadData, Usage
from llmc.fetch.download import download
from llmc.fetch.network import Patience
from tests.helpers.bodies import BODY, left
from tests.helpers.report import Listener
from tests.helpers.web import Act, Web

pytestmark = pytest.mark.usefixtures("cache", "waits")


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


def test_waits_grow_up_to_a_limit_and_are_not_the_same_for_all() -> None:
    limits = replace(Patience(), first_s=1, longest_s=10)
    for failures, longest in ((1, 1), (2, 2), (4, 8), (5, 10), (60, 10)):
        waits = {limits.wait_s(failures) for _ in range(20)}
        assert len(waits) > 10
        assert all(longest / 2 <= wait <= longest for wait in waits)
