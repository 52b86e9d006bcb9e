"""What a run's folder tells: numbers as they were measured, and no way to make the reader fail."""

from __future__ import annotations

import fcntl
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc.errors import MissingOutput
from llmc.paths import CHECKPOINT, CONFIG, METRICS, Workspace
from llmc.terminal import printable
from llmc.train.folder import is_running
from llmc.train.history import all_runs, find_history, read_run
from tests.helpers.examples import examples
from tests.helpers.past_runs import TINY_PARAMETERS, a_past_run, loss


def test_a_run_is_read_as_it_was_measured(tmp_path: Path) -> None:
    run = read_run(a_past_run(tmp_path, "mine"))
    assert (run.name, run.state, run.problems) == ("mine", "finished", [])
    assert run.steps == list(range(100))
    assert run.measured["train_loss"] == [loss(step) for step in range(100)]
    assert run.val == [(step, loss(step) + 0.1) for step in range(0, 101, 20)]
    assert (run.planned, run.done, run.saved_step) == (100, 100, 100)
    assert (run.dataset, run.parameters) == ("texts", TINY_PARAMETERS)
    assert (run.tokens_per_step, run.tokens) == (128, 12800)
    assert run.tokens_per_second == pytest.approx(12800)
    assert run.seconds == pytest.approx(1.0)
    assert run.seconds_before([0, 50, 100]) == pytest.approx([0, 0.5, 1])
    assert run.train_loss == loss(99)
    assert run.recent == 5
    assert run.recent_loss == pytest.approx(sum(map(loss, range(95, 100))) / 5)
    assert run.best_val == min(run.val, key=lambda point: point[1])


def test_how_a_run_ended(tmp_path: Path) -> None:
    assert read_run(a_past_run(tmp_path, "a", planned=300)).state == "interrupted"
    assert read_run(a_past_run(tmp_path, "b", planned=300, saved=50)).state == "interrupted"
    assert read_run(a_past_run(tmp_path, "c", saved=None)).state == "never saved"
    folder = a_past_run(tmp_path, "d", planned=300, saved=None)
    assert not is_running(folder)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert read_run(folder).state == "running"
    os.close(lock)
    assert read_run(folder).state == "never saved"


ENDS = [("steps", "finished"), ("time", "finished"), ("early-stop", "stopped early")]
ENDS += [("interrupted", "interrupted"), ("not-finite", "not finite"), ("unheard-of", "finished")]


@pytest.mark.parametrize(("reason", "state"), ENDS)
def test_a_run_says_how_it_ended(tmp_path: Path, reason: str, state: str) -> None:
    folder = a_past_run(tmp_path, "a", planned=100)
    end = {"event": "end", "reason": reason, "step": 100, "steps": 250, "skipped": 0, "seconds": 1}
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(end) + "\n")
    run = read_run(folder)
    assert (run.end, run.planned) == (end, 250)
    assert run.state == (state if reason != "unheard-of" else "interrupted")
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps({"step": 100, "train_loss": 1.0}) + "\n")
    assert read_run(folder).end is None  # it went on


def test_how_many_steps_were_to_be_made(tmp_path: Path) -> None:
    folder = a_past_run(tmp_path, "a", planned=400)
    text = (folder / CONFIG).read_text()
    for changes, planned in (
        ({}, 400),
        ({"max_tokens = 0": "max_tokens = 12801"}, 101),
        ({"max_tokens = 0": "max_tokens = 999999"}, 400),
        ({"steps = 400": "steps = 1000000000"}, None),
        ({"steps = 400": "steps = 1000000000", "max_tokens = 0": "max_tokens = 256"}, 2),
    ):
        changed = text
        for old, new in changes.items():
            assert old in text
            changed = changed.replace(old, new)
        (folder / CONFIG).write_text(changed)
        assert read_run(folder).planned == planned


def test_gradients_that_are_added_up_count_as_one_step(tmp_path: Path) -> None:
    folder = a_past_run(tmp_path, "a")
    text = (folder / CONFIG).read_text()
    text = "".join(line for line in text.splitlines(True) if "total_batch_size" not in line)
    (folder / CONFIG).write_text(text.replace("[train]", "[train]\ntotal_batch_size = 512"))
    assert read_run(folder).tokens == 51200


def test_half_a_line_at_the_end_is_no_damage(tmp_path: Path) -> None:
    folder = a_past_run(tmp_path, "a")
    with (folder / METRICS).open("a") as file:
        file.write('{"step":100,"train_lo')
    run = read_run(folder)
    assert (run.problems, run.done) == ([], 100)


def test_a_step_told_again_replaces_what_followed(tmp_path: Path) -> None:
    folder = a_past_run(tmp_path, "a")
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps({"step": 40, "train_loss": 1.0, "step_ms": 10}) + "\n")
        file.write(json.dumps({"step": 40, "val_loss": 1.5}) + "\n")
        file.write(json.dumps({"event": "resumed", "at": 40}) + "\n")
    run = read_run(folder)
    assert run.steps == list(range(41))
    assert {len(column) for column in run.measured.values()} == {41}
    assert (run.train_loss, run.val[-2:]) == (1.0, [(20, loss(20) + 0.1), (40, 1.5)])
    assert math.isnan(run.measured["lr"][-1])
    assert [step for step, _ in run.points("lr")] == list(range(40))


