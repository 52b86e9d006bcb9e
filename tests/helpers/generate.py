"""What the tests of ``llmc-native generate`` share: requests as lines, answers by id."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.helpers.engine import Native, environment
from tests.helpers.events import json_lines


def line(name: str, prompt: Iterable[int], **keys: object) -> str:
    """Return a request as a line; keys are named with underscores for dashes."""
    words = [f"{key.replace('_', '-')} {value}" for key, value in keys.items()]
    return " ".join(["request", name, *words, "prompt", ",".join(map(str, prompt))]) + "\n"


class Answers:
    """All that one run of the engine said."""

    def __init__(self, events: Sequence[dict[str, Any]]) -> None:
        self.events = events
        self.ready = events[0]

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the tokens of a text; what other texts had left in the cache is no part of it."""
        found = [e for e in self.events if e.get("id") == name and e["event"] == "token"]
        return [{key: e[key] for key in e if key != "cached"} for e in found]

    def tokens(self, name: str) -> list[int]:
        return [event["token"] for event in self.of(name)]

    def end(self, name: str) -> dict[str, Any]:
        (end,) = [e for e in self.events if e.get("id") == name and e["event"] == "end"]
        return end


def generate(
    native: Native, model: Path, lines: Iterable[str], isa: str | None = None, **flags: object
) -> Answers:
    """Ask for all of ``lines`` at once and return what was answered."""
    done = subprocess.run(
        native.argv("generate", model=model, **flags),
        input="".join(lines),
        capture_output=True,
        text=True,
        check=False,
        env=environment(isa),
        timeout=300,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stderr == ""
    return Answers(json_lines(done.stdout))
