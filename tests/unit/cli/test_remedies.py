"""Every command that a message quotes exists, and its options and arguments are complete.

Words in capitals and what the program fills in stand for a value. tests/line/test_next_commands.py
runs the commands in the situations that print them.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmc.cli.catalogue import COMMANDS
from llmc.cli.main import USAGE_ERROR, load_command
from tests.helpers.places import ROOT

QUOTED = re.compile(r"'(llmc [^']*)'")
# "'llmc tokenize' reads it" names a command and does not ask for it.
MENTIONED = re.compile(r"'llmc [^']*' (reads|prints|wrote|trains|makes|lists|looks|compares)\b")
MENTIONED_AFTER = (
    "by 'llmc tokenize'",
    "that 'llmc fetch'",
    "'llmc sample' without",
    "what 'llmc tokenize' reads",
)
VALUES = {"I/N": "1/2", "N": "2", "F": "0.1", "MODEL": "gpt2", "TIME": "10m", "…": "x"}

WALKED = "run by tests/line/test_next_commands.py"
NETWORK = "not run: it downloads"
# Each command, and whether a test runs it after the failure that names it.
COMMANDS_IN_MESSAGES = {
    "llmc build --force": "not run: it compiles for minutes, after an engine that does not start",
    "llmc decode --tokenizer NAME": "run by tests/line/test_decode.py",
    "llmc doctor --launch COMMAND": "run by tests/line/test_launch.py",
    "llmc doctor --json": "run by tests/line/test_doctor.py; here after a bug of llmc",
    "llmc export-weights MODEL": WALKED,
    "llmc export-weights MODEL --heads N": "run by tests/unit/weights",
    "llmc export-weights OUT": "run by tests/unit/weights",
    "llmc export-weights gpt2": NETWORK,
    "llmc export-weights out.pt": "run by tests/unit/weights",
    "llmc export-weights random": "not run: it writes half a gigabyte",
    "llmc fetch gpt2": NETWORK,
    "llmc fetch hellaswag": NETWORK,
    "llmc fetch tinyshakespeare --force": NETWORK,
    "llmc fetch {}": NETWORK,
    "llmc prepare NAME": WALKED,
    "llmc prepare stdlib": "not run: it takes half a minute; `make demo` runs it",
    "llmc tokenize -": "run by tests/line/test_tokenize.py",
    "llmc tokenize --merge FOLDER": WALKED,
    "llmc tokenize FILE --dtype uint16": "run by tests/line/test_tokenize.py",
    "llmc tokenize NAME": WALKED,
    "llmc tokenize PATH": WALKED,
    "llmc tokenize PATH --val-fraction F": WALKED,
    "llmc tokenize {}": WALKED,
    "llmc tokenize … --shard I/{}": "run by tests/unit/tokens/test_merge.py",
    "llmc train": WALKED,
    "llmc train --data FILE": "run by tests/line/test_foreign_tokenizers.py",
    "llmc train --for TIME": "run by tests/line/test_dial.py",
    "llmc train --resume": "run by tests/line/test_resume.py; here after a silence",
    "llmc train --run {}": WALKED,
}


def texts(path: Path) -> Iterator[str]:
    """Yield the strings of a source file; what is filled in is ``{}``."""
    text = path.read_text("utf-8")
    if path.suffix in (".c", ".h"):
        joined = re.sub(r'"\s*\n\s*"', "", text)
        yield from re.findall(r'"((?:[^"\\]|\\.)*)"', joined)
        return
    tree = ast.parse(text)
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in inner:
            yield str(node.value)


def quoted() -> list[tuple[str, str]]:
    """Return the commands that messages ask for, each with the file that it stands in."""
    found = set()
    for folder, pattern in (("llmc", "*.py"), ("native", "*.[ch]")):
        for path in (ROOT / folder).rglob(pattern):
            for text in texts(path):
                asked = MENTIONED.sub("", text)
                for words in MENTIONED_AFTER:
                    asked = asked.replace(words, "")
                asked = re.sub(r"%[a-z]+", "{}", asked)
                found |= {(command, path.name) for command in QUOTED.findall(asked)}
    found -= {("llmc …", "ui.py")}  # what it spells
    return sorted(found)


def filled(command: str) -> list[str]:
    """Return a command's words after ``llmc``, with values for what stands for one."""
    words = []
    for word in shlex.split(command)[1:]:
        value = VALUES.get(word, word.replace("{}", "2")).replace("PRESET", "x")
        words.append("x" if re.fullmatch(r"[A-Z]{2,}", value) else value)
    return words


def test_all_commands_are_known() -> None:
    """A new one goes into the table, and into a test that runs it after its failure."""
    assert {command for command, _ in quoted()} == set(COMMANDS_IN_MESSAGES)
    assert any(name.endswith(".c") for _, name in quoted())


@pytest.mark.parametrize(("command", "file"), quoted())
def test_a_quoted_command_is_complete(command: str, file: str) -> None:
    name, *words = [word for word in filled(command) if word != "--json"]
    assert name in COMMANDS, (command, file)
    try:
        load_command(name).make_context(
            f"llmc {name}", [word for word in words if word != "--json"]
        )
    except USAGE_ERROR as error:
        pytest.fail(f"{command} in {file}: {error}")
