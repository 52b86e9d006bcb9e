from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from llmc.errors import BadData
from llmc.fetch import network
from llmc.fetch.download import download
from llmc.fetch.network import Patience
from tests.conftest import NO_NETWORK
from tests.helpers.bodies import BODY, SHA256, SIZE, left
from tests.helpers.report import Listener
from tests.helpers.web import Act, Web, serving

pytestmark = pytest.mark.usefixtures("cache", "waits")


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
    # The middle of a compressed body is not a place to go on from.
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


def test_a_web_page_that_is_asked_for_is_one(web: Web, place: Path) -> None:
    web.put("/x.html", b"<html></html>", Content_Type="text/html")
    download(f"{web.url}/x.html", place)
    assert place.read_bytes() == b"<html></html>"


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
