"""Files of Hugging Face's hub.

Its client says where a file is, which hash it has, and which token to show. The bytes come as from
any other server: the client (huggingface_hub 2.4) keeps no part of a file that broke off, does not
try again what a server refuses with 5xx, and does not look at the hash.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmc.errors import BadData
from llmc.fetch.cache import Entry, Pin
from llmc.fetch.http import PASSING
from llmc.fetch.network import Note, Passing, persistently
from llmc.fetch.remote import Remote, unreachable


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the hub."""

    repo: str
    name: str
    repo_type: str

    @property
    def _memo(self) -> Entry:
        """Where the cache remembers what the hub announced of the file."""
        spelled = "/".join((self.repo_type, self.repo, self.name))
        return Entry(f"hub-{hashlib.sha256(spelled.encode()).hexdigest()}")

    def announced(self, hint: str, note: Note) -> Remote:
        """Ask the hub for the file's hash and size, and remember them.

        Raises:
            BadData: it cannot be reached or refuses.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        # Its advice to log in is no news to the person: what fails, fails below.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            url = hf_hub_url(self.repo, self.name, repo_type=self.repo_type)
        except ValueError as error:
            raise BadData(f"'{self.repo}' on the hub is no repository: {error}") from error
        metadata = persistently(
            lambda: _asked(url, hint, lambda: get_hf_file_metadata(url)),
            note=note,
            progress=lambda: 0,
        )
        remote = Remote(
            url=hf_hub_url(
                self.repo, self.name, repo_type=self.repo_type, revision=metadata.commit_hash
            ),
            name=self.name,
            hint=hint,
            pin=_pin(metadata.etag),
            size=metadata.size,
            headers=build_hf_headers(),
        )
        self._memo.record(
            {
                "repo": self.repo,
                "name": self.name,
                "commit": metadata.commit_hash,
                "hash": metadata.etag,
                "key": remote.key,
            }
        )
        return remote

    def remembered(self) -> tuple[Entry, Pin | None] | None:
        """Return the place in the cache and the hash of what the hub announced the last time."""
        memo = self._memo.origin()
        return (Entry(memo["key"]), _pin(memo.get("hash"))) if "key" in memo else None

    def in_hub_cache(self, pin: Pin | None) -> Path | None:
        """Return the file in the cache of Hugging Face's own programs, where it is there and whole.

        Args:
            pin: the hash it must have; None takes the version that they last saw.
        """
        from huggingface_hub import try_to_load_from_cache

        commit = self._memo.origin().get("commit") if pin is not None else None
        found = try_to_load_from_cache(
            self.repo, self.name, repo_type=self.repo_type, revision=commit
        )
        if not isinstance(found, str):
            return None
        blob = Path(found).resolve()  # named by its hash
        wanted = pin or _pin(blob.name)
        return blob if wanted is not None and wanted.of(blob) == wanted.value else None


def _pin(etag: Any) -> Pin | None:
    """Return the hash that an ETag of the hub is; None for one of another server."""
    is_hash = isinstance(etag, str) and re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", etag)
    return Pin(etag) if is_hash else None


def _asked(url: str, hint: str, ask: Callable[[], Any]) -> Any:
    """Ask the hub; turn what its client raises into one sentence.

    Its network errors come from whichever HTTP library its version uses, so they have no common
    ancestor to name here.

    Raises:
        BadData: the hub refuses.
        Passing: it may not the next time.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except HfHubHTTPError as error:
        status = error.response.status_code
        answer = f"answered {status} {error.response.reason_phrase}".rstrip()
        if status in (401, 403):
            hint = f"where it needs an account, set HF_TOKEN to a token that may read it; or {hint}"
        final = BadData(f"{url} {answer}; nothing was saved: {hint}")
        if status not in PASSING:
            raise final from error
        after = error.response.headers.get("Retry-After", "")
        wait_s = float(after) if after.isdecimal() else None
        host = urlsplit(url).netloc
        raise Passing(f"{host} {answer}", final, wait_s=wait_s) from error
    except Exception as error:
        raise unreachable(url, urlsplit(url).netloc, hint, error) from error
