"""What ``llmc fetch`` knows by name: datasets, evaluations and GPT-2's weights."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import BadData, MissingOutput, Usage
from llmc.paths import Workspace
from llmc.setting import nearest


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    name: str  # its name in the workspace
    url: str | None = None  # an HTTPS address, or None for a file of the hub repository
    sha256: str | None = None  # the SHA-256 of its content in hexadecimal, where it is known


@dataclass(frozen=True)
class Dataset:
    """Files that are fetched together."""

    name: str  # how a person names them
    files: tuple[RemoteFile, ...]
    hub: str = ""  # the hub repository of files without a URL
    repo_type: str = "dataset"  # ``dataset`` or ``model``, as the hub calls it

    def folder(self, workspace: Workspace) -> Path:
        """Return the folder for the files: ``data/<name>``, or ``models/<name>`` for weights."""
        return (workspace.models if self.repo_type == "model" else workspace.data) / self.name


TINYSHAKESPEARE = Dataset(
    "tinyshakespeare",
    (
        RemoteFile(
            "tinyshakespeare.txt",
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
)
TINYSTORIES = Dataset(
    "tinystories",
    (RemoteFile("TinyStoriesV2-GPT4-train.txt"), RemoteFile("TinyStoriesV2-GPT4-valid.txt")),
    hub="roneneldan/TinyStories",
)
HELLASWAG = Dataset(
    "hellaswag",
    (
        RemoteFile(
            "hellaswag_val.jsonl",
            "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
            "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
        ),
    ),
)
FETCHED = {dataset.name: dataset for dataset in (TINYSHAKESPEARE, TINYSTORIES)}
STDLIB = "stdlib"  # the sources of Python's standard library
DOCSTRINGS = "docstrings"  # questions and answers made of its docstrings
LOCAL = (STDLIB, DOCSTRINGS)  # texts that this machine has already
NAMES = (*FETCHED, *LOCAL)
# Evaluations: questions, not training text.
EVALUATIONS = {HELLASWAG.name: HELLASWAG}

WEIGHT_FILES = (RemoteFile("config.json"), RemoteFile("model.safetensors"))
WEIGHTS = {
    name: Dataset(name, WEIGHT_FILES, f"openai-community/{name}", "model")
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
KNOWN = (*NAMES, *EVALUATIONS, *WEIGHTS)


def registered(name: str) -> Dataset:
    """Return the dataset, evaluation or weights called ``name``.

    Raises:
        Usage: nothing has that name.
    """
    found = FETCHED.get(name) or EVALUATIONS.get(name) or WEIGHTS.get(name)
    if found is None:
        raise Usage(f"nothing called '{name}' to fetch{nearest(name, list(KNOWN))}")
    return found


def fetched_files(workspace: Workspace, dataset: Dataset) -> list[Path]:
    """Return the paths of the dataset's files in the workspace.

    Raises:
        MissingOutput: a file has not been fetched.
    """
    paths = [dataset.folder(workspace) / file.name for file in dataset.files]
    for path in paths:
        if not path.is_file():
            raise MissingOutput(
                f"{workspace.shown(path)} is not there: run 'llmc fetch {dataset.name}' first"
            )
    return paths


def stdlib_folder() -> Path:
    """Return the folder of the running Python's standard library.

    Raises:
        BadData: this Python comes without its sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "os.py").is_file():
        raise BadData(
            f"this Python has no sources of its standard library in {folder}: "
            "use another Python, or other text"
        )
    return folder
