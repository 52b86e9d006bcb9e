"""The command line: registers the commands, and turns an LlmcError into an exit code.

Nothing else in the project exits.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmc import __version__
from llmc.commands.build import build
from llmc.commands.decode import decode
from llmc.commands.export_weights import export_weights
from llmc.commands.fetch import fetch
from llmc.commands.prepare import prepare
from llmc.commands.sample import sample
from llmc.commands.tokenize import tokenize
from llmc.commands.train import train
from llmc.context import Context
from llmc.errors import ExitCode, Interrupted, LlmcError
from llmc.paths import Workspace
from llmc.ui import Ui


class _Commands(TyperGroup):
    """The commands, any of which may find that its reader has left."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a closed pipe ends it in peace, where Typer would call it a failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # The reader (head, less) has what it wanted; Python must not complain while flushing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.OK) from error


app = typer.Typer(
    cls=_Commands,
    name="llmc",
    help="Train GPT-2-class language models on the computer you already have.",
    epilog="Start here: llmc prepare stdlib, then llmc train --config python-stdlib, "
    "then llmc sample --decode.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (prepare, train, sample, decode, fetch, tokenize, export_weights, build):
    app.command()(command)

FLAGS = ("--json", "--quiet", "--version")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"llmc {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    ctx: typer.Context,
    workspace: Annotated[
        Path,
        typer.Option(
            envvar="LLMC_WORKSPACE", help="The folder that holds data/, models/ and runs/."
        ),
    ] = Path(),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON result on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Resolve the global flags; every command finds them in ``ctx.obj``."""
    ctx.obj = Context(Workspace(workspace), Ui(json=json, quiet=quiet))


def globals_first(argv: list[str]) -> list[str]:
    """Move global flags to the front, so that ``llmc train --json`` means ``llmc --json train``."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in FLAGS or word.startswith("--workspace="):
            front.append(word)
        elif word == "--workspace":
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return front + rest


def main() -> None:
    """Run ``llmc`` and exit with the code of what happened."""
    try:
        app(args=globals_first(sys.argv[1:]))
    except Interrupted as stop:
        Ui().note(str(stop))
        sys.exit(stop.exit_code)
    except LlmcError as error:
        Ui().error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Ui().error("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        if os.environ.get("LLMC_TRACEBACK"):
            raise
        Ui().error(
            f"internal error: {type(error).__name__}: {error}; this is a bug in llmc, "
            "please report it with the output of the same command under LLMC_TRACEBACK=1"
        )
        sys.exit(ExitCode.INTERNAL)
