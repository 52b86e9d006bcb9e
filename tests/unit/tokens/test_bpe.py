"""A BPE is the same whatever pieces its text comes in and whichever process trains it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from string import ascii_lowercase

import pytest

import llmc.tokens.bpe as under_test
from llmc.errors import BadData
from llmc.report import Advance, Unit
from llmc.tokens.bpe import _words, train_bpe
from tests.conftest import Llmc

DOCUMENTS = [
    path.read_text(encoding="utf-8")
    for path in sorted(Path(under_test.__file__).parent.parent.rglob("*.py"))
][:40]


class Bars:
    """A report that keeps how far each bar came."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def note(self, message: str) -> None:
        raise AssertionError(message)

    def bar(
        self, description: str, total: int | None = None, unit: Unit = "bytes"
    ) -> AbstractContextManager[Advance]:
        self.done[description] = 0

        @contextmanager
        def shown() -> Iterator[Advance]:
            def advance(step: int, total: int | None = None) -> None:
                self.done[description] += step

            yield advance

        return shown()


@pytest.mark.parametrize("size", [50, 1000])
def test_pieces_and_a_process_of_its_own_change_nothing(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    whole = train_bpe(DOCUMENTS, 400)
    monkeypatch.setattr(under_test, "PIECE_CHARACTERS", size)
    assert train_bpe(DOCUMENTS, 400).fingerprint == whole.fingerprint
    chunks = [
        (at == 0, text[at : at + size]) for text in DOCUMENTS for at in range(0, len(text), size)
    ]
    assert train_bpe(chunks, 400).fingerprint == whole.fingerprint
    monkeypatch.setattr(under_test, "SMALL", 10)
    bars = Bars()
    assert train_bpe(chunks, 400, report=bars).fingerprint == whole.fingerprint
    read, learnt = bars.done.values()
    assert read == sum(len(text.encode()) for text in DOCUMENTS)
    assert 0 < learnt <= 399


def test_a_small_text_is_learnt_from_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    train_bpe(DOCUMENTS[:1], 300)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("run", ["acgt" * 100, "0123456789" * 40, "-" * 400, "语言" * 200])
def test_a_run_without_a_space_is_learnt_from_in_pieces(
    monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    """The library takes minutes for a run of 300,000 characters, such as DNA."""
    ordinary = "words of a text " * 20
    assert [*_words([ordinary])] == [ordinary]
    monkeypatch.setattr(under_test, "LONGEST_WORD", 100)
    assert [*_words([ordinary])] == [ordinary]
    text = f"{ordinary}{run} {ordinary}"
    assert "".join(parts := [*_words([text])]) == text
    assert [len(part) for part in parts] == [len(ordinary) + 100, 100, 100, 101 + len(ordinary)]


def test_half_a_surrogate_pair_is_text_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ["a\ud800b words and words"] * 5
    here = train_bpe(documents, 262)
    monkeypatch.setattr(under_test, "SMALL", 10)
    assert train_bpe(documents, 262).fingerprint == here.fingerprint


@pytest.mark.parametrize("code", ["import sys; sys.exit('no memory')", "import os; os.abort()"])
def test_a_process_that_fails_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    child = tmp_path / "child.py"
    child.write_text(code)
    monkeypatch.setattr(under_test, "SMALL", 10)
    monkeypatch.setattr("llmc.tokens.bpe_child.__file__", str(child))
    with pytest.raises(BadData, match="training the tokenizer failed"):
        train_bpe(DOCUMENTS, 400)


def test_ctrl_c_ends_the_training_at_once(llmc: Llmc) -> None:
    text = llmc.workspace / "text.txt"
    letters = random.Random(1)  # so many words that training takes many seconds
    text.write_text(
        "\n".join("".join(letters.choices(ascii_lowercase, k=9)) for _ in range(400_000))
    )
    with subprocess.Popen(
        [*llmc.command, "tokenize", "text.txt", "--tokenizer", "bpe:60000"],
        cwd=llmc.workspace,
        env=llmc.env(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (children := children_of(process.pid)) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(1)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert time.monotonic() - start < 10  # under a second on a machine that does nothing else
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def children_of(pid: int) -> list[str]:
    """Return the processes that a process has started."""
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
