"""Describe a path: a file, or a folder of a kind that its files show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.files import describe_file
from llmc.check.inspect.folders import describe_plain_folder, describe_run, describe_workspace
from llmc.check.inspect.foreign import describe_model_folder
from llmc.check.inspect.reading import Options
from llmc.check.inspect.tokens import describe_dataset
from llmc.errors import Usage
from llmc.paths import CHECKPOINT, CONFIG, METRICS
from llmc.tokens.manifest import FILENAME as MANIFEST
from llmc.tokens.recorded import RECORD_FILE


def describe(path: Path, options: Options) -> Description:
    """Return the description of a path; a broken file is described as far as it can be read.

    Raises:
        Usage: there is no such path, or ``options.dtype`` is given for a file with a header.
    """
    if "\0" in str(path):
        raise Usage("a path cannot hold a NUL: name a file or a folder")
    try:
        if path.is_dir():
            return _folder(path)(path, options)
        if path.name == MANIFEST and options.dtype is None and path.is_file():
            return describe_dataset(path.parent, options)
        return describe_file(path, options)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.exists():
            raise Usage(f"there is no {path}: name a file or a folder") from error
        made = Description(path, "unreadable", "a path that cannot be read")
        where = f" {error.filename}" if error.filename not in (None, str(path)) else ""
        made.wrong(f"cannot read{where or ' it'}: {error.strerror or safe_text(str(error))}")
        return made


def _folder(folder: Path) -> Callable[[Path, Options], Description]:
    """Return the function that describes a folder, chosen by the files in it."""

    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    if has(MANIFEST):
        return describe_dataset
    if has("config.json", "model.safetensors", "model.safetensors.index.json"):
        return describe_model_folder
    if has(CONFIG, METRICS) or (has(CHECKPOINT) and has(RECORD_FILE)):
        return describe_run
    if any((folder / name).is_dir() for name in ("data", "models", "runs")):
        return describe_workspace
    return describe_plain_folder
