"""Modules and functions stay short enough to be read in one go; modules of tests too."""

from __future__ import annotations

import ast
from pathlib import Path

import llmc
from tests.helpers.places import ROOT

PACKAGE = Path(llmc.__file__).parent
MODULE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 20


def test_no_module_and_no_function_is_long() -> None:
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text("utf-8")
        if (lines := text.count("\n")) > MODULE_LINES:
            long.append(f"{path.name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                parameters = len(node.args.args) + len(node.args.kwonlyargs)
                if lines > FUNCTION_LINES or parameters > PARAMETERS:
                    where = f"{path.name}, {node.name}"
                    long.append(f"{where}: {lines} lines, {parameters} parameters")
    assert long == []


def test_no_module_of_tests_is_long() -> None:
    lengths = {path: path.read_text("utf-8").count("\n") for path in (ROOT / "tests").rglob("*.py")}
    assert len(lengths) > 100
    assert {path.name: n for path, n in lengths.items() if n > MODULE_LINES} == {}
