"""Where files live: workspace, cache, C sources; and how a file is written whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from llmc.errors import BadData, MissingOutput, Usage

# The files of a run's folder.
CHECKPOINT = "model.bin"
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

    def newest_dataset(self) -> Path:
        """Return the folder of the dataset prepared last.

        Raises:
            MissingOutput: nothing has been tokenized in this workspace.
        """
        manifests = list(self.data.glob("*/manifest.json"))
        if not manifests:
            raise MissingOutput(
                f"no dataset in {self.shown(self.data)}: run 'llmc prepare NAME' first "
                "('llmc prepare stdlib' needs no network)"
            )
        # Preparing again what is whole rewrites prepared.json alone.
        marks = [*manifests, *(p for m in manifests for p in m.parent.glob("prepared.json"))]
        return max(marks, key=lambda path: path.stat().st_mtime_ns).parent


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


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it into place when the block ends well.

    A reader sees the old file or the new one, never half of it; a failure leaves nothing behind.

    Raises:
        BadData: the disk is full, or the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~umask())
        partial.replace(path)
    except OSError as error:
        if error.filename not in (None, name) and error.errno != errno.ENOSPC:
            raise
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def link_or_copy(source: Path, path: Path) -> None:
    """Put the file ``source`` at ``path`` too: a hard link, or a copy where there can be none.

    Raises:
        BadData: the disk is full, or the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    link = folder / path.name
    try:
        os.link(source, link)
        link.replace(path)
    except OSError:  # another file system, or one without links
        with written_whole(path) as partial:
            shutil.copyfile(source, partial)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def folder_written_whole(path: Path, names: Collection[str]) -> Iterator[Path]:
    """Yield a new folder beside ``path``; rename it into place when the block ends well.

    An older folder there makes way if it holds nothing but files called ``names``, which is what
    an earlier call wrote. A failure leaves nothing behind and the older folder as it was.

    Raises:
        Usage: something else is there.
        BadData: the disk is full, or the place cannot be written.
    """
    if path.exists() or path.is_symlink():
        others = sorted({p.name for p in path.iterdir()} - {*names}) if path.is_dir() else [path]
        if others or path.is_symlink():
            raise Usage(
                f"{path} is there already and holds something else"
                f"{f' ({others[0]})' if path.is_dir() and others else ''}: choose another --out"
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield partial
        for file in partial.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        partial.chmod(0o777 & ~umask())
        if path.exists():
            older = partial / ".older"
            path.replace(older)
            try:
                partial.replace(path)
            except OSError:
                older.replace(path)
                raise
            shutil.rmtree(path / ".older")
        else:
            partial.replace(path)
    except OSError as error:
        inside = error.filename is not None and str(error.filename).startswith(str(partial))
        if error.filename is not None and not inside and error.errno != errno.ENOSPC:
            raise
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
