"""A stdout or stderr that is full, closed or not read: one rule for all commands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from llmc.cli.catalogue import COMMANDS
from tests.conftest import Llmc
from tests.helpers.workspace import copy_of

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")

# How a command's stream ends -> the exit code of a command that did its work.
ENDS = {">/dev/full": 1, ">&-": 1, "| true": 0, "2>/dev/full": 0, "2>&-": 0, "<&- >&- 2>&-": 1}
# What each command prints without a network, quickly; what prints nothing shows its help.
PRINTING = {
    "sample": "--run first --tokens 2",
    "eval": "first --max-tokens 16",
    "runs": "",
    "plot": "first",
    "inspect": "runs/first",
    "decode": "--tokenizer byte 97 98",
    "help": "train",
    "train": "--config tiny.toml --dry-run",
    "tokenize": "texts --tokenizer byte --out out --force --json",
    "export-weights": "random:tiny.toml --out x.bin --json",
}


def code(llmc: Llmc, words: str, end: str) -> tuple[int, str]:
    """Run a command in a shell that cuts off a stream; return its exit code and stderr."""
    command = f"set -o pipefail; {' '.join(llmc.command)} {words} {end}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=llmc.workspace,
        env=llmc.env({"LLMC_OFFLINE": "1"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, learnt: Llmc) -> Llmc:
    return copy_of(learnt, tmp_path_factory.mktemp("streams") / "ws")


def check_rule(workspace: Llmc, words: str, end: str) -> None:
    expected = ENDS[end]
    found, err = code(workspace, words, end)
    assert found == expected, (words, end, err)
    assert "internal error" not in err and "Traceback" not in err and "Exception" not in err
    assert ("cannot write to stdout" in err) == (expected == 1 and "2>" not in end)


@pytest.mark.full
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_follows_the_rule(workspace: Llmc, name: str) -> None:
    words = f"{name} {PRINTING.get(name, '--help')}"
    assert code(workspace, words, ">/dev/null")[0] == 0
    for end in ENDS:
        check_rule(workspace, words, end)


@pytest.mark.parametrize("end", ENDS)
def test_a_table_and_json_follow_the_rule(workspace: Llmc, end: str) -> None:
    """One process for each end, in place of one for each command and end."""
    check_rule(workspace, "runs" if end.startswith((">", "|")) else "runs --json", end)


@pytest.mark.parametrize("name", [name for name in PRINTING if name != "runs"])
def test_what_prints_notices_a_full_disk(workspace: Llmc, name: str) -> None:
    check_rule(workspace, f"{name} {PRINTING[name]}", ">/dev/full")


@pytest.mark.full
@pytest.mark.parametrize("words", ["--version", "--help", "runs --json"])
def test_so_do_the_program_itself_and_json(workspace: Llmc, words: str) -> None:
    for end, expected in ENDS.items():
        assert code(workspace, words, end)[0] == expected, end


@pytest.mark.parametrize(
    "end", [pytest.param(e, marks=() if e == ">/dev/full" else pytest.mark.full) for e in ENDS]
)
def test_a_command_that_fails_keeps_its_exit_code(workspace: Llmc, end: str) -> None:
    assert code(workspace, "nonsense", end)[0] == 2
    assert code(workspace, "sample --run nothing", end)[0] in (2, 3)


@pytest.mark.parametrize(
    ("number", "end"),
    [(1, ">/dev/full"), (2, "| true"), pytest.param(3, ">&-", marks=pytest.mark.full)],
)
def test_a_training_run_goes_on_without_stdout(workspace: Llmc, number: int, end: str) -> None:
    words = f"train --run new-{number} --config tiny.toml --log-every 1"
    assert code(workspace, words, end)[0] == 0
    assert (workspace.workspace / "runs" / f"new-{number}" / "model.bin").is_file()
