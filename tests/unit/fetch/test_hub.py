from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmc.errors import BadData
from llmc.fetch import network
from llmc.fetch.download import download_from_hub
from llmc.fetch.network import Patience
from tests.helpers.report import Listener
from tests.helpers.web import COMMIT, Act, Web, serving

pytestmark = pytest.mark.usefixtures("cache", "waits")

BODY = bytes(range(251)) * 4000
SIZE = len(BODY)
REPO = "owner/name"
AT_COMMIT = f"/{REPO}/resolve/{COMMIT}/x"
AT_MAIN = f"/{REPO}/resolve/main/x"
TOKEN = "hf_a_token_that_is_nobodys"


@pytest.fixture(autouse=True)
def hub_cache(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the hub's client at the server here; return where it looks for its own cache."""
    use_hub(monkeypatch, web.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)


@pytest.fixture
def elsewhere() -> Iterator[Web]:
    with serving() as web:
        web.url = web.url.replace("127.0.0.1", "localhost")
        yield web


def get(path: Path, **settings: object) -> list[str]:
    notes: list[str] = []
    download_from_hub(REPO, "x", path, repo_type="model", report=Listener(notes.append), **settings)  # type: ignore[arg-type]
    return notes


def test_a_large_file_comes_from_elsewhere_without_the_token(
    web: Web, elsewhere: Web, place: Path, cache: Path
) -> None:
    web.put_large_on_hub(REPO, "x", BODY, f"{elsewhere.url}/blob?signature=s")
    elsewhere.put("/blob?signature=s", BODY, ETag='"of the store"')
    elsewhere.acts["/blob?signature=s"] = [Act(cut=300_000)]
    notes = get(place)
    assert place.read_bytes() == BODY
    assert elsewhere.ranges("/blob?signature=s") == [None, "bytes=300000-"]
    # The token goes to the hub, and nowhere else.
    asked = [a for a in web.requests if a.path in (AT_MAIN, AT_COMMIT)]
    assert [a.headers["authorization"] for a in asked] == [f"Bearer {TOKEN}"] * 3
    for request in elsewhere.requests:
        assert TOKEN not in str(request)
    kept = "".join(path.read_text() for path in cache.rglob("*.json"))
    assert TOKEN not in kept + str(notes)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_does_not_show_the_token(
    web: Web, place: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    web.always[AT_MAIN] = Act(status)
    with pytest.raises(BadData, match=rf"answered {status} .*; nothing was saved: ") as caught:
        get(place)
    assert TOKEN not in str(caught.value) + caplog.text
    assert ("set HF_TOKEN to a token that may read it" in str(caught.value)) == (status != 404)
    assert not place.exists()


def test_a_gate_behind_the_announcement(web: Web, place: Path) -> None:
    web.put_on_hub(REPO, "x", BODY)
    web.acts[AT_COMMIT] = [Act(403)]
    with pytest.raises(BadData, match=r"answered 403 .* set HF_TOKEN") as caught:
        get(place)
    assert TOKEN not in str(caught.value)


def test_announcements_are_asked_for_again(
    web: Web, place: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    web.put_on_hub(REPO, "x", BODY)
    web.always[AT_MAIN] = Act(429, {"Retry-After": "3"})

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            web.always[AT_MAIN] = Act(503)
        else:
            del web.always[AT_MAIN]

    monkeypatch.setattr(network, "PATIENCE", Patience(sleep=sleep))
    notes = get(place)
    assert place.read_bytes() == BODY
    assert waits[0] == 3
    assert len(waits) == len(notes) == 2


def test_a_hub_in_trouble_without_end(web: Web, place: Path, waits: list[float]) -> None:
    web.always[AT_MAIN] = Act(500)
    with pytest.raises(BadData, match="answered 500"):
        get(place)
    assert len(waits) == 5


def test_no_hub(place: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(BadData, match=r"no answer from 127\.0\.0\.1:9"):
        get(place)
    assert len(waits) == 2


def test_a_repository_that_has_no_name(place: Path, waits: list[float]) -> None:
    with pytest.raises(BadData, match=r"'a/b/c' .*not a repository"):
        download_from_hub("a/b/c", "x", place, repo_type="model")
    assert waits == []


def test_the_same_content_is_downloaded_once(web: Web, place: Path) -> None:
    web.put_on_hub(REPO, "x", BODY)
    get(place)
    notes = get(place.with_name("y"))
    assert notes == ["x is in the cache"]
    assert web.sent[AT_COMMIT] == SIZE
    get(place, fresh=True)
    assert web.sent[AT_COMMIT] == 2 * SIZE
    # Another version under the same name is another file.
    web.put_on_hub(REPO, "x", b"version two")
    get(place)
    assert place.read_bytes() == b"version two"
    assert place.with_name("y").read_bytes() == BODY


def test_a_git_hash_is_held_against(web: Web, place: Path) -> None:
    git = hashlib.sha1(b"blob %d\0" % SIZE + BODY).hexdigest()
    web.put_on_hub(REPO, "x", BODY, etag=git)
    get(place)
    assert place.read_bytes() == BODY
    web.put_on_hub(REPO, "x", BODY, etag=git[::-1])
    with pytest.raises(BadData, match=f"its git hash is {git}, not {git[::-1]}"):
        get(place)


def test_a_mirror_that_announces_no_hash(web: Web, place: Path) -> None:
    web.put_on_hub(REPO, "x", BODY, etag="something else")
    get(place)
    assert place.read_bytes() == BODY


def test_what_hugging_face_has_is_taken(web: Web, place: Path, hub_cache: Path) -> None:
    from huggingface_hub import hf_hub_download

    web.put_on_hub(REPO, "x", BODY)
    hf_hub_download(REPO, "x", cache_dir=hub_cache)
    sent = web.sent[AT_MAIN] if AT_MAIN in web.sent else web.sent[AT_COMMIT]
    assert sent == SIZE
    before = dict(web.sent)
    notes = get(place)
    assert notes == ["x is in the cache of Hugging Face's programs"]
    assert place.read_bytes() == BODY
    assert {path: n for path, n in web.sent.items() if path in (AT_MAIN, AT_COMMIT)} == {
        path: n for path, n in before.items() if path in (AT_MAIN, AT_COMMIT)
    }
    blob = next((hub_cache / "models--owner--name" / "blobs").iterdir())
    assert not blob.samefile(place)
    # A damaged one is not.
    blob.write_bytes(BODY[::-1])
    get(place)
    assert place.read_bytes() == BODY


def test_offline(web: Web, place: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download

    web.put_on_hub(REPO, "x", BODY)
    monkeypatch.setenv("LLMC_OFFLINE", "1")
    with pytest.raises(BadData, match=r"x is not in the cache, .* from owner/name on the hub"):
        get(place)
    assert web.asked == []
    hf_hub_download(REPO, "x", cache_dir=hub_cache)
    asked = len(web.asked)
    get(place)
    assert place.read_bytes() == BODY
    assert len(web.asked) == asked


def test_offline_after_online(web: Web, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.put_on_hub(REPO, "x", BODY)
    get(place)
    place.unlink()
    asked = len(web.asked)
    monkeypatch.setenv("LLMC_OFFLINE", "1")
    get(place)
    assert place.read_bytes() == BODY
    assert len(web.asked) == asked


def test_a_proxy_is_used_for_the_hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

    with serving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        use_hub(monkeypatch, "http://hub.example")
        close_session()  # it read the environment when it was made
        proxy.put_on_hub(REPO, "x", BODY)
        try:
            get(place)
        finally:
            close_session()
    assert place.read_bytes() == BODY
    assert f"http://hub.example{AT_MAIN}" in proxy.proxied
    assert f"http://hub.example{AT_COMMIT}" in proxy.proxied
