"""The commit that a folder is at, read without running git.

git runs programs that a repository's own configuration names (``core.fsmonitor``, filters), so for
a folder that somebody else made it is not asked. Whether files differ from the commit cannot be
told without it, and is not recorded.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from llmc.parsing import read_limited

HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
REF = re.compile(r"refs(?:/(?!\.)[^/\0\\]+)+")
LONGEST_REF = 1 << 12  # bytes
MOST_LINKS = 5  # references to references


def head_commit(folder: Path) -> str | None:
    """Return the hash of the commit in the HEAD of ``folder``'s repository; None if there is none.

    The folder may lie below a repository's top, or in a worktree. Its HEAD may be detached, and
    references may be packed.
    """
    with suppress(OSError, ValueError):
        if (place := _repository(folder.resolve())) is not None:
            return _resolved(*place)
    return None


def _repository(folder: Path) -> tuple[Path, Path] | None:
    """Return the repository's folder and the one with its references: a worktree has two."""
    for parent in (folder, *folder.parents):
        place = parent / ".git"
        if place.is_file():  # of a worktree or a submodule
            place = parent / _line(place).removeprefix("gitdir:").strip()
        if (place / "HEAD").is_file():
            common = place / "commondir"
            return place, place / _line(common) if common.is_file() else place
    return None


def _resolved(place: Path, common: Path) -> str | None:
    value = _line(place / "HEAD")
    for _ in range(MOST_LINKS):
        if HASH.fullmatch(value):
            return value
        name = value.removeprefix("ref:").strip()
        if not value.startswith("ref:") or not REF.fullmatch(name):
            return None
        found = [folder / name for folder in (place, common) if (folder / name).is_file()]
        value = _line(found[0]) if found else _packed(common, name)
    return None


def _packed(common: Path, name: str) -> str:
    for line in read_limited(common / "packed-refs").decode(errors="replace").splitlines():
        value, _, known = line.partition(" ")
        if known == name:
            return value
    return ""


def _line(path: Path) -> str:
    return read_limited(path, LONGEST_REF).decode().strip()
