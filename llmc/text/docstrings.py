"""Questions and answers about Python's standard library, made from its docstrings.

The question names a function with its parameters, a class or a module; the answer is the first
paragraph of its docstring. They are conversations that every installation has, without a network.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from llmc.text.conversations import ASSISTANT, USER, Message, packed

SHORTEST, LONGEST = 12, 240  # characters of an answer
SOURCE_BYTES = 14  # for each byte of a conversation, about
Defined = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def docstring_documents(path: Path, module: str) -> Iterator[str]:
    """Yield a conversation for each public docstring of a module, in the order of the file.

    A file that this Python cannot parse has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    yield from _answered(f"What is the module {module} for?", tree)
    yield from _members(tree, module)


def module_name(relative: PurePosixPath) -> str | None:
    """Return the name of the module in a file of the library; None if it is not public."""
    parts = relative.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return None if not parts or any(part.startswith("_") for part in parts) else ".".join(parts)


def _members(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    for member in node.body:
        if not isinstance(member, Defined) or member.name.startswith("_"):
            continue
        inner = f"{name}.{member.name}"
        if isinstance(member, ast.ClassDef):
            yield from _answered(f"What is {inner}?", member)
            yield from _members(member, inner)
        else:
            taken = [each.arg for each in (*member.args.posonlyargs, *member.args.args)]
            shown = ", ".join(each for each in taken if each not in ("self", "cls"))
            yield from _answered(f"What does {inner}({shown}) do?", member)


def _answered(question: str, node: ast.Module | Defined) -> Iterator[str]:
    """Yield the conversation of a question, if the docstring is an answer."""
    paragraph = inspect.cleandoc(ast.get_docstring(node) or "").partition("\n\n")[0]
    answer = " ".join(paragraph.split())
    if SHORTEST <= len(answer) <= LONGEST and answer.endswith((".", "!")) and ">>>" not in answer:
        yield packed((Message(USER, question), Message(ASSISTANT, answer)))
