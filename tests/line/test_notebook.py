"""A notebook's cell gives commands pipes: their output is plain lines."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.conftest import Llmc
from tests.helpers.workspace import empty_workspace

CELL = """\
set -e
{command} prepare texts --tokenizer byte --model random:tiny.toml
{command} train --config tiny.toml --sample-every 2 --log-every 2 2>&1
{command} sample --decode --tokens 20
"""
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def test_a_cell_prints_plain_lines(tmp_path: Path, cache: Path) -> None:
    llmc: Llmc = empty_workspace(tmp_path / "workspace", cache)
    done = subprocess.run(
        ["bash", "-c", CELL.replace("{command}", " ".join(llmc.command))],
        cwd=llmc.workspace,
        env=llmc.env({"TERM": "xterm-color"}),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=120,
    )
    before, _, written = done.stdout.rpartition("\nsaved ")
    assert not CONTROLS.search(before + done.stderr)
    assert "next: llmc sample --decode" in written
    steps = re.findall(r"^step (\d+): train loss [\d.]+", before, re.M)
    assert steps == ["0", "2", "3"]  # every second, and the last
    assert re.search(r"^val loss [\d.]+", before, re.M)
