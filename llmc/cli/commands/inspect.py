"""``llmc inspect``: what a file or a folder is, and what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmc.check.inspect.describe import describe
from llmc.check.inspect.description import Description
from llmc.check.inspect.reading import Asked, Reading
from llmc.cli.context import Context
from llmc.cli.views.inspection import show
from llmc.errors import BadData
from llmc.tokens.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def inspect(
    ctx: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="FILE|DIR", help="What to look at. Default: the workspace."),
    ] = None,
    *,
    tensors: Annotated[
        bool,
        typer.Option("--tensors", help="Mean, std, min, max and NaNs of every tensor."),
    ] = False,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="gpt2|byte|FILE", help="Show tokens by this; else by the one recorded."
        ),
    ] = None,
    dtype: Annotated[
        Literal["uint16", "int32", "uint32"] | None,
        typer.Option(
            help="The file holds tokens of this type, without a header: uint16 is nanoGPT's, "
            "int32 llm.c's first."
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Read everything: of more than 8 GB, else a sample is read."),
    ] = False,
) -> None:
    """Describe a file or folder and report what is wrong with it.

    Token files, checkpoints, debug states, tokenizers, safetensors, GGUF; the folders of datasets,
    runs and Hugging Face models; workspaces. What it is is told by its content, not by its name.
    The exit code is 1 where something is broken.
    """
    here: Context = ctx.obj
    chosen = load_tokenizer(tokenizer) if tokenizer is not None else None
    with here.ui.progress() as progress:
        reading = Reading(full=full, tell=_Meter(progress).tell)
        asked = Asked(here.workspace, reading, tensors, dtype, chosen)
        made = describe(path if path is not None else here.workspace.root, asked)
    if here.ui.json:
        here.ui.result(made.as_json())
    else:
        show(made, sys.stdout)
    refuse_broken(made)
    here.ui.next(*made.hints)


def refuse_broken(made: Description) -> None:
    """End with what is wrong, if anything is.

    Raises:
        BadData: something is; the message is the first problem, and how many more there are.
    """
    problems = made.all_problems()
    if problems:
        more = f" (and {len(problems) - 1} more, see above)" if len(problems) > 1 else ""
        raise BadData(f"{made.path}: {problems[0]}{more}")


class _Meter:
    """Shows how far the reading of a file has come."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[tuple[Path, int], TaskID] = {}

    def tell(self, path: Path, count: int, total: int) -> None:
        if total < 1 << 26:
            return  # done before anybody could read the line
        key = (path, total)
        if key not in self.tasks:
            for task in self.tasks.values():
                self.progress.remove_task(task)
            self.tasks = {key: self.progress.add_task(f"reading {path.name}", total=total)}
        self.progress.update(self.tasks[key], advance=count)
