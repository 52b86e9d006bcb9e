"""A schedule that --max-time cuts off is announced, with the number of steps that fits."""

from __future__ import annotations

import pytest

from llmc.config import TrainConfig
from llmc.train.arrival import LOOK, Watch, late
from llmc.train.metrics import Event, Progress, ending

COSINE = TrainConfig(steps=10000, schedule="cosine", max_time="10m")


@pytest.mark.parametrize(
    ("settings", "steps", "fits", "words"),
    [
        (COSINE, 10000, 4876.0, "--steps 4800"),
        (COSINE, 10000, 99.9, "--steps 99"),
        (COSINE, 10000, 0.4, "--steps 1,"),
        (COSINE, 10000, 9100.0, None),
        (COSINE, 10000, 1e9, None),
        (TrainConfig(schedule="cosine"), 10000, 3.0, None),
        (TrainConfig(max_time="1m"), 10000, 3.0, None),
        (TrainConfig(max_time="1m", warmup=50), None, 49.0, "within the 50 steps of --warmup"),
        (TrainConfig(max_time="1m", warmup=50), None, 51.0, None),
    ],
)
def test_what_is_said(
    settings: TrainConfig, steps: int | None, fits: float, words: str | None
) -> None:
    said = late(settings, steps, fits)
    assert said is None if words is None else words in (said or "")


def test_the_first_steps_are_timed() -> None:
    """100 steps before a resume took 300 s of 600; 20 more take 10 ms each, the first one more."""
    start: Event = {"event": "start", "step": 100, "steps": 10**6, "seconds": 300.0}
    progress, watch = Progress(None, train=[(step, 5.0) for step in range(100)]), Watch(COSINE)
    said = []
    steps: list[Event] = [{"step": 100 + i, "train_loss": 5.0} for i in range(2 * LOOK)]
    for event in (start, *steps):
        told = event | {"step_ms": 500.0 if event["step"] == 100 else 10.0}
        progress.add(told, lambda _ids: "")
        said.append(watch.take(told, progress))
    (sentence,) = filter(None, said)
    assert said.index(sentence) == LOOK
    assert f"about step {120 + (300 - 0.69) / 0.01:,.0f} of 1,000,000" in sentence


def test_steps_that_try_numbers_of_threads_are_not_timed() -> None:
    progress, watch = Progress(10**6), Watch(COSINE, wait=3.0)
    said = []
    for step in range(200):
        told = {"step": step, "train_loss": 5.0, "step_ms": 100.0 if step < 10 else 20.0}
        progress.add(told, lambda _ids: "")
        said.append(watch.take(told, progress))
    (sentence,) = filter(None, said)
    assert said.index(sentence) >= 30  # 3 s, and 20 steps after the slow ones
    assert float(sentence.split("step ")[1].split(" ")[0].replace(",", "")) > 28_000


def test_the_end_says_that_the_schedule_was_cut_off() -> None:
    end = {"event": "end", "reason": "time", "step": 70, "steps": 10000}
    assert ending(end, COSINE).endswith("70 steps of the 10,000 of its cosine schedule")
    assert "schedule" not in ending(end, TrainConfig(max_time="1m"))
