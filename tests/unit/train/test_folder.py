from __future__ import annotations

import fcntl
import os
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from llmc.config import SampleConfig, TrainConfig
from llmc.errors import BadData, MissingOutput, Usage
from llmc.model import ModelConfig
from llmc.paths import CHECKPOINT, CONFIG, METRICS, RECORD, Workspace
from llmc.preset import Preset, load_preset
from llmc.tokens.prepared import prepared_model, record_prepared
from llmc.train.folder import claim_run, discard_run, find_run, new_run, newest_run, write_config
from llmc.train.history import find_history
from llmc.train.record import resumable, write_record


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def a_run(workspace: Workspace, name: str) -> Path:
    folder = workspace.runs / name
    folder.mkdir(parents=True)
    (folder / CHECKPOINT).touch()
    return folder


def test_runs_are_numbered_after_the_last(workspace: Workspace) -> None:
    assert new_run(workspace, None, "texts").name == "texts-1"
    for name in ("texts-1", "texts-9", "texts-x", "texts-10-old", "other-50", "texts-²"):
        a_run(workspace, name)
    assert new_run(workspace, None, "texts") == workspace.runs / "texts-10"
    assert new_run(workspace, None, "other").name == "other-51"
    assert new_run(workspace, None, "[t]").name == "[t]-1"


def test_a_name_is_taken_as_it_is(workspace: Workspace) -> None:
    for name in ("mine", "größe", "a.b-c_d+1"):
        assert new_run(workspace, name, "texts") == workspace.runs / name


def test_a_run_belongs_to_the_one_that_was_first(workspace: Workspace) -> None:
    """However many ask at once; a folder that is there already does not make them owners."""
    (workspace.runs / "mine").mkdir(parents=True)

    def claimed(name: str | None) -> Path | None:
        try:
            return claim_run(workspace, name, "texts")
        except Usage as error:
            assert "mine exists" in str(error)
            return None

    with ThreadPoolExecutor(16) as pool:
        named = [folder for folder in pool.map(claimed, ["mine"] * 16) if folder is not None]
        numbered = list(pool.map(claimed, [None] * 16))
    assert named == [workspace.runs / "mine"]
    assert sorted(str(path) for path in numbered) == sorted(
        str(workspace.runs / f"texts-{number}") for number in range(1, 17)
    )
    (workspace.runs / "file").touch()
    with pytest.raises(BadData, match="cannot write"):
        claim_run(workspace, "file", "texts")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/a", "a b", "a\n", "a\0"])
def test_a_name_that_is_none_is_refused(workspace: Workspace, name: str) -> None:
    with pytest.raises(Usage, match="is not a folder name"):
        new_run(workspace, name, "texts")


def test_a_run_that_saved_is_not_overwritten(workspace: Workspace) -> None:
    folder = a_run(workspace, "mine")
    with pytest.raises(Usage, match="mine exists"):
        new_run(workspace, "mine", "texts")
    (folder / CHECKPOINT).unlink()
    assert new_run(workspace, "mine", "texts") == folder


def test_the_newest_run_is_found(workspace: Workspace) -> None:
    with pytest.raises(MissingOutput, match="run 'llmc train' first"):
        find_run(workspace, None)
    old, new = a_run(workspace, "b"), a_run(workspace, "a")
    (workspace.runs / "unsaved").mkdir()
    os.utime(old / CHECKPOINT, (1, 1))
    assert find_run(workspace, None) == new
    assert find_run(workspace, "b") == old
    for name in ("unsaved", "none"):
        with pytest.raises(MissingOutput, match=f"run 'llmc train --run {name}' first"):
            find_run(workspace, name)


