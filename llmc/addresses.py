"""Addresses without their secrets: user, password, query and fragment.

Whatever llmc prints or records has passed here. A query may be a signature or a token under any
name, so none is kept.
"""

from __future__ import annotations

import re
from typing import Any

# Also as a path spells it: http:/host.
_ADDRESS = re.compile(r"\b((?:[A-Za-z][A-Za-z0-9+.-]+:/|(?:https?|ftp|s3|hf):)/+)(\S+)", re.I)
_AFTER = re.compile(r"[\"'`;:,.)\]}>]*$")  # what a sentence puts after an address
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::\d+)?")
_KEPT = re.compile(
    r"(?:alt|dl|download|export|format|inline|raw|ref|rev|revision|version)=\w{0,16}"
)
HIDDEN = "…"


def without_secrets(text: str) -> str:
    """Return a text whose addresses have no user, password, query or fragment.

    A query keeps what is known to be none, such as ``download=true``.
    """
    return _ADDRESS.sub(_public, text) if ":/" in text else text


def _public(match: re.Match[str]) -> str:
    start, rest = match.groups()
    found = _AFTER.search(rest)
    after = found[0] if found else ""
    rest = rest[: len(rest) - len(after)]
    rest = _without_user(rest)
    place, *more = re.split("[?#]", rest, maxsplit=1)
    host, slash, path = place.partition("/")
    if not host or not _HOST.fullmatch(host):
        return f"{start}{HIDDEN}{after}"
    kept = [each for each in (more[0] if more else "").split("&") if _KEPT.fullmatch(each)]
    query = f"?{'&'.join(kept)}" if kept else ""
    return f"{start}{host}{slash}{path}{query}{after}"


def _without_user(rest: str) -> str:
    """Return what follows the user and the password, which may hold any character.

    Nothing is left of an address that does not tell where the password ends.
    """
    found = False
    while "@" in rest:
        host = re.split("[/?#]", rest, maxsplit=1)[0]
        # What looks like a port may be a password up to its first '/', '?' or '#'.
        is_user = not _HOST.fullmatch(host) or "@" in re.split("[?#]", rest)[0]
        if "@" in host:
            rest = rest[host.rindex("@") + 1 :]
        elif ":" in host and (is_user or rest[len(host)] in "?#"):
            rest = rest.partition("@")[2]
        else:
            break
        found = True
    return "" if found and "@" in re.split("[?#]", rest)[0] else rest


def all_without_secrets(value: Any) -> Any:
    """Return a value of JSON whose texts have passed :func:`without_secrets`."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {without_secrets(str(k)): all_without_secrets(each) for k, each in value.items()}
    if isinstance(value, list | tuple):
        return [all_without_secrets(each) for each in value]
    return value
