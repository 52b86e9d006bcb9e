"""Files from elsewhere: verified beside their place, then renamed into it, or not there at all."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmc.errors import BadData
from llmc.paths import written_whole

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 20
TIMEOUT_S = 30
SOURCE_HINT = "get the file elsewhere and name it with --source PATH"

# Called with the bytes that have just arrived and the size of the whole file, where it is known.
Advance = Callable[[int, int | None], None]


def silent(_step: int, _total: int | None) -> None:
    """Take no notice of progress."""


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    advance: Advance = silent,
    hint: str = SOURCE_HINT,
) -> None:
    """Download ``url`` to ``path``.

    Raises:
        BadData: the server cannot be reached or refuses, the body breaks off, it is not the file
            that ``sha256`` names, or the disk is full. Nothing is left at ``path``; ``hint`` ends
            the message.
    """
    import requests

    received = 0
    expected: int | None = None
    with written_whole(path) as partial, partial.open("wb") as file:
        digest = hashlib.sha256()
        try:
            # Without compression, Content-Length counts the bytes that arrive.
            headers = {"Accept-Encoding": "identity"}
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
                _check_answer(response, url, hint, is_pinned=sha256 is not None)
                length = response.headers.get("Content-Length", "")
                expected = int(length) if length.isdecimal() else None
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    advance(len(chunk), expected)
        except requests.RequestException as error:
            # Inside written_whole, which would take it for the disk's: it is an OSError.
            if received or isinstance(error, requests.exceptions.ChunkedEncodingError):
                raise BadData(_broken_off(url, received, expected)) from error
            raise BadData(_unreachable(url, hint, error)) from error
        if expected is not None and received != expected:
            raise BadData(_broken_off(url, received, expected))
        file.flush()
        _check(url, digest.hexdigest(), sha256, hint)


def copy(source: Path, path: Path, *, sha256: str | None = None, advance: Advance = silent) -> None:
    """Copy the local file ``source`` to ``path``.

    Raises:
        BadData: ``source`` cannot be read, is not the file that ``sha256`` names, or the disk is
            full. Nothing is left at ``path``.
    """
    digest = hashlib.sha256()
    try:
        file = source.open("rb")
        total = source.stat().st_size
    except OSError as error:
        raise BadData(
            f"cannot read {source}: {error.strerror}; name the local copy with --source PATH"
        ) from error
    with file, written_whole(path) as partial, partial.open("wb") as out:
        while chunk := file.read(CHUNK):
            out.write(chunk)
            digest.update(chunk)
            advance(len(chunk), total)
        out.flush()
        _check(str(source), digest.hexdigest(), sha256, SOURCE_HINT)


def download_from_hub(
    repo: str, filename: str, path: Path, *, repo_type: str, advance: Advance = silent
) -> None:
    """Download one file of a Hugging Face repository to ``path``.

    ``HF_ENDPOINT`` chooses a mirror of the hub. The content is held against the hash that the hub
    announces for it.

    Raises:
        BadData: the hub cannot be reached or refuses, or what arrives is not the announced file.
            Nothing is left at ``path``.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # Its retries and its advice to log in are no news to the person: what fails, fails below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    url = hf_hub_url(repo, filename, repo_type=repo_type)
    with written_whole(path) as partial, _scratch(path.parent) as folder:
        with _hub_errors(url):
            metadata = get_hf_file_metadata(url)
            got = hf_hub_download(
                repo,
                filename,
                repo_type=repo_type,
                revision=metadata.commit_hash,
                local_dir=folder,
                tqdm_class=_bar(advance),
            )
        _check_etag(url, Path(got), metadata.etag)
        Path(got).replace(partial)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".download.", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _hub_errors(url: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence.

    Its network errors come from whichever HTTP library its version uses, so they have no common
    ancestor to name here.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise BadData(
            f"{url} answered {status} {error.response.reason_phrase}; "
            f"nothing was saved: {SOURCE_HINT}"
        ) from error
    except OSError as error:
        if "onsistency check failed" in str(error):
            raise BadData(
                f"the download of {url} broke off before its end; nothing was saved: "
                "run the command again"
            ) from error
        if error.errno is not None:
            raise  # the disk's errors: written_whole words them
        raise BadData(_unreachable(url, SOURCE_HINT, error)) from error
    except Exception as error:
        raise BadData(_unreachable(url, SOURCE_HINT, error)) from error


def _bar(advance: Advance) -> type[Any]:
    """Return a progress bar class for the hub's client that draws nothing and calls ``advance``."""
    from tqdm.std import tqdm  # type: ignore[import-untyped]  # comes with the hub's client

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self.expected: int | None = kwargs.get("total")

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0), self.expected)

        # With these two the client is content with one bar; else it counts every byte twice.
        def update_transfer(self, n: float | None = 1) -> None:
            pass

        def set_transfer_postfix_str(self, *_args: Any, **_kwargs: Any) -> None:
            pass

    return Bar


def _check_answer(response: requests.Response, url: str, hint: str, *, is_pinned: bool) -> None:
    """Refuse an error page, and any web page where no checksum would tell it from the file.

    Raises:
        BadData: that is what the server sent.
    """
    if not response.ok:
        raise BadData(
            f"{url} answered {response.status_code} {response.reason}; nothing was saved: {hint}"
        )
    if not is_pinned and "html" in response.headers.get("Content-Type", ""):
        raise BadData(f"{url} answered with a web page; nothing was saved: {hint}")


def _check(origin: str, found: str, wanted: str | None, hint: str) -> None:
    if wanted is not None and found != wanted:
        raise BadData(
            f"{origin} is not the expected file: its SHA-256 is {found}, not {wanted}; "
            f"nothing was saved: {hint}"
        )


def _check_etag(url: str, path: Path, etag: str | None) -> None:
    """Hold a file against the hub's ETag: SHA-256 of a large one, git's blob hash of a small."""
    if etag is None:
        return
    if re.fullmatch("[0-9a-f]{64}", etag):
        found = file_sha256(path)
    elif re.fullmatch("[0-9a-f]{40}", etag):
        data = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:
        return
    if found != etag:
        raise BadData(
            f"{url} is not the file the hub announced: its hash is {found}, not {etag}; "
            "nothing was saved: run the command again"
        )


def _broken_off(url: str, received: int, expected: int | None) -> str:
    of = f" of {expected:,}" if expected is not None else ""
    return (
        f"the download of {url} broke off after {received:,}{of} bytes; nothing was saved: "
        "run the command again"
    )


def _unreachable(url: str, hint: str, error: Exception) -> str:
    host = urlsplit(url).netloc
    return (
        f"cannot download {url}: no answer from {host} ({type(error).__name__}); "
        f"{hint}, or try again with a network"
    )
