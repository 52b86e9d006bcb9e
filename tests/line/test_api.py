"""The Python API on a tiny text, from the text to a model that writes; and its page in docs/."""

from __future__ import annotations

import re
from pathlib import Path

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
    assert result.score.bits_per_byte is not None
    assert capfd.readouterr() == ("", "")


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


def test_the_page_runs(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    exec("\n".join(blocks), {"__name__": "page"})
    assert "notes-1" in capsys.readouterr().out
