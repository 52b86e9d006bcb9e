"""The command line: registers the commands, and turns an LlmcError into an exit code.

Nothing else in the project exits. A command's module is imported when it is called, so that
``llmc --help`` answers at once.
"""

from __future__ import annotations

import copy
import errno
import importlib
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from llmc import __version__
from llmc.addresses import without_secrets
from llmc.cli.catalogue import COMMANDS
from llmc.cli.completion import add_completion, command_items
from llmc.cli.context import Context
from llmc.cli.help import GLOBAL, command_page, main_page
from llmc.cli.ranks import leave, take_part
from llmc.cli.streams import Output, discard, drop_unwritten_messages, open_closed_streams
from llmc.cli.suggestions import nearest_flag
from llmc.cli.ui import Ui
from llmc.errors import BUG, ExitCode, Interrupted, LlmcError
from llmc.paths import Workspace


class Command(TyperCommand):
    """A command whose help and completion know the global flags too."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's parameters and copies of the global ones.

        The copies are for help, completion and suggestions: :func:`globals_first` moves the flags
        to the front before anything is parsed.
        """
        shared = []
        for param in ctx.find_root().command.params if ctx.parent is not None else ():
            if getattr(param, "rich_help_panel", None) == GLOBAL:
                shared.append(copy.copy(param))
                shared[-1].expose_value = ctx.resilient_parsing  # completion reads --workspace
        return [*super().get_params(ctx), *shared]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the command's help page."""
        formatter.write(command_page(self, ctx))


