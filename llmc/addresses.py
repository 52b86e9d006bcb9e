"""Addresses without their secrets: user, password, query and fragment.

Whatever llmc prints or records has passed here. A query may be a signature or a token under any
name, so none is kept.
"""

from __future__ import annotations

import re
from typing import Any

# Also as a path spells an address: http:/host.
_ADDRESS = re.compile(r"\b((?:[A-Za-z][A-Za-z0-9+.-]+:/|(?:https?|ftp|s3|hf):)/+)(\S+)", re.I)
_AFTER = re.compile(r"[\"'`;:,.)\]}>]*$")  # what a sentence puts after an address
_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::\d*)?")
HIDDEN = "…"


def without_secrets(text: str) -> str:
    """Return a text whose addresses have no user, password, query or fragment."""
    return _ADDRESS.sub(_public, text) if ":/" in text else text


def _public(match: re.Match[str]) -> str:
    start, rest = match.groups()
    found = _AFTER.search(rest)
    after = found[0] if found else ""
    rest = rest[: len(rest) - len(after)]
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = place.partition("/")
    if "@" in host:
        host = host.rpartition("@")[2]
    elif not _PORT.fullmatch(host):  # a password with a slash, a question mark or a hash in it
        host, slash, path = rest.rpartition("@")[2].partition("/") if "@" in rest else ("", "", "")
        host, path = re.split(r"[?#]", host, maxsplit=1)[0], re.split(r"[?#]", path, maxsplit=1)[0]
        host = host if _PORT.fullmatch(host) else ""
    return f"{start}{host or HIDDEN}{slash}{path}{after}"


def all_without_secrets(value: Any) -> Any:
    """Return a value of JSON whose texts have passed :func:`without_secrets`."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {without_secrets(str(k)): all_without_secrets(each) for k, each in value.items()}
    if isinstance(value, list | tuple):
        return [all_without_secrets(each) for each in value]
    return value