def test_the_newest_run_is_the_one_that_was_written_to_last(workspace: Workspace) -> None:
    """Whatever was written, and whoever asks: to sample, to plot, to go on."""
    files = (METRICS, CHECKPOINT, RECORD)
    a, b = a_run(workspace, "a"), a_run(workspace, "b")
    for last in files:
        for newest, other in ((a, b), (b, a)):
            for folder, when in ((newest, 1), (other, 2)):
                for name in files:
                    (folder / name).touch()
                    os.utime(folder / name, (when, when))
            os.utime(newest / last, (3, 3))
            assert [newest_run(workspace, having) for having in files] == [newest] * 3
    (b / CHECKPOINT).unlink()
    assert newest_run(workspace, METRICS) == b
    assert newest_run(workspace, CHECKPOINT) == a


def test_the_newest_run_does_not_follow_from_clocks_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes back two hours between two runs, and again before the first is resumed."""
    a, b = a_run(workspace, "a"), a_run(workspace, "b")

    def begins(folder: Path, hour: int) -> None:
        monkeypatch.setattr("llmc.train.folder.time.time_ns", lambda: hour * 3600 * 10**9)
        write_record(folder, {})
        for name in (METRICS, CHECKPOINT, RECORD):
            (folder / name).touch()
            os.utime(folder / name, (hour * 3600, hour * 3600))

    for folder, hour in ((a, 5), (b, 3), (a, 1), (b, 9)):
        begins(folder, hour)
        assert newest_run(workspace, CHECKPOINT) == folder


def test_settings_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["llmc", "train", "--data", "a b\nlr = 3\x1b"])
    train = TrainConfig(lr=0.1 + 0.2, eps=1.1e-20, shuffle=False, max_tokens=2**53)
    sample = SampleConfig(top_p=0.5)
    write_config(tmp_path, Preset(model=ModelConfig(layers=3), train=train, sample=sample))
    preset = load_preset(str(tmp_path / CONFIG))
    assert preset.train == train
    assert (preset.model, preset.sample) == (ModelConfig(layers=3), SampleConfig(top_p=0.5))
    text = (tmp_path / CONFIG).read_text()
    assert text.splitlines()[0].endswith("llmc train --data 'a b?lr = 3?'")
    assert tomllib.loads(text)["train"] == asdict(train)


def test_what_never_began_is_removed_and_nothing_else(workspace: Workspace) -> None:
    folder = a_run(workspace, "mine")
    names = ("config.toml", "metrics.jsonl", "tokenizer.json", "tokenizer.tiktoken")
    for name in names:
        (folder / name).touch()
    discard_run(folder)
    assert [path.name for path in folder.iterdir()] == [CHECKPOINT]
    (folder / CHECKPOINT).unlink()
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / CONFIG).touch()
    discard_run(folder)
    assert [path.name for path in folder.iterdir()] == [CONFIG]  # a trainer works on it
    os.close(lock)
    discard_run(folder)
    assert not folder.exists()
    discard_run(folder)


def test_a_dataset_remembers_its_model(workspace: Workspace, tmp_path: Path) -> None:
    dataset, model = workspace.data / "texts", workspace.models / "a.bin"
    dataset.mkdir(parents=True)
    assert prepared_model(workspace, dataset) is None
    record_prepared(workspace, dataset, model)
    assert prepared_model(workspace, dataset) is None  # it is gone
    model.parent.mkdir()
    model.touch()
    assert prepared_model(workspace, dataset) == model
    moved = Workspace(tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved")))
    assert prepared_model(moved, moved.data / "texts") == moved.models / "a.bin"


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense"])
def test_a_broken_record_is_refused(workspace: Workspace, text: str) -> None:
    workspace.root.joinpath("prepared.json").write_text(text)
    with pytest.raises(BadData, match="run 'llmc prepare NAME' again"):
        prepared_model(workspace, workspace.root)


def test_a_misspelled_run_names_the_one_that_is_meant(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name in ("notes-1", "other"):
        (workspace.runs / name).mkdir(parents=True)
    for find in (find_run, find_history, resumable):
        with pytest.raises(MissingOutput, match="did you mean 'notes-1'"):
            find(workspace, "note-1")
        with pytest.raises(MissingOutput) as caught:
            find(workspace, "xyz")
        assert "did you mean" not in str(caught.value)
