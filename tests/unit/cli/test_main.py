"""The command line around the commands: help, global flags, exit codes."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys

import pytest

from llmc import __version__
from llmc.cli.catalogue import COMMANDS
from llmc.cli.main import globals_first, main
from llmc.errors import ExitCode, Interrupted, LlmcError, MissingOutput
from llmc.paths import shipped_dir
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import assert_left_in_peace


def test_llmc_alone_prints_help(llmc: Llmc) -> None:
    alone, asked = llmc(), llmc("--help")
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout == asked.stdout == llmc("-h").stdout
    for flag in ("--workspace", "--json", "--quiet", "--version", "--install-completion"):
        assert flag in alone.stdout
    assert "llmc prepare stdlib" in alone.stdout


def test_every_command_has_a_file_and_says_what_it_does() -> None:
    folder = shipped_dir("native").parent / "llmc" / "cli" / "commands"
    files = {path.stem.replace("_", "-") for path in folder.glob("[!_]*.py")}
    assert files == set(COMMANDS)
    for name, about in COMMANDS.items():
        module = importlib.import_module(f"llmc.cli.commands.{name.replace('-', '_')}")
        lines = inspect.getdoc(getattr(module, name.replace("-", "_")))
        assert lines is not None
        assert lines.splitlines()[0] == about.summary


def test_help_imports_nothing_heavy(llmc: Llmc) -> None:
    script = (
        "import sys, llmc.cli.main\nsys.argv = ['llmc']\ntry:\n    llmc.cli.main.main()\n"
        "except SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=llmc.env(), capture_output=True, text=True, check=True
    )
    assert "Usage: llmc" in done.stdout
    loaded = set(done.stderr.split())
    assert "llmc.cli.main" in loaded
    assert loaded.isdisjoint(
        {"numpy", "torch", "rich", "tiktoken", "tokenizers", "huggingface_hub", "requests"}
        | {"llmc.cli.commands.train", "llmc.tokens.tokenizer"}
    )


def test_the_version(llmc: Llmc) -> None:
    for words in (["--version"], ["train", "--version"]):
        done = llmc(*words)
        assert (done.returncode, done.stdout) == (0, f"llmc {__version__}\n")


def test_global_flags_may_stand_anywhere(llmc: Llmc) -> None:
    words = ["decode", "65", "--tokenizer", "byte"]
    expected = {"text": "A", "tokens": 1, "tokenizer": "byte"}
    for before, after in (
        (["--json", "--quiet", "--workspace", "x"], []),
        (["--quiet"], ["--json", "--workspace=x"]),
        ([], ["--workspace", "x", "--quiet", "--json"]),
    ):
        done = llmc(*before, *words, *after)
        assert json.loads(done.stdout) == expected
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("train --json", "--json train"),
        ("train --workspace a --lr 1", "--workspace a train --lr 1"),
        ("train --workspace=a", "--workspace=a train"),
        ("train --workspace", "--workspace train"),
        ("--quiet decode -- --json", "--quiet decode -- --json"),
        ("", ""),
    ],
)
def test_global_flags_are_moved_to_the_front(typed: str, parsed: str) -> None:
    assert globals_first(typed.split()) == parsed.split()


def test_the_workspace_may_come_from_the_environment(llmc: Llmc) -> None:
    (llmc.workspace / "there").mkdir()
    variable = {"LLMC_WORKSPACE": "there"}
    assert "no trained model in there/runs" in llmc("sample", env=variable).stderr
    by_flag = llmc("sample", "--workspace", "here", env=variable).stderr
    assert "no trained model in here/runs" in by_flag


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "'trian'. Did you mean 'train'?"),
        (["qqq"], "'qqq'"),
        (["--jsn"], "did you mean '--json'?"),
        (["--quiet"], "Missing command"),
        (["train", "--workspace"], "Missing command"),
        (["decode", "--tokeniser", "byte"], "did you mean '--tokenizer'?"),
        (["train", "--learning-rate", "1"], "did you mean '--lr'?"),
        (["train", "--batch", "1"], "did you mean '--batch-size'?"),
        (["train", "--epoch", "1"], "did you mean '--epochs'?"),
        (["train", "--jsno"], "did you mean '--json'?"),
        (["help", "trian"], "'trian'. Did you mean 'train'?"),
        (["chat", "--run", "x"], "--run; name it without a flag: 'llmc chat NAME'"),
        (["eval", "--model", "x"], "--model; name it without a flag: 'llmc eval NAME'"),
        (["sample", "x-1"], "(x-1); did you mean '--run x-1'?"),
        (["train", "x-1"], "(x-1) (see"),
        (["decode", "--model", "x"], ": --model (see"),
        (["plot", "--runn", "x"], ": --runn (see"),
        (["decode", "--tokenizer"], "'--tokenizer' requires an argument"),
        (["fetch"], "Missing argument 'NAME'"),
        (["train", "--schedule", "cos"], "'--schedule': 'cos' is not one of 'constant', 'cosine'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(llmc: Llmc, words: list[str], said: str) -> None:
    error = assert_one_sentence(llmc(*words), 2)
    assert said in error
    assert re.search(r"\(see 'llmc.* --help'\)$", error)


def ended(monkeypatch: pytest.MonkeyPatch, failure: BaseException, *flags: str) -> int:
    """Run a command that raises ``failure``, and return the exit code."""

    def fail(*_args: object, **_kwargs: object) -> None:
        raise failure

    monkeypatch.setattr("llmc.cli.commands.fetch.fetch_named", fail)
    monkeypatch.setattr(sys, "argv", ["llmc", "fetch", "stdlib", *flags])
    monkeypatch.delenv("LLMC_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_every_error_ends_with_its_code_and_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [kind for kind in LlmcError.__subclasses__() if kind is not Interrupted]
    assert {kind.exit_code for kind in kinds} == {1, 2, 3, 4, 5, 137}
    for kind in kinds:
        assert ended(monkeypatch, kind("it [red]broke[/red] :boom: here")) == kind.exit_code
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", "error: it [red]broke[/red] :boom: here\n")


def test_commands_in_messages_are_spelled_as_this_shell_runs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmc.cli.ui.program", lambda: ".venv/bin/llmc")
    ended(monkeypatch, MissingOutput("nothing there: run 'llmc prepare x' first"))
    assert "run '.venv/bin/llmc prepare x' first" in capsys.readouterr().err
    ended(monkeypatch, MissingOutput("run 'llmc train'"), "--workspace", "w")
    assert "run '.venv/bin/llmc --workspace w train'" in capsys.readouterr().err
    ended(monkeypatch, Interrupted("saved; 'llmc runs' lists it", "llmc go on"))
    said = capsys.readouterr().err
    assert said == "saved; '.venv/bin/llmc runs' lists it\nnext: .venv/bin/llmc go on\n"


def test_an_interrupt_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, Interrupted("saved")) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "saved\n"
    assert ended(monkeypatch, Interrupted("saved", "llmc go on")) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "saved\nnext: llmc go on\n"
    assert ended(monkeypatch, KeyboardInterrupt()) == ExitCode.INTERRUPTED
    said = capsys.readouterr().err
    assert "interrupted" in said
    assert "Traceback" not in said


def test_an_internal_error_has_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, ZeroDivisionError("by zero")) == ExitCode.INTERNAL
    said = capsys.readouterr().err
    assert said.startswith("error: internal error: ZeroDivisionError: by zero; this is a bug")
    assert "Traceback" not in said
    assert said.count("\n") == 1
    ended(monkeypatch, ZeroDivisionError("by http://u:p@h/x?t"))
    capsys.readouterr()
    monkeypatch.setenv("LLMC_TRACEBACK", "1")
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == ExitCode.INTERNAL
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and said.endswith("ZeroDivisionError: by http://h/x\n")


def test_notes_are_said_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from llmc.cli.ui import Ui

    Ui().note("a [bold]b[/bold] :smile: c")
    Ui().next("llmc x [red]")
    Ui(quiet=True).note("unheard")
    Ui(quiet=True).next("unheard")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "a [bold]b[/bold] :smile: c\nnext: llmc x [red]\n")


def test_a_pipe_that_closes_is_no_error(llmc: Llmc) -> None:
    assert_left_in_peace(llmc, "decode", "--tokenizer", "byte", "65")


def test_quiet_keeps_how_a_command_ended_and_what_continues_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = Interrupted("interrupted after 3 steps", "llmc train --resume")
    failed = LlmcError("the disk is full")
    failed.commands = ("llmc train --resume",)
    for failure in (stopped, failed):
        assert ended(monkeypatch, failure, "--quiet") == failure.exit_code
        printed = capsys.readouterr().err
        assert str(failure) in printed and "train --resume" in printed