BAD_LINES = [b"{", b"[]", b"\xff\xfe", b"null", b'{"step":-1,"val_loss":1}', b"1" * 5000]
BAD_LINES += [b'{"step":1.5,"val_loss":1}', b'{"step":true,"val_loss":1}', b'{"val_loss":1}']
BAD_LINES += [b'{"step":1,"val_loss":"x"}', b'{"step":1,"train_loss":null}', b"[" * 100000]
BAD_LINES += [b'{"step":1,"val_loss":1' + b"0" * 400 + b"}", b'{"step":1,"train_loss":1,"lr":[]}']


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_line_that_is_no_measurement_is_named(tmp_path: Path, line: bytes) -> None:
    folder = a_past_run(tmp_path, "a", val_every=0)
    good = (folder / METRICS).read_bytes().splitlines(True)
    (folder / METRICS).write_bytes(b"".join(good[:9]) + line + b"\n" + b"".join(good[9:]))
    run = read_run(folder)
    assert run.state == "broken"
    assert run.problems == ["line 10 of metrics.jsonl is not a measurement"]
    assert run.done == 9


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert read_run(tmp_path / "empty").problems == [
        "it has no config.toml",
        "it has no metrics.jsonl",
    ]
    (tmp_path / "gone").symlink_to("nowhere")
    assert "is not a folder" in read_run(tmp_path / "gone").problems[0]
    folder = a_past_run(tmp_path, "a")
    (folder / CONFIG).write_text("[model\n")
    assert "config.toml is not valid TOML" in read_run(folder).problems[0]
    (folder / CONFIG).write_bytes(b"\xff")
    assert "config.toml is not valid TOML" in read_run(folder).problems[0]
    (folder / "config.toml").write_text(f"a = {'[' * 5000}")
    assert "config.toml" in read_run(folder).problems[0]
    folder = a_past_run(tmp_path, "b")
    (folder / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes()[:-1])
    assert "model.bin" in read_run(folder).problems[0]
    folder = a_past_run(tmp_path, "c")
    (folder / METRICS).unlink()
    (folder / METRICS).mkdir()
    assert read_run(folder).problems == ["cannot read metrics.jsonl: Is a directory"]


def test_a_record_says_what_it_was_trained_on(tmp_path: Path) -> None:
    folder = a_past_run(tmp_path, "a")
    record = folder / "run.json"
    record.write_text(json.dumps({"data": "data/stdlib/train.bin"}))
    os.utime(record, (1e9, 1e9))
    assert (read_run(folder).dataset, read_run(folder).started) == ("stdlib", 1e9)
    record.write_text(json.dumps({"data": "tokens/mine.bin"}))
    assert read_run(folder).dataset == "mine"
    record.write_text("[]")
    assert (read_run(folder).dataset, read_run(folder).problems) == (None, [])
    record.write_text("{")
    assert "cannot read run.json" in read_run(folder).problems[0]


def test_a_config_with_other_keys_is_no_damage(tmp_path: Path) -> None:
    folder = a_past_run(tmp_path, "a")
    (folder / CONFIG).write_text("new = 1\n[train]\nsteps = 'many'\n[model]\nlayers = -3\n[x.y]\n")
    run = read_run(folder)
    assert (run.problems, run.planned, run.tokens) == ([], None, None)
    assert run.parameters == TINY_PARAMETERS  # the checkpoint knows


@given(
    metrics=st.binary(max_size=200), config=st.binary(max_size=100), model=st.binary(max_size=40)
)
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_makes_the_reader_fail(
    tmp_path: Path, metrics: bytes, config: bytes, model: bytes
) -> None:
    (tmp_path / METRICS).write_bytes(metrics + b"\n")
    (tmp_path / CONFIG).write_bytes(config)
    (tmp_path / CHECKPOINT).write_bytes(model)
    run = read_run(tmp_path)
    assert run.problems  # forty bytes are no model
    assert run.seconds >= 0


def test_runs_are_found(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert all_runs(workspace) == []
    with pytest.raises(MissingOutput, match="run 'llmc train' first"):
        find_history(workspace, None)
    a_past_run(workspace.runs, "old", updated=1e9)
    new = a_past_run(workspace.runs, "new", updated=2e9)
    (workspace.runs / "new.txt").touch()
    (workspace.runs / ".hidden").mkdir()
    assert [run.name for run in all_runs(workspace)] == ["new", "old"]
    assert find_history(workspace, None).folder == new
    assert find_history(workspace, "old").name == "old"
    assert find_history(Workspace(tmp_path / "elsewhere"), str(new)).name == "new"
    with pytest.raises(MissingOutput, match="'llmc runs' lists the runs there are"):
        find_history(workspace, "none")


def test_a_name_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2J\n\u202eb größe 日本") == "a?[2J??b größe 日本"
