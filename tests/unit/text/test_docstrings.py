"""Questions and answers made of docstrings."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from llmc.paths import Workspace
from llmc.text.conversations import unpacked
from llmc.text.docstrings import docstring_documents, module_name
from llmc.text.source import open_source

MODULE = '''"""A module for tests.

More of it."""

class Box:
    """A box
    for things."""

    def put(self, thing, *, gently=False):
        """Put a thing into the box."""

    def _hidden(self):
        """Nobody asks for this one."""

def undocumented(): ...

def unfinished(x):
    """no full stop at the end"""

async def fetch(url, /, limit=3):
    """Fetch a page!"""
'''


def test_each_public_docstring_is_a_question_and_its_answer(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(MODULE)
    found = [unpacked(each) for each in docstring_documents(tmp_path / "m.py", "pack.m")]
    assert [tuple(message.content for message in each) for each in found] == [
        ("What is the module pack.m for?", "A module for tests."),
        ("What is pack.m.Box?", "A box for things."),
        ("What does pack.m.Box.put(thing) do?", "Put a thing into the box."),
        ("What does pack.m.fetch(url, limit) do?", "Fetch a page!"),
    ]
    assert {each[0].role for each in found} == {"user"} and found[0][1].counts
    (tmp_path / "m.py").write_text("def (")
    assert [*docstring_documents(tmp_path / "m.py", "m")] == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("os.py", "os"),
        ("json/__init__.py", "json"),
        ("json/tool.py", "json.tool"),
        ("_private.py", None),
        ("a/_b/c.py", None),
        ("__init__.py", None),
    ],
)
def test_a_file_is_a_module_if_it_is_public(path: str, name: str | None) -> None:
    assert module_name(PurePosixPath(path)) == name


def test_the_library_of_this_python_has_hundreds_of_modules(tmp_path: Path) -> None:
    source = open_source(Workspace(tmp_path), ["docstrings"])
    assert len(source.parts) > 300
    some = [part for part in source.parts if part.name.endswith((":shutil", ":os", ":argparse"))]
    documents = [text for part in some for text in part.read()]
    questions = {unpacked(text)[0].content for text in documents}
    assert len(some) == 3 and len(questions) > 30
    assert "What does shutil.copy(src, dst) do?" in questions
    assert source.left_out == () and source.records[0]["name"] == "docstrings"
