"""Where files live: workspace, cache, C sources; and how a file is written whole or not at all."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from llmc.errors import BadData, MissingOutput, Usage

# The files of a run's folder.
CHECKPOINT = "model.bin"  # the newest weights
BEST = "best.bin"  # those with the lowest validation loss of the saved ones
METRICS = "metrics.jsonl"
CONFIG = "config.toml"
RECORD = "run.json"
CHECKPOINTS = "checkpoints"  # a folder


@dataclass(frozen=True)
class Workspace:
    """The folder a person works in: ``data/<dataset>/``, ``models/``, ``runs/<run>/``."""

    root: Path

    @property
    def data(self) -> Path:
        """One folder per dataset: its text, token files, manifest and tokenizer."""
        return self.root / "data"

    @property
    def models(self) -> Path:
        """Model checkpoints that training starts from."""
        return self.root / "models"

    @property
    def runs(self) -> Path:
        """One folder per training run: config, metrics, checkpoint."""
        return self.root / "runs"

    def shown(self, path: Path) -> str:
        """Return ``path`` as a person in the workspace would type it."""
        try:
            return str(path.resolve().relative_to(Path.cwd()))
        except ValueError:
            return str(path)

    def datasets(self) -> list[Path]:
        """Return the folders of the datasets, the one prepared last first."""
        # Preparing again what is whole rewrites prepared.json alone.
        last: dict[Path, int] = {}
        for manifest in self.data.glob("*/manifest.json"):
            folder = manifest.parent
            marks = [manifest, *folder.glob("prepared.json")]
            last[folder] = max(path.stat().st_mtime_ns for path in marks)
        return sorted(last, key=last.__getitem__, reverse=True)

    def newest_dataset(self) -> Path:
        """Return the folder of the dataset prepared last.

        Raises:
            MissingOutput: nothing has been tokenized in this workspace.
        """
        if not (found := self.datasets()):
            raise MissingOutput(
                f"no dataset in {self.shown(self.data)}: run 'llmc prepare NAME' first "
                "('llmc prepare stdlib' needs no network)"
            )
        return found[0]


def cache_dir() -> Path:
    """Return the folder for downloads and compiled binaries (``LLMC_CACHE_DIR`` overrides it)."""
    override = os.environ.get("LLMC_CACHE_DIR")
    return Path(override) if override else platformdirs.user_cache_path("llmc")


def shipped_dir(name: str) -> Path:
    """Return ``native`` or ``configs``: inside the package in a wheel, beside it in a checkout.

    Raises:
        BadData: the installation lacks the folder.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise BadData(f"this installation of llmc lacks its {name}/ folder: reinstall llmc")


def expanded(text: str | Path, *, recursive: bool = False) -> list[Path]:
    """Return the path ``text`` if it exists, else what it finds as a glob pattern, sorted.

    Without ``recursive`` the pattern finds what it finds for the engine: ``**`` is ``*``.
    """
    if Path(text).exists():
        return [Path(text)]
    # Path.glob takes no absolute pattern.
    return [Path(name) for name in sorted(glob.glob(str(text), recursive=recursive))]  # noqa: PTH207


def free_bytes(path: Path) -> int:
    """Return the free disk space at ``path``, in bytes; the path need not exist yet.

    Raises:
        OSError: the disk cannot be asked.
    """
    place = path.absolute()
    return shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free


def _check_replaceable(path: Path) -> None:
    """Refuse a device or a pipe: the rename would put a file in its place.

    Raises:
        Usage: there is one.
    """
    with suppress(OSError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise Usage(f"{path} is a device or a pipe, which a file would replace: name a file")


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``path``, where it is made before it is renamed into place."""
    _check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield folder
    except OSError as error:
        place = str(error.filename or path)
        if place == str(path) or place.startswith(str(folder)) or error.errno == errno.ENOSPC:
            raise unwritable(path, error) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; rename it to ``path`` when the block ends well.

    A reader sees the old file or the new one, never half of it; a failure leaves nothing behind.

    Raises:
        Usage: a device or a pipe is there.
        BadData: the disk is full, or the place cannot be written.
    """
    with _scratch(path) as folder:
        partial = folder / path.name
        yield partial
        _sync(partial)
        partial.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as a JSON file, whole or not at all.

    Raises:
        BadData: the disk is full, or the place cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def link_or_copy(source: Path, path: Path) -> None:
    """Put the file ``source`` at ``path`` too: a hard link, or a copy where there can be none.

    Raises:
        BadData: the disk is full, or the place cannot be written.
    """
    with _scratch(path) as folder:
        partial = folder / path.name
        try:
            os.link(source, partial)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, partial)
            _sync(partial)
        partial.replace(path)


@contextmanager
def folder_written_whole(path: Path, names: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder to fill; rename it to ``path`` when the block ends well.

    An older folder there is replaced if it holds nothing but files called ``names``, which is what
    an earlier call wrote. A failure leaves nothing behind and the older folder as it was.

    Raises:
        Usage: something else is there.
        BadData: the disk is full, or the place cannot be written.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise Usage(f"{path} is there already and is not a folder: choose another --out")
    if path.exists() and (others := sorted({each.name for each in path.iterdir()} - {*names})):
        raise Usage(
            f"{path} is there already and holds something else ({others[0]}): choose another --out"
        )
    with _scratch(path) as scratch:
        partial, older = scratch / path.name, scratch / ".older"
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            _sync(file)
        if path.exists():
            path.replace(older)
        try:
            partial.replace(path)
        except OSError:
            if older.exists():
                older.replace(path)
            raise


def umask() -> int:
    """Return the permissions that new files are not given."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritable(path: Path, error: OSError) -> BadData:
    """Return the failure to write ``path``, as a sentence that says what to do."""
    if error.errno == errno.ENOSPC:
        return BadData(
            f"the disk is full: {path} was not written; free some space and run it again"
        )
    return BadData(f"cannot write {path}: {error.strerror or error}; choose another place")