class Commands(TyperGroup):
    """The commands, each loaded on demand."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None; ``commands`` holds the names that a typo is compared with."""
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the commands and flags that begin so, without loading any command."""
        flags = super(TyperGroup, self).shell_complete(ctx, incomplete)
        return [*command_items(incomplete), *flags]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page of ``llmc --help``."""
        formatter.write(main_page(self, ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run a command. A closed pipe ends it with exit code 0; Typer would report a failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # The reader (head, less) has what it wanted.
            discard(sys.stdout)
            raise typer.Exit(ExitCode.OK) from error


def load_command(name: str) -> Any:
    """Import a command and return Typer's command object for it."""
    identifier = name.replace("-", "_")
    module = importlib.import_module(f"llmc.cli.commands.{identifier}")
    alone = typer.Typer(rich_markup_mode=None, context_settings=HELP, add_completion=False)
    alone.command(name, cls=Command)(getattr(module, identifier))
    command = typer.main.get_command(alone)
    add_completion(name, command)
    return command


HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=Commands,
    name="llmc",
    help="Train GPT-2-class language models on the computer you already have.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich takes longer than importing all of llmc
    context_settings=HELP,
)

FLAGS = ("--json", "--quiet", "--offline", "--version")
EXTRA_WORD = re.compile(r"unexpected extra argument\S* \((\S+)\)")  # in Typer's message
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # Typer has no name of its own for it


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"llmc {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    ctx: typer.Context,
    *,
    workspace: Annotated[
        Path,
        typer.Option(
            envvar="LLMC_WORKSPACE",
            help="Folder that holds data/, models/ and runs/.",
            rich_help_panel=GLOBAL,
        ),
    ] = Path(),
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel=GLOBAL),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print errors only.", rich_help_panel=GLOBAL)
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Use no network, only the cache; the same as LLMC_OFFLINE=1.",
            rich_help_panel=GLOBAL,
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Resolve the global flags into the :class:`Context` that commands find in ``ctx.obj``."""
    if offline:
        os.environ["LLMC_OFFLINE"] = "1"  # for the libraries' threads and processes too
    ui = ctx.obj or Ui()  # main() passes its own, to print errors with
    ui.json, ui.quiet = json, quiet
    if workspace != Path(os.environ.get("LLMC_WORKSPACE", "")):  # given by the flag
        ui.workspace = workspace
    ctx.obj = Context(Workspace(workspace), ui)


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


def usage_error(error: Any) -> str:
    """Return one sentence about a wrong command line, with the nearest flag and the help page."""
    ctx = error.ctx
    message = error.message if hasattr(error, "possibilities") else error.format_message()
    message = " ".join(message.split()).rstrip(".")
    message = message.replace(": Value error, ", ": ")  # pydantic's words
    if ctx is not None and (meant := _meant(error, ctx)):
        message += f"; {meant}"
    return f"{message} (see '{ctx.command_path if ctx is not None else 'llmc'} --help')"


def _meant(error: Any, ctx: Any) -> str:
    """Return what a wrong flag or a superfluous word probably meant; empty if nothing is near.

    Some commands take a run as an argument, others by ``--run``.
    """
    params = ctx.command.get_params(ctx)
    flags = [flag for param in params for flag in (*param.opts, *param.secondary_opts)]
    flags = [flag for flag in flags if flag.startswith("-")]
    if not hasattr(error, "possibilities"):
        extra = EXTRA_WORD.search(error.message)
        takes_run = {"--run", "--last"} <= {*flags}
        return f"did you mean '--run {extra[1]}'?" if extra and takes_run else ""
    takes_run = any("RUN" in (param.metavar or "") for param in params if param.opts[0][0] != "-")
    if takes_run and error.option_name in ("--run", "--model"):
        return f"name it without a flag: '{ctx.command_path} NAME'"
    near = nearest_flag(error.option_name, flags)
    return f"did you mean '{near}'?" if near is not None else ""


def main() -> None:
    """Run ``llmc`` and exit with the code of what happened."""
    open_closed_streams()
    output, ui = Output(), Ui()
    code: int = ExitCode.OK
    args = globals_first(sys.argv[1:]) or ["--help"]
    try:
        code = _code_of_command(args, ui)
    except SystemExit as end:  # Typer's, where the reader of stdout has left
        code = int(end.code or 0) if output.failure() is None else code
    except Exception as error:
        if not isinstance(error, OSError) or output.failure() is None:
            code = _code_of_bug(ui, error)
    if (reason := output.failure()) is not None:
        code = code or _code_of_output(ui, reason)
    leave(args, code)
    drop_unwritten_messages()
    sys.exit(code)


def _code_of_command(args: list[str], ui: Ui) -> int:
    """Run the command; return its exit code, after an error has been printed."""
    try:
        take_part(args)
        code = app(args=args, prog_name="llmc", standalone_mode=False, obj=ui)
        if code == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt  # Typer made an exit code of it
        return int(code or ExitCode.OK)
    except USAGE_ERROR as error:
        ui.error(usage_error(error))
        return ExitCode.USAGE
    except LlmcError as error:
        # How the command ended and what continues it is printed even when quiet.
        ui.quiet = False
        if message := str(error):  # else the engine has said it
            (ui.note if isinstance(error, Interrupted) else ui.error)(message)
        ui.next(*error.commands)
        return error.exit_code
    except KeyboardInterrupt:
        ui.error("interrupted")
        return ExitCode.INTERRUPTED


def _code_of_bug(ui: Ui, error: Exception) -> int:
    if os.environ.get("LLMC_TRACEBACK"):
        sys.stderr.write(without_secrets("".join(traceback.format_exception(error))))
        return ExitCode.INTERNAL
    ui.error(
        f"internal error: {type(error).__name__}: {error}; {BUG} with the output of the same "
        "command under LLMC_TRACEBACK=1"
    )
    return ExitCode.INTERNAL


def _code_of_output(ui: Ui, reason: OSError) -> int:
    """Return the exit code where stdout cannot be written; a reader that left is not an error."""
    if isinstance(reason, BrokenPipeError):
        return ExitCode.OK
    why = "it is closed" if reason.errno == errno.EBADF else reason.strerror
    ui.error(f"cannot write to stdout: {why}; send it elsewhere, such as to a file")
    return ExitCode.BAD_DATA
