"""The Python API on a tiny text, from the text to a model that writes; and its page in docs/."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

import llmc
from llmc.errors import LlmcError, MissingOutput, Usage
from tests.helpers.places import ROOT

TEXT = "Once upon a time there was a small model, and it wrote small words.\n" * 60
SHAPE = llmc.ModelConfig(layers=1, heads=2, channels=16, context=32)
PAGE = ROOT / "docs" / "guide" / "python.md"


@pytest.fixture
def workspace(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(cache))
    (tmp_path / "notes.txt").write_text(TEXT)
    return tmp_path


def test_from_a_text_to_a_model_that_writes(
    workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = llmc.tokenize(workspace / "notes.txt", tokenizer="byte", workspace=workspace)
    assert data.folder == workspace / "data" / "notes"
    run = llmc.train(
        data, model=SHAPE, workspace=workspace, steps=4, batch_size=2, seq_len=16, lr=1e-3
    )
    assert run.steps == 4
    assert run.val_loss is not None
    assert run.checkpoint is not None
    assert run.checkpoint.is_file()
    more = llmc.train(workspace=workspace, resume=True, steps=6)
    assert (more.folder, more.steps) == (run.folder, 6)

    with llmc.load(run.folder.name, workspace=workspace) as model:
        text = model.sample("Once", tokens=12, seed=3, ignore_eot=True)
        assert text
        assert "".join(model.stream("Once", tokens=12, seed=3, ignore_eot=True)) == text
        with pytest.raises(Usage, match="nonsense"):
            model.sample("Once", nonsense=1)  # type: ignore[call-arg]

    result = llmc.evaluate(run.folder, workspace=workspace, seq_len=16)
    assert 0 < result.loss < 7

    timed = llmc.train(data, budget="2s", lr=1e-3, workspace=workspace)
    assert (timed.settings.lr, timed.settings.max_time) == (1e-3, "2s")
    assert timed.val_loss is not None
    assert timed.bits_per_byte == pytest.approx(timed.val_loss / math.log(2), rel=0.1)
    with pytest.raises(Usage, match="budget"):
        llmc.train(budget="2s", resume=True, workspace=workspace)
    assert result.score.bits_per_byte is not None
    assert capfd.readouterr() == ("", "")


def test_a_sweep_compares_and_continues(workspace: Path) -> None:
    data = llmc.tokenize(workspace / "notes.txt", tokenizer="byte", workspace=workspace)
    given: dict[str, Any] = {"batch_size": 2, "seq_len": 16, "val_every": 4, "lr": [1e-9, 1e-2]}
    rows = llmc.sweep(data, model=SHAPE, workspace=workspace, steps=4, **given)
    assert [row.values["lr"] for row in rows] == [1e-2, 1e-9]
    assert rows[0].loss < rows[1].loss
    folder = workspace / "runs" / rows[0].runs[0].name
    written = (folder / "metrics.jsonl").stat().st_mtime_ns
    again = llmc.sweep(data, model=SHAPE, workspace=workspace, steps=4, **given)
    assert [row.loss for row in again] == [row.loss for row in rows]
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == written
    with pytest.raises(Usage, match="several values"):
        llmc.sweep(data, model=SHAPE, workspace=workspace, lr=1e-3)
    ends: dict[str, Any] = {"steps": 4, "max_time": "5s", "max_tokens": [100, 200], "epochs": 1}
    for name, value in ends.items():
        with pytest.raises(Usage, match=f"--{name.replace('_', '-')} both say when a trial ends"):
            llmc.sweep(data, workspace=workspace, budget="1s", lr=[1e-3, 1e-2], **{name: value})


def test_failures_are_typed(workspace: Path) -> None:
    with pytest.raises(MissingOutput):
        llmc.train(workspace=workspace)
    with pytest.raises(MissingOutput):
        llmc.load("nothing", workspace=workspace)
    with pytest.raises(MissingOutput):
        llmc.evaluate("nothing", workspace=workspace)
    with pytest.raises(LlmcError):
        llmc.tokenize(workspace / "absent.txt", workspace=workspace)
    llmc.tokenize(workspace / "notes.txt", tokenizer="byte", workspace=workspace)
    with pytest.raises(Usage):
        llmc.train(model=SHAPE, workspace=workspace, schedule="nonsense")
    with pytest.raises(Usage, match="did you mean 'lr'"):
        llmc.train(model=SHAPE, workspace=workspace, lrr=1)


def test_text_is_read_as_on_the_command_line(workspace: Path) -> None:
    (workspace / "chats.jsonl").write_text('{"messages": [{"content": "Hello there"}]}\n' * 9)
    (workspace / "old.txt").write_bytes(TEXT.replace("small", "tr\xe8s").encode("latin-1"))
    made = llmc.tokenize(
        [workspace / "chats.jsonl", workspace / "old.txt"],
        tokenizer="byte",
        field=["text", "messages"],
        encoding="Latin1",
        out=str(workspace / "both"),
        workspace=workspace,
    )
    assert made.folder == workspace / "both"
    assert made.manifest.source[0]["field"] == ["text", "messages"]
    assert made.manifest.source[1]["encoding"] == "iso8859-1"
    wrong: list[dict[str, Any]] = [
        {"encoding": "nosuch"}, {"newlines": "cr"}, {"feild": "x"}, {"include": "*.txt"}
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(Usage):
            llmc.tokenize(workspace / "notes.txt", workspace=workspace, **options)


def test_arguments_without_meaning_are_refused(workspace: Path) -> None:
    data = llmc.tokenize(workspace / "notes.txt", tokenizer="byte", workspace=workspace)
    texts: list[Any] = [[], [(data, "much")], [(data, True)]]
    for text in texts:
        with pytest.raises(Usage):
            llmc.train(text, model=SHAPE, workspace=workspace)
    for setting in ({"lr": "1e-3"}, {"steps": "2"}, {"max_time": -1}):
        with pytest.raises(Usage, match=next(iter(setting))):
            llmc.train(data, model=SHAPE, workspace=workspace, **setting)
    for options in ({"split": "test"}, {"max_tokens": 0}, {"batch_size": 0}, {"threads": 0}):
        with pytest.raises(Usage, match=next(iter(options))):
            llmc.evaluate("any", workspace=workspace, **options)


def test_the_page_runs(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 7
    exec("\n".join(blocks), {"__name__": "page"})
    assert "notes-1" in capsys.readouterr().out
