"""Detect the kind of a path, and describe it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmc.check.inspect.checkpoints import describe_checkpoint
from llmc.check.inspect.datasets import describe_dataset
from llmc.check.inspect.debug_states import describe_debug_state
from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.folders import describe_plain_folder, describe_workspace
from llmc.check.inspect.foreign import describe_model_folder, describe_safetensors
from llmc.check.inspect.gguf_files import describe_gguf
from llmc.check.inspect.reading import Asked
from llmc.check.inspect.run_folders import describe_run
from llmc.check.inspect.texts import (
    describe_json,
    describe_other,
    describe_text,
    describe_zip,
)
from llmc.check.inspect.tokens import describe_tokens
from llmc.check.inspect.training_states import describe_training_state
from llmc.check.inspect.vocabularies import describe_tiktoken, describe_tokenizer_bin
from llmc.errors import Usage
from llmc.paths import CHECKPOINT, CONFIG, METRICS
from llmc.tokens.manifest import FILENAME as MANIFEST
from llmc.tokens.tokenizer import RECORD_FILE

Describer = Callable[[Path, Asked], Description]

FILES: dict[str, Describer] = {
    "tokens": describe_tokens,
    "checkpoint": describe_checkpoint,
    "debug_state": describe_debug_state,
    "training_state": describe_training_state,
    "tokenizer.bin": describe_tokenizer_bin,
    "tokenizer.tiktoken": describe_tiktoken,
    "gguf": describe_gguf,
    "safetensors": describe_safetensors,
    "zip": describe_zip,
    "json": describe_json,
    "text": describe_text,
}


def describe(path: Path, asked: Asked) -> Description:
    """Return the description of a path; a broken file is described as far as it can be read.

    Raises:
        Usage: there is no such path, or ``asked.dtype`` is given for a file with a header.
    """
    if "\0" in str(path):
        raise Usage("a path cannot hold a NUL: name a file or a folder")
    try:
        if path.is_dir():
            return _folder(path)(path, asked)
        return _file(path, asked)
    except FileNotFoundError as error:
        if not path.exists():
            raise Usage(f"there is no {path}: name a file or a folder") from error
        return _unreadable(path, error)
    except OSError as error:
        return _unreadable(path, error)


def _file(path: Path, asked: Asked) -> Description:
    kind = kind_of(path)
    if asked.dtype is not None:
        return _without_header(path, kind, asked)
    if kind == "json" and path.name == MANIFEST:
        return describe_dataset(path.parent, asked)
    return FILES[kind](path, asked) if kind in FILES else describe_other(path, kind)


def _unreadable(path: Path, error: OSError) -> Description:
    made = Description(path, "unreadable", "a path that cannot be read")
    where = f" {error.filename}" if error.filename not in (None, str(path)) else ""
    made.wrong(f"cannot read{where or ' it'}: {error.strerror or safe_text(str(error))}")
    return made


def _without_header(path: Path, kind: str, asked: Asked) -> Description:
    """Describe a headerless token file.

    Raises:
        Usage: the file has a header, or is none that could hold tokens.
    """
    if kind in FILES and kind not in ("text", "json", "zip", "tokenizer.tiktoken"):
        raise Usage(
            f"{path} has a header of its own ({kind}): leave out --dtype, which is for token "
            "files without one"
        )
    if kind in ("special", "empty"):
        raise Usage(f"{path} is {'empty' if kind == 'empty' else 'no regular file'}: no tokens")
    return describe_tokens(path, asked)


def _folder(folder: Path) -> Describer:
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
