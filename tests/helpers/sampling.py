"""What the tests of ``llmc sample`` share."""

from __future__ import annotations

from tests.conftest import Llmc
from tests.helpers.workspace import ok


def ids(llmc: Llmc, *flags: str) -> list[int]:
    return [int(line) for line in ok(llmc("sample", *flags)).stdout.splitlines()]
