"""The estimate of a run and its tables, from numbers that are given."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from llmc.cli.views.dry_run import print_estimate, print_memory
from llmc.config import TrainConfig
from llmc.model import ModelConfig
from llmc.train.dry_run import Estimate, planned_work
from llmc.train.metrics import Event, Progress
from llmc.train.plan import Storage, muon_cost, stored_bytes

MEASURED: Event = {
    "event": "measured", "steps": 4, "step_ms": 1500.0, "val_batches": 5, "val_batch_ms": 400.0,
    "sample_tokens": 64, "token_ms": 25.0,
}  # fmt: skip
START: Event = {
    "event": "start", "parameters": 124439808, "isa": "avx2", "threads": 2, "steps": 4000,
    "memory": 2208301056, "memory_available": None, "recompute": False,
    "recompute_saves": 90000000,
    "memory_parts": {"parameters": 2200000000, "buffers": 8301000, "rounding": 56},
}  # fmt: skip


def test_the_arithmetic_of_the_estimate() -> None:
    works = planned_work(TrainConfig(steps=40, val_every=10, sample_every=20), 40, MEASURED)
    assert [(work.count, work.seconds) for work in works] == [(40, 60.0), (25, 10.0), (128, 3.2)]
    works = planned_work(TrainConfig(steps=41, val_every=10, sample_every=0), 41, MEASURED)
    assert [work.count for work in works] == [41, 30, 0]
    works = planned_work(TrainConfig(steps=5, val_every=0, sample_every=6), 5, MEASURED)
    assert [work.count for work in works] == [5, 0, 0]


def test_the_time_that_a_run_may_take_ends_it() -> None:
    """A step takes 1.5 s, the validation before it and the one at the end 2 s each."""
    for steps in (None, 1000):
        settings = TrainConfig(val_every=10**6, sample_every=0, max_time="1m4s")
        works = planned_work(settings, steps, MEASURED)
        assert [(work.count, work.seconds) for work in works] == [(40, 60.0), (10, 4.0), (0, 0.0)]
    settings = TrainConfig(val_every=10**6, sample_every=0, max_time="2h")
    assert planned_work(settings, 1000, MEASURED)[0].count == 1000


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {**MEASURED, "steps": 1}
    for event in (START, measured):
        print_memory(event, Progress(4000))
    print_estimate(Estimate(TrainConfig(steps=4000), START, measured, Storage(5, 6)))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if not line.startswith("disk")] == [
        "memory              bytes",
        "parameters  2,200,000,000  2.20 GB",
        "buffers         8,301,000   8.3 MB",
        "rounding               56   0.0 MB",
        "total       2,208,301,056  2.21 GB",
        "--recompute would save 90,000,000 bytes (90.0 MB)",
        "",
        "time                 count  ms each    total",
        "steps                4,000  1,500.0  1:40:00",
        "validation batches   2,005    400.0    13:22",
        "sampled tokens      12,800     25.0    05:20",
        "the run                              1:58:42",
        "an estimate from 1 measured step (171 tokens/s); saving is not included",
    ]


def test_the_disk_is_told_before_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    storage = Storage(needed=4_480_000_000, free=1_200_000_000)
    print_estimate(Estimate(TrainConfig(steps=4000), START, MEASURED, storage))
    lines = capsys.readouterr().out.splitlines()
    assert "disk: up to 4,480,000,000 bytes (4.48 GB); 1.20 GB are free" in lines
    assert "take up to 4.48 GB of the disk, but only 1.20 GB are free" in " ".join(lines[-2:])
    assert Storage(needed=5, free=5).warning is None


def test_what_a_run_stores() -> None:
    config = ModelConfig()  # GPT-2's
    plain = TrainConfig(save_every=5, val_every=0)
    model = 4 * 124_475_904 + 1024  # the padding of the vocabulary is stored too
    each = model + 8 * 124_475_904 + 1024 + 2048
    assert stored_bytes(config, plain, validates=False) == 2 * each
    assert stored_bytes(config, plain, validates=True) == 3 * each
    muon = TrainConfig(save_every=0, optimizer="muon")  # the blocks' matrices have one moment less
    assert stored_bytes(config, muon, validates=False) == each - 4 * 12 * 12 * 768**2
    patient = TrainConfig(keep=4, patience=3)
    assert stored_bytes(config, patient, validates=True) == 6 * each
    assert stored_bytes(config, patient, validates=False) == each
    for seconds, checkpoints in ((0, 1), (600, 1), (601, 5)):  # it saves every ten minutes
        found = stored_bytes(config, TrainConfig(keep=4), validates=True, seconds=seconds)
        assert found == checkpoints * each
    assert stored_bytes(config, TrainConfig(save_every=0), validates=True, seconds=1e6) == each


def test_muon_says_where_it_costs_much() -> None:
    """And with how many tokens in an update it costs a quarter of a step."""
    config = ModelConfig(layers=4, heads=4, channels=128, context=64, vocab_size=2048)
    few = TrainConfig(batch_size=8, seq_len=64, optimizer="muon")
    assert muon_cost(config, replace(few, optimizer="adamw")) is None
    words = muon_cost(config, few)
    assert words is not None
    (enough,) = map(int, re.findall(r"--total-batch-size (\d+)", words))
    assert enough % (8 * 64) == 0
    assert muon_cost(config, replace(few, total_batch_size=enough)) is None
    assert muon_cost(config, replace(few, total_batch_size=enough - 8 * 64)) is not None
