"""What the shell completes: names in the workspace, presets, datasets and tokenizers.

Where nothing here matches, the shell completes file names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmc.cli.catalogue import COMMANDS
from llmc.paths import Workspace


@dataclass(frozen=True)
class Item:
    """A completion as Typer's shells print it."""

    value: str
    help: str | None = None
    type: str = "plain"


Values = Callable[[Workspace], Iterable[str]]


def runs(workspace: Workspace) -> list[str]:
    """Return the names of the runs, the newest first."""
    folders = [path for path in workspace.runs.glob("*") if path.is_dir()]
    return [path.name for path in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)]


def prepared(workspace: Workspace) -> list[str]:
    """Return the datasets' folders, as a person in this folder types them."""
    return [workspace.shown(path.parent) for path in workspace.data.glob("*/manifest.json")]


def presets(_workspace: Workspace) -> list[str]:
    """Return the names of the presets."""
    from llmc.preset import preset_names

    return preset_names()


def datasets(_workspace: Workspace) -> list[str]:
    """Return the names of the texts that llmc can fetch."""
    from llmc.fetch.registry import NAMES

    return list(NAMES)


def fetchable(workspace: Workspace) -> list[str]:
    """Return all that ``llmc fetch`` knows by name."""
    from llmc.fetch.registry import EVALUATIONS
    from llmc.weights.sources import PUBLISHED

    return [*datasets(workspace), *EVALUATIONS, *PUBLISHED]


def weights(workspace: Workspace) -> list[str]:
    """Return the names of weights: published models, presets' random ones and runs."""
    from llmc.weights.sources import PUBLISHED

    random = [f"random:{name}" for name in presets(workspace)]
    return [*PUBLISHED, *random, *runs(workspace)]


def tokenizers(workspace: Workspace) -> list[str]:
    """Return the names of tokenizers, and the tokenizers of the datasets."""
    own = [workspace.shown(path) for path in workspace.data.glob("*/tokenizer.json")]
    return ["byte", "gpt2", "bpe:4096", *own]


def commands(_workspace: Workspace) -> list[str]:
    """Return the names of the commands."""
    return list(COMMANDS)


# By command and parameter; under no command, for every command that has the parameter.
VALUES: dict[tuple[str | None, str], Values] = {
    (None, "run"): runs,
    (None, "config"): presets,
    (None, "data"): prepared,
    (None, "tokenizer"): tokenizers,
    ("plot", "runs"): runs,
    ("eval", "target"): runs,
    ("fetch", "name"): fetchable,
    ("prepare", "inputs"): datasets,
    ("tokenize", "inputs"): datasets,
    ("prepare", "model"): weights,
    ("export-weights", "source"): weights,
    ("help", "command"): commands,
}


def add_completion(name: str, command: Any) -> None:
    """Give a command's parameters their completions."""
    for param in command.params:
        values = VALUES.get((name, param.name)) or VALUES.get((None, param.name))
        if values is not None:
            param.shell_complete = partial(complete, values)


def complete(values: Values, ctx: Any, incomplete: str) -> list[Item]:
    """Return the values that begin with what was typed."""
    return [Item(value) for value in values(_workspace(ctx)) if value.startswith(incomplete)]


def command_items(incomplete: str) -> list[Item]:
    """Return the commands that begin with what was typed; none is loaded."""
    return [
        Item(name, about.summary) for name, about in COMMANDS.items() if name.startswith(incomplete)
    ]


def _workspace(ctx: Any) -> Workspace:
    """Return the workspace that the command line names, before the command or after it."""
    for place in (ctx, ctx.find_root()):
        typed = place.params.get("workspace")
        if typed and Path(typed) != Path():
            return Workspace(Path(typed))
    return Workspace(Path())
