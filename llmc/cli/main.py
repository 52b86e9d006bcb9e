"""The command line: registers the commands, and turns an LlmcError into an exit code.

Nothing else in the project exits. A command's module is imported when it is called, so that
``llmc --help`` answers at once.
"""

from __future__ import annotations

import importlib
import io
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmc import __version__
from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.errors import ExitCode, Interrupted, LlmcError
from llmc.paths import Workspace

# Name -> the first line of the command's own help, in the order of use.
COMMANDS = {
    "prepare": "Fetch, tokenize, export weights and build: all that training needs, ready.",
    "train": "Train a model. Ctrl-C finishes the step and saves.",
    "sample": "Write with a trained model: token ids on stdout, one a line, or text with --decode.",
    "serve": "Serve a model over HTTP as OpenAI's clients speak it, with a page to try it on.",
    "eval": "Measure a model: loss, perplexity, bits per byte, or HellaSwag's accuracy.",
    "decode": "Turn token ids into text, on stdin as they arrive.",
    "runs": "List the runs: what they trained, how far they came, how good they are.",
    "plot": "Draw the curves of runs in the terminal, or as a picture or page that compares them.",
    "fetch": "Download a dataset's text, an evaluation's questions or a model's weights.",
    "tokenize": "Turn text into train.bin, val.bin and a manifest; into shards where it is large.",
    "export-weights": "Write weights as a checkpoint to train from, or for another program.",
    "inspect": "Say what a file or a folder is, and what is wrong with it.",
    "bench": "Time training steps, single kernels or decoding: speed, memory, share of the limit.",
    "build": "Compile the C engine for this machine, once per version; a second build is instant.",
    "doctor": "Examine this machine and this installation, and say what is wrong.",
}


def load_command(name: str) -> Any:
    """Import a command and return what Typer makes of its signature."""
    identifier = name.replace("-", "_")
    module = importlib.import_module(f"llmc.cli.commands.{identifier}")
    alone = typer.Typer(rich_markup_mode=None, context_settings=HELP, add_completion=False)
    alone.command(name)(getattr(module, identifier))
    return typer.main.get_command(alone)


class _Commands(TyperGroup):
    """The commands, each loaded on demand; any may find that its reader has left."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None; the names are what a typo is compared with."""
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a closed pipe ends it in peace, where Typer would call it a failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # The reader (head, less) has what it wanted; Python must not complain while flushing.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.OK) from error


HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=_Commands,
    name="llmc",
    help="Train GPT-2-class language models on the computer you already have.",
    epilog="Start here: llmc prepare stdlib, then llmc train --config python-stdlib, "
    "then llmc sample --decode.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's takes longer to import than all of llmc
    context_settings=HELP,
)

FLAGS = ("--json", "--quiet", "--offline", "--version")
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
            envvar="LLMC_WORKSPACE", help="The folder that holds data/, models/ and runs/."
        ),
    ] = Path(),
    json: Annotated[
        bool, typer.Option("--json", help="Print the result on stdout, as JSON.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Use no network, as LLMC_OFFLINE=1 does: only the cache."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Resolve the global flags; every command finds them in ``ctx.obj``."""
    if offline:
        os.environ["LLMC_OFFLINE"] = "1"  # for the libraries' threads and processes too
    found = workspace == Path(os.environ.get("LLMC_WORKSPACE", ""))  # without the flag, that is
    typed = "llmc" if found else f"llmc --workspace {shlex.quote(str(workspace))}"
    ctx.obj = Context(Workspace(workspace), Ui(json=json, quiet=quiet, typed=typed))


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


def _one_sentence(error: Any) -> str:
    """Return what Typer has to say of a command line, and where help is."""
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message.replace(": Value error, ", ": ")  # whose words are not for who typed it
    command = error.ctx.command_path if error.ctx is not None else "llmc"
    return f"{message} ('{command} --help' tells more)"


def main() -> None:
    """Run ``llmc`` and exit with the code of what happened."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a loss curve is no reason to fail in Latin-1
    try:
        args = globals_first(sys.argv[1:]) or ["--help"]
        code = app(args=args, prog_name="llmc", standalone_mode=False)
        if code == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt  # Typer made an exit code of it
        sys.exit(code)
    except USAGE_ERROR as error:
        Ui().error(_one_sentence(error))
        sys.exit(ExitCode.USAGE)
    except Interrupted as stop:
        Ui().note(str(stop))
        Ui().next(*stop.commands)
        sys.exit(stop.exit_code)
    except LlmcError as error:
        Ui().error(str(error))
        Ui().next(*error.commands)
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
