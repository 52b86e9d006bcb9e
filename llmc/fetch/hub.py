"""The Hugging Face hub: the files of a repository, their hashes, their content.

The hub's own client (huggingface_hub) tells where a file is, which hash it has and which token to
send. For weights the bytes come through :mod:`llmc.fetch.http`, because the client (2.4) does not
resume, does not retry a 5xx answer and does not check the hash.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmc.errors import BadData
from llmc.fetch.cache import Entry, Pin, file_sha256
from llmc.fetch.network import Remote, persistently, refused, unreachable
from llmc.report import Report


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the hub."""

    repo: str
    name: str
    repo_type: str

    @property
    def _memo(self) -> Entry:
        """The cache entry that records what the hub announced about the file."""
        spelled = "/".join((self.repo_type, self.repo, self.name))
        return Entry(f"hub-{hashlib.sha256(spelled.encode()).hexdigest()}")

    def announced(self, hint: str, report: Report) -> Remote:
        """Ask the hub for the file's hash and size, and record them.

        Raises:
            BadData: it cannot be reached or refuses.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        _quiet()
        try:
            url = hf_hub_url(self.repo, self.name, repo_type=self.repo_type)
        except ValueError as error:
            raise BadData(f"'{self.repo}' on the hub is not a repository: {error}") from error
        remote = Remote(url, self.name, hint, headers=build_hf_headers())
        found = persistently(lambda: _metadata(remote), report=report, progress=lambda: 0)
        commit = found.commit_hash
        url = hf_hub_url(self.repo, self.name, repo_type=self.repo_type, revision=commit)
        remote = replace(remote, url=url, pin=_pin(found.etag), size=found.size)
        memo = {"repo": self.repo, "name": self.name, "commit": commit, "hash": found.etag}
        self._memo.record({**memo, "key": remote.key})
        return remote

    def remembered(self) -> tuple[Entry, Pin | None] | None:
        """Return the cache entry and the hash that the hub announced the last time."""
        memo = self._memo.origin()
        return (Entry(memo["key"]), _pin(memo.get("hash"))) if "key" in memo else None

    def in_hub_cache(self, pin: Pin | None) -> Path | None:
        """Return the file from the cache of Hugging Face's own programs, if it is there and whole.

        ``pin`` is the hash it must have; None for the version that they downloaded last.
        """
        from huggingface_hub import try_to_load_from_cache

        commit = self._memo.origin().get("commit") if pin is not None else None
        place = {"repo_type": self.repo_type, "revision": commit}
        found = try_to_load_from_cache(self.repo, self.name, **place)
        if not isinstance(found, str):
            return None
        blob = Path(found).resolve()  # named by its hash
        wanted = pin or _pin(blob.name)
        return blob if wanted is not None and wanted.of(blob) == wanted.value else None


class NoSuchRevision(BadData):
    """The repository has no revision of that name."""


@dataclass(frozen=True)
class ListedFile:
    """A file of a dataset's repository at one commit."""

    repo: str
    commit: str
    path: str
    bytes: int
    sha256: str | None  # the SHA-256 of a large file; None for a small one
    identity: str  # that SHA-256, or git's hash of a small file

    def download(self) -> Path:
        """Return the file in the hub's own cache, downloading it first if it is not there.

        Raises:
            BadData: it cannot be had, or is not the file that the hub announced.
        """
        from huggingface_hub import hf_hub_download

        with _explained(self.repo):
            path = Path(
                hf_hub_download(self.repo, self.path, repo_type="dataset", revision=self.commit)
            )
        if self.sha256 is not None and file_sha256(path) != self.sha256:
            raise BadData(f"{path} is not the file that the hub announced: remove it, run it again")
        return path


@dataclass(frozen=True)
class Listing:
    """A dataset's files, sorted by path, and what its card says of the splits (``configs``)."""

    files: list[ListedFile]
    configs: list[dict[str, Any]]


def list_dataset(repo: str, revision: str | None = None) -> Listing:
    """Ask the hub for the files of a dataset.

    Raises:
        NoSuchRevision: the repository has no such revision.
        BadData: the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    _quiet()
    with _explained(repo):
        info = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
    files = []
    for file in info.siblings or []:
        sha256 = file.lfs.sha256 if file.lfs is not None else None
        identity = sha256 or str(file.blob_id)
        found = ListedFile(repo, str(info.sha), file.rfilename, file.size or 0, sha256, identity)
        files.append(found)
    configs = info.card_data.get("configs") if info.card_data is not None else None
    return Listing(sorted(files, key=lambda file: file.path), configs or [])


def _pin(etag: Any) -> Pin | None:
    """Return the hash in an ETag of the hub; None for the ETag of another server."""
    is_hash = isinstance(etag, str) and re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", etag)
    return Pin(etag) if is_hash else None


def _quiet() -> None:
    """Silence the client's retries and its advice to log in: failures are reported here."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _metadata(remote: Remote) -> Any:
    """Ask the hub about ``remote``; turn what its client raises into one sentence.

    The network errors depend on the HTTP library that the client's version uses, so they have no
    common base class.

    Raises:
        BadData: the hub refuses.
        Passing: the hub may answer differently later.
    """
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return get_hf_file_metadata(remote.url)
    except HfHubHTTPError as error:
        answer = error.response
        after = answer.headers.get("Retry-After")
        status, reason = answer.status_code, answer.reason_phrase
        raise refused(remote, status, reason, after, "nothing was saved") from error
    except Exception as error:
        raise unreachable(remote, error) from error


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    from huggingface_hub import errors

    name = f"hf:{repo}"
    try:
        yield
    except BadData:
        raise
    except errors.GatedRepoError as error:
        raise BadData(
            f"{name} is gated: accept its terms on the hub, then set HF_TOKEN to your token"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NoSuchRevision(f"{name} has no such revision: name another, or none") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise BadData(
                f"the hub has no dataset {repo}, or it is private: check the name, or set HF_TOKEN"
            ) from error
        raise BadData(f"the hub answered {status} for {name}: try again later") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise BadData(f"cannot write {error.filename}: {error.strerror}") from error
        raise BadData(
            f"cannot reach the hub for {name} ({type(error).__name__}): try again with a network"
        ) from error
