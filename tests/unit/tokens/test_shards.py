"""Shards, validation cuts, interruptions: the same dataset in the end."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.cli.context import Context
from llmc.errors import BadData
from llmc.text.source import Part, Source
from llmc.tokens import dataset as dataset_making
from llmc.tokens.divide import Cut
from llmc.tokens.files import TokenFile, read_tokens, write_tokens
from llmc.tokens.manifest import Manifest, Split, load_manifest, verify
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.tokenizing import tokenized

EOT = 256


def documents(count: int, seed: int = 1) -> list[str]:
    """Return ragged documents: empty ones, long ones, and some that are not ASCII."""
    chance = random.Random(seed)
    alphabet = "abc de\n" * 5 + "é日🙂"
    return ["".join(chance.choices(alphabet, k=chance.randrange(400))) for _ in range(count)]


def texts(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index, text in enumerate(documents(count)):
        (folder / f"{index:04}.txt").write_text("x" + text, encoding="utf-8")
    return folder


def sharded(here: Context, *inputs: Path | str, out: str, **options: Any) -> Manifest:
    """Tokenize into the dataset ``out``, without gigatoken."""
    return tokenized(here.workspace, *inputs, out=here.workspace.data / out, fast=False, **options)


def ids_of(made: Manifest, split: Split) -> list[int]:
    files = [read_tokens(made.folder / shard.file) for shard in split.shards]
    return [int(id) for id in np.concatenate(files)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shard_tokens", [997, 5000, 10**6])
def test_shards_are_the_same_stream(here: Context, tmp_path: Path, shard_tokens: int) -> None:
    corpus = texts(tmp_path / "corpus", 100)
    whole = sharded(here, corpus, out="whole")
    made = sharded(here, corpus, out="shards", shard_tokens=shard_tokens)
    assert [path.name for path in whole.files] == ["train.bin", "val.bin"]
    for mine, other in ((made.train, whole.train), (made.val, whole.val)):
        assert ids_of(made, mine) == ids_of(whole, other)
        assert all(0 < shard.tokens <= shard_tokens for shard in mine.shards)
    assert made.text_bytes == whole.text_bytes
    if shard_tokens == 10**6:
        assert contents(made.folder) == contents(whole.folder)
    else:
        assert [shard.file for shard in made.train.shards[:2]] == [
            "train_000001.bin",
            "train_000002.bin",
        ]
    assert not (made.folder / ".tokenizing").exists()


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_workers_writes_the_same(
    here: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    corpus = texts(tmp_path / "corpus", 60)
    one = sharded(here, corpus, out="one", workers=1, shard_tokens=1000)
    # Small tasks, so that there are many; a task of several parts, and parts of several tasks.
    monkeypatch.setattr("llmc.tokens.pipeline.UNIT_BYTES", 300)
    monkeypatch.setattr("llmc.tokens.encode.BATCH_CHARACTERS", 50)
    made = sharded(here, corpus, out="many", workers=workers, shard_tokens=1000)
    assert contents(made.folder) == contents(one.folder)


def test_fewer_shards_leave_none_of_the_last(here: Context, tmp_path: Path) -> None:
    corpus = texts(tmp_path / "corpus", 30)
    sharded(here, corpus, out="x", shard_tokens=500)
    made = sharded(here, corpus, out="x", shard_tokens=2000)
    names = {path.name for path in made.folder.iterdir()}
    assert names == {*(path.name for path in made.files), "manifest.json"}
    assert len(made.train.shards) < 10


def test_a_sample_of_more_than_a_shard_has_several(here: Context, tmp_path: Path) -> None:
    corpus = texts(tmp_path / "corpus", 30)
    made = sharded(here, corpus, out="x", shard_tokens=700, val_tokens=1500)
    assert [shard.tokens for shard in made.val.shards[:-1]] == [700] * (made.val.tokens // 700)
    assert abs(made.val.tokens - 1500) < 300
    assert made.train_path.name == "train_*.bin"


def old_cut(ids: list[int], fraction: float) -> int:
    """The rule for one file, as it was before there were shards."""
    stream = np.array(ids)
    target = max(round(fraction * len(stream)), 2 if len(stream) >= 4 else 0)
    low, high = target // 2 + 1, target + target // 2
    starts = np.flatnonzero(stream[low:high] == EOT) + low
    return int(starts[np.abs(starts - target).argmin()]) if starts.size else target


@given(
    ids=st.lists(st.sampled_from([1, 2, 3, 4, EOT]), min_size=1, max_size=80),
    fraction=st.floats(0.01, 0.99),
    places=st.lists(st.integers(0, 80), max_size=4),
    reach=st.sampled_from([1, 3, 1 << 20]),
)
def test_a_fraction_is_cut_at_the_nearest_document_across_shards(
    tmp_path_factory: pytest.TempPathFactory,
    ids: list[int],
    fraction: float,
    places: list[int],
    reach: int,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    ends = [0, *sorted(min(place, len(ids)) for place in places), len(ids)]
    files = [
        write_tokens(folder / f"{n}.bin", [np.array(ids[a:b], np.int64)], 257)
        for n, (a, b) in enumerate(pairwise(ends))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmc.tokens.divide.SLICE", reach)
        assert Cut(fraction=fraction).at(files, EOT) == old_cut(ids, fraction)


def test_a_default_fraction_has_a_limit(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "x.bin", 1000, "")
    write_tokens(file.path, [np.full(1000, 7)], 257)
    assert Cut(fraction=0.1, most=30).at([file], EOT) == 30
    assert Cut(fraction=0.1, most=300).at([file], EOT) == 100
    assert Cut(tokens=2000).at([file], EOT) == 1000


# ---- interruptions


@dataclass(frozen=True)
class Failing:
    """A reader that fails after some documents, as long as a file is not there."""

    texts: tuple[str, ...]
    after: int
    cured: Path

    def __call__(self) -> Iterator[str]:
        for index, text in enumerate(self.texts):
            if index == self.after and not self.cured.exists():
                raise BadData("the reader failed")
            yield text


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Source]]:
    """Let the command open the source that the test puts here."""
    sources: list[Source] = []
    monkeypatch.setattr("llmc.tokens.pipeline.UNIT_BYTES", 1000)
    monkeypatch.setattr("llmc.tokens.encode.BATCH_CHARACTERS", 100)
    monkeypatch.setattr(dataset_making, "open_source", lambda *_args, **_options: sources[-1])
    yield sources


def source_of(*parts: Part, sha256: str = "0") -> Source:
    return Source("some", parts, ({"sha256": sha256},))


@pytest.mark.parametrize("size", [None, 10**6, 1])
@pytest.mark.parametrize("after", [0, 40, 99])
def test_a_failing_reader_ends_it_and_finished_shards_stay(
    here: Context, tmp_path: Path, patched: list[Source], size: int | None, after: int
) -> None:
    """Read here (of unknown or large size) or by a worker; then the same call goes on."""
    cured = tmp_path / "cured"
    some, failing = tuple(documents(50, 2)), Failing(tuple(documents(100, 3)), after, cured)
    patched.append(source_of(Part("a", 10**6, partial(iter, some)), Part("b", size, failing)))
    before = threading.active_count()
    with pytest.raises(BadData, match="the reader failed"):
        sharded(here, "some", out="x", shard_tokens=1000, val_tokens=0)
    assert threading.active_count() == before
    left = here.workspace.data / "x" / ".tokenizing"
    shards = sorted(path.name for path in left.glob("*.bin"))
    assert shards and not list(left.glob("*.part"))
    stamps = [(left / name).stat().st_mtime_ns for name in shards]
    cured.touch()
    made = sharded(here, "some", out="x", shard_tokens=1000, val_tokens=0)
    clean = sharded(here, "some", out="clean", shard_tokens=1000, val_tokens=0)
    assert contents(made.folder) == contents(clean.folder)
    kept = {path.stat().st_mtime_ns for path in made.files}
    assert set(stamps) <= kept


def test_what_is_left_of_other_work_is_thrown_away(
    here: Context, tmp_path: Path, patched: list[Source]
) -> None:
    failing = Failing(tuple(documents(100, 3)), 60, tmp_path / "never")
    patched.append(source_of(Part("a", None, failing)))
    with pytest.raises(BadData):
        sharded(here, "some", out="x", shard_tokens=500)
    whole = Part("a", None, partial(iter, documents(100, 4)))
    patched.append(source_of(whole, sha256="1"))
    made = sharded(here, "some", out="x", shard_tokens=500)
    assert contents(made.folder) == contents(
        sharded(here, "some", out="y", shard_tokens=500).folder
    )


def test_a_damaged_shard_or_journal_is_not_gone_on_from(
    here: Context, tmp_path: Path, patched: list[Source]
) -> None:
    cured = tmp_path / "cured"
    patched.append(source_of(Part("a", None, Failing(tuple(documents(100, 3)), 60, cured))))
    for name in ("train_000002.bin", "journal.json"):
        cured.unlink(missing_ok=True)
        with pytest.raises(BadData, match="the reader failed"):
            sharded(here, "some", out="x", shard_tokens=500)
        path = here.workspace.data / "x" / ".tokenizing" / name
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
        cured.touch()
        made = sharded(here, "some", out="x", shard_tokens=500)
        clean = sharded(here, "some", out="clean", shard_tokens=500)
        assert contents(made.folder) == contents(clean.folder)


def test_another_process_on_the_same_dataset_is_refused(here: Context, tmp_path: Path) -> None:
    corpus = texts(tmp_path / "corpus", 5)
    folder = here.workspace.data / "x"
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(BadData, match="another llmc is writing"):
            sharded(here, corpus, out="x")
    finally:
        os.close(handle)
    assert sharded(here, corpus, out="x").train.tokens > 0


FLAGS = ("--tokenizer", "byte", "--shard-tokens", "20000", "--workers", "2")


@pytest.fixture
def large(llmc: Llmc) -> Path:
    """Two megabytes in files of all sizes, some of them many documents' worth."""
    folder = llmc.workspace / "large"
    folder.mkdir()
    chance = random.Random(5)
    for index in range(12):
        words = "".join(chance.choices("abcdefgh \n", k=chance.choice([500, 50_000, 700_000])))
        (folder / f"{index}.txt").write_text(words)
    return folder


