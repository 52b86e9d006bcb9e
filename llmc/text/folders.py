"""Find the files that a path or a pattern means, and name what cannot be read among them."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmc.errors import BadData, Usage
from llmc.kinds import unreadable_explained
from llmc.parsing import Unparsable, read_json
from llmc.paths import expanded
from llmc.text.examine import LeftOut
from llmc.text.reading import Reading

MANIFEST = "manifest.json"
BESIDE = ("prepared.json", "tokenizer.json", "tokenizer.tiktoken")
OWN_FILES = "is a dataset that llmc made: its own files are not text"
RUN = "run.json"
MAGIC = re.compile(r"[*?[]")
SNAPSHOTS = "snapshots"  # in the hub's cache, whose files are links to blobs beside it


@dataclass
class Found:
    """The files of a folder or pattern, sorted, and what cannot be read there."""

    files: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, path: Path, reason: str) -> None:
        """Add a file or folder that cannot be read."""
        self.left_out.append(LeftOut(str(path), reason))


def files_named(text: str, reading: Reading) -> Found | None:
    """Return the files of a path or pattern; None if nothing is there.

    Raises:
        BadData: the folder or pattern has no files, or the folder cannot be read.
    """
    path = Path(text)
    with unreadable_explained(text, "name another"):
        is_there = os.path.lexists(path) or not MAGIC.search(text)
        is_folder = is_there and _is_folder(path)
        found = _beneath(path, reading) if is_folder else _matching(text, reading)
    if found is None or found.files:
        return found
    if reading.include or reading.exclude:
        raise BadData(f"there are no files in {text} that --include and --exclude leave")
    if found.left_out:
        first = found.left_out[0]
        raise BadData(f"no file in {text} can be read: {first.name} {first.reason}")
    raise BadData(f"there are no files in {text}: name a file or folder that holds text")


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False if nothing is there."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise
        return False


def _beneath(folder: Path, reading: Reading) -> Found:
    """Return the files below a folder that are read; links to folders are not followed."""
    found = Found()

    def unreadable(error: OSError) -> None:
        place = Path(error.filename)
        if place == folder:
            raise BadData(f"cannot read {folder}: {error.strerror}; name another") from error
        _unentered(found, error)

    for place, folders, files in os.walk(folder, onerror=unreadable):
        parent = Path(place)
        inside = parent.relative_to(folder).as_posix()
        folders[:] = sorted(name for name in folders if reading.enters(f"{inside}/{name}"))
        for name in folders:
            if (parent / name).is_symlink():
                found.leave_out(parent / name, "is a link to a folder")
        wanted = (parent / name for name in files if reading.wants(f"{inside}/{name}"))
        _add(found, wanted, folder)
    found.files.sort()
    _without_own_files(found)
    datasets = [each.name for each in found.left_out if each.reason == OWN_FILES]
    if not found.files and datasets:
        error = Usage(
            f"{folder} holds {len(datasets)} datasets that llmc made, not text: name one of them"
            if len(datasets) > 1
            else f"{datasets[0]} holds a dataset that llmc made, not text: train on it, or let "
            "prepare add what it lacks"
        )
        error.commands = (
            shlex.join(["llmc", "train", "--data", datasets[0]]),
            shlex.join(["llmc", "prepare", datasets[0]]),
        )
        raise error
    return found


def _without_own_files(found: Found) -> None:
    """Leave out the files that llmc wrote into folders of datasets, and name the folders."""
    own: dict[Path, set[str]] = {}
    for file in found.files:
        if file.name == MANIFEST:
            own[file.parent] = own_files(file)
    for folder in sorted(folder for folder, names in own.items() if names):
        found.leave_out(folder, OWN_FILES)
    runs = {file.parent for file in found.files if file.name == RUN and _is_run(file)}
    for folder in sorted(runs):
        found.leave_out(folder, "is a run of llmc: its files are not text")
    found.files = [
        file
        for file in found.files
        if file.name not in own.get(file.parent, ()) and runs.isdisjoint(file.parents)
    ]


def _is_run(file: Path) -> bool:
    """Return whether a file called ``run.json`` lies beside what else a run of llmc writes."""
    return all(file.with_name(name).is_file() for name in ("config.toml", "metrics.jsonl"))


def own_files(manifest: Path) -> set[str]:
    """Return the files that llmc wrote beside a dataset's manifest; none if it is another file.

    Raises:
        BadData: it is JSON that cannot be parsed, so that nobody knows.
    """
    try:
        fields = read_json(manifest)
        shards = [each["file"] for split in ("train", "val") for each in _listed(fields[split])]
        own = {MANIFEST, fields["tokenizer"]["file"], *BESIDE, *shards}
        return {name for name in own if isinstance(name, str)}
    except Unparsable as error:
        raise BadData(f"cannot read {manifest} ({error}): remove it, or name other text") from error
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _listed(split: Any) -> list[Any]:
    return split if isinstance(split, list) else [split]  # one file in the oldest manifests


def _matching(text: str, reading: Reading) -> Found | None:
    """Return the file of this name, or the files that match a pattern."""
    if os.path.lexists(text):
        if not stat.S_ISREG(Path(text).stat().st_mode):
            raise BadData(
                f"{text} is a device, a pipe or a socket: name a file, or send its text to "
                "'llmc tokenize -'"
            )
        return Found([Path(text)])
    if not MAGIC.search(text):
        return None
    found = Found()
    wanted = (file for file in expanded(text, recursive=True) if reading.includes(str(file)))
    _add(found, wanted, start_of(text))
    _without_own_files(found)
    if "**" in text:
        # glob passes over folders that it cannot enter.
        for _ in os.walk(start_of(text), onerror=lambda error: _unentered(found, error)):
            pass
    return found


def start_of(pattern: str) -> Path:
    """Return the folder above everything that a pattern finds."""
    return Path(f"{MAGIC.split(pattern)[0]}x").parent


def _unentered(found: Found, error: OSError) -> None:
    found.leave_out(Path(error.filename), f"cannot be entered ({error.strerror})")


def _add(found: Found, places: Iterator[Path], folder: Path) -> None:
    """Add the plain files among ``places``; folders are passed over, anything else is named.

    A link is followed inside ``folder`` only: in somebody else's folder it may point to any file.
    """
    top = folder.resolve()
    inside = [top, *(each.parent / "blobs" for each in top.parents if each.name == SNAPSHOTS)]
    for place in places:
        target = place.resolve()
        if place.is_symlink() and not any(target.is_relative_to(each) for each in inside):
            found.leave_out(place, f"is a link out of {folder}, to {target}: name that file itself")
            continue
        try:
            mode = place.stat().st_mode
        except OSError as error:
            link = isinstance(error, FileNotFoundError) and place.is_symlink()
            reason = "a link to nothing" if link else error.strerror
            found.leave_out(place, f"cannot be read ({reason})")
            continue
        if stat.S_ISREG(mode):
            found.files.append(place)
        elif not stat.S_ISDIR(mode):
            found.leave_out(place, "is a device, a pipe or a socket")
