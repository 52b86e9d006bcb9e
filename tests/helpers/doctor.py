"""What the tests of ``llmc doctor`` share."""

from __future__ import annotations

import re

from llmc.check.doctor import Finding, examine
from llmc.cli.context import Context

OF_THE_ENGINE = ["memory", "isa", "parity fp32", "parity bf16", "threads", "files"]


def report(here: Context, *names: str) -> dict[str, Finding]:
    """Return what these checks of the engine find; without names, what all checks find."""
    return dict(examine(here.workspace, ["engine", "isa", *names] if names else []))


def states(done_stdout: str) -> dict[str, str]:
    """Return the mark of every check in a report that went through a pipe."""
    rows = re.findall(r"^(ok|warn|FAIL|skip) +(\S+(?: \S+)?)  +\S.*$", done_stdout, re.MULTILINE)
    return {name: mark for mark, name in rows}
