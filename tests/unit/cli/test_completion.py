"""What Tab completes in a shell: commands, flags and names, through the shells' own protocol."""

from __future__ import annotations

import pytest

from llmc.cli.catalogue import COMMANDS
from tests.conftest import Llmc

# Typer finds the shell among the parents of a process, where a test may have none; so it is named.
NAMED = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}


def completed(llmc: Llmc, line: str, shell: str = "bash") -> list[str]:
    """Return the completions of a command line whose last word is incomplete."""
    words = line.split(" ")
    env = {
        "_LLMC_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = llmc(env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.fixture
def filled(llmc: Llmc) -> Llmc:
    """Return a workspace with a run and a dataset; another one in the folder 'other'."""
    for root, run in ((llmc.workspace, "mine-1"), (llmc.workspace / "other", "mine-2")):
        (root / "runs" / run).mkdir(parents=True)
        (root / "data" / "notes").mkdir(parents=True)
        (root / "data" / "notes" / "manifest.json").write_text("{}")
    return llmc


def test_commands(llmc: Llmc) -> None:
    assert completed(llmc, "llmc ") == list(COMMANDS)
    assert completed(llmc, "llmc t") == ["train", "tokenize"]
    assert completed(llmc, "llmc help pre") == ["prepare"]


def test_flags_of_the_command_and_global_ones(llmc: Llmc) -> None:
    assert completed(llmc, "llmc train --batch") == ["--batch-size"]
    assert completed(llmc, "llmc train --js") == ["--json"]
    assert completed(llmc, "llmc --off") == ["--offline"]
    assert completed(llmc, "llmc train --schedule w") == ["wsd"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llmc sample --run m", ["mine-1"]),
        ("llmc plot m", ["mine-1"]),
        ("llmc eval m", ["mine-1"]),
        ("llmc --workspace other sample --run m", ["mine-2"]),
        ("llmc sample --workspace other --run m", ["mine-2"]),
        ("llmc train --config gpt2-1", ["gpt2-124m", "gpt2-1558m"]),
        ("llmc train --data ", ["data/notes"]),
        ("llmc prepare std", ["stdlib"]),
        ("llmc fetch gpt2-", ["gpt2-medium", "gpt2-large", "gpt2-xl"]),
        ("llmc export-weights mine", ["mine-1"]),
        ("llmc prepare x --tokenizer b", ["byte", "bpe:4096"]),
        ("llmc inspect x", []),  # the shell completes files
    ],
)
def test_names(filled: Llmc, line: str, expected: list[str]) -> None:
    assert completed(filled, line) == expected


def test_every_shell(llmc: Llmc) -> None:
    assert completed(llmc, "llmc train --config python", "fish") == ["python-stdlib"]
    assert "python-stdlib" in "".join(completed(llmc, "llmc train --config python", "zsh"))
    for shell in ("bash", "zsh", "fish"):
        assert "_LLMC_COMPLETE" in llmc("--show-completion", shell, env=NAMED).stdout


def test_the_script_is_installed_for_the_shell(llmc: Llmc) -> None:
    done = llmc("--install-completion", "bash", env={**NAMED, "HOME": str(llmc.workspace)})
    assert done.returncode == 0
    assert "_LLMC_COMPLETE" in (llmc.workspace / ".bash_completions" / "llmc.sh").read_text()