def finished(folder: Path) -> int:
    """How many shards the journal counts."""
    try:
        journal = json.loads((folder / ".tokenizing" / "journal.json").read_text())
    except (OSError, ValueError):
        return 0
    return len(journal["stages"]["train"]["files"])


@pytest.mark.parametrize("times", [2, pytest.param(4, marks=pytest.mark.full)])
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(
    times: int, llmc: Llmc, large: Path
) -> None:
    chance = random.Random(os.getpid())
    folder = llmc.workspace / "data" / "large"
    reached = []
    for _ in range(times):
        already = finished(folder)
        with subprocess.Popen(
            [*llmc.command, "tokenize", "large", *FLAGS],
            cwd=llmc.workspace,
            env=llmc.env(),
            stderr=subprocess.PIPE,
        ) as child:
            wanted = already + chance.randrange(1, 15)
            while child.poll() is None and finished(folder) < wanted:
                time.sleep(0.002)
            time.sleep(chance.random() * 0.01)
            child.send_signal(signal.SIGKILL)
        reached.append(finished(folder))
    assert reached == sorted(reached) and reached[0] > 0
    done = llmc("tokenize", "large", *FLAGS)
    assert done.returncode == 0, done.stderr
    if not (folder / ".tokenizing").exists() and reached[-1]:
        assert "resuming after" in done.stderr
    other = llmc("tokenize", "large", *FLAGS, "--out", "other")
    assert other.returncode == 0, other.stderr
    assert contents(folder) == contents(llmc.workspace / "other")
    verify(load_manifest(folder))


def test_ctrl_c_ends_it_and_keeps_what_is_finished(llmc: Llmc, large: Path) -> None:
    folder = llmc.workspace / "data" / "large"
    with subprocess.Popen(
        [*llmc.command, "tokenize", "large", *FLAGS],
        cwd=llmc.workspace,
        env=llmc.env(),
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        while child.poll() is None and finished(folder) < 3:
            time.sleep(0.002)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    kept = {path.name for path in (folder / ".tokenizing").iterdir()}
    assert kept - {f"train_{finished(folder) + 1:06}.bin"} == {  # the newest may not be noted yet
        "journal.json",
        *(f"train_{n + 1:06}.bin" for n in range(finished(folder))),
    }
    assert not (folder / "manifest.json").exists()
    assert_one_sentence(llmc("train", "--data", folder), 3)
