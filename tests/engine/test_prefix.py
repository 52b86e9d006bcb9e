"""The prefix cache of ``llmc-native generate``: what is reused has the bits of what is computed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.model import ModelConfig
from tests.helpers.engine import Native, environment
from tests.helpers.generate import line
from tests.helpers.isas import isas_but_the_slow
from tests.helpers.models import save_model

CONFIG = ModelConfig(layers=2, heads=2, channels=32, context=700, vocab_size=301)
V = CONFIG.vocab_size
SETTLE_SECONDS = 0.3  # the engine waits for 0.1 before it reads answers again


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("prefix") / "model.bin", CONFIG)


class Engine:
    """An engine that is asked one thing after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.count = 0
        assert self.hear()["event"] == "ready"

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        event: dict[str, Any] = json.loads(self.process.stdout.readline())
        return event

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def ask(self, *asked: tuple[Sequence[int], dict[str, object]]) -> list[list[dict[str, Any]]]:
        """Return the tokens of texts that are asked for at once."""
        names = [f"t{self.count + at}" for at in range(len(asked))]
        self.count += len(asked)
        self.say("".join(line(n, p, **keys) for n, (p, keys) in zip(names, asked, strict=True)))
        texts: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        ended = 0
        while ended < len(names):
            event = self.hear()
            ended += event["event"] == "end"
            if event["event"] != "end":
                texts[event.pop("id")].append(event)
        return [texts[name] for name in names]

    def write(self, prompt: Sequence[int], **keys: object) -> tuple[list[dict[str, Any]], int]:
        """Return the tokens of one text, and how many of its prompt's were in the cache."""
        (events,) = self.ask((prompt, {"logprobs": 2, **keys}))
        return events, events[0].pop("cached")


@contextmanager
def engine(
    native: Native, model: Path, isa: str | None = None, **flags: object
) -> Iterator[Engine]:
    with subprocess.Popen(
        native.argv("generate", model=model, **flags),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(isa),
    ) as process:
        try:
            yield Engine(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def ids(length: int, seed: int = 0) -> list[int]:
    return [(7 * i * i + 3 * i + 11 * seed) % V for i in range(length)]


def fresh(native: Native, model: Path, prompt: Sequence[int], **keys: Any) -> Any:
    """Return what an engine writes that was asked nothing before."""
    flags = {name: keys.pop(name) for name in ("isa", "dtype") if name in keys}
    with engine(native, model, **flags) as alone:
        events, cached = alone.write(prompt, **keys)
    assert cached == 0
    return events


# Lengths of a first and a second prompt with the first one's text between them: about the sizes of
# the pieces in which prompts are read, and about those that are read like written tokens.
TURNS = ((16, 3), (17, 40), (40, 1), (200, 30), (255, 2), (256, 1), (256, 16), (300, 250), (500, 9))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("isa", isas_but_the_slow(), indirect=True)
def test_a_next_turn_has_the_same_bits(isa: str, dtype: str, native: Native, model: Path) -> None:
    """At once and after a while, when what was written has been read again."""
    flags: dict[str, Any] = {"isa": isa, "dtype": dtype}
    for waits in (False, True):
        with engine(native, model, slots=2, threads=2, **flags) as kept:
            for at, (first, more) in enumerate(TURNS):
                prompt = ids(first, at)
                answer, _ = kept.write(prompt, tokens=30, seed=at)
                assert answer == fresh(native, model, prompt, tokens=30, seed=at, **flags)
                if waits:
                    time.sleep(SETTLE_SECONDS)
                turn = [*prompt, *(event["token"] for event in answer), *ids(more, at + 50)]
                again, cached = kept.write(turn, tokens=12, seed=at)
                assert again == fresh(native, model, turn, tokens=12, seed=at, **flags), turn
                # What is read: the rest, at most 16 tokens before it, or a last short piece.
                computed = len(turn) - cached
                assert computed <= more + 16 + (16 if waits else 30 + 16), (first, more, waits)


def test_with_a_blas_whole_pieces_are_reused(
    native: Native, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of its products depend on their size."""
    blas = next((Path(np.__file__).parents[1] / "numpy.libs").glob("*openblas*"), None)
    if blas is None:
        pytest.skip("this numpy brings no OpenBLAS")
    monkeypatch.setenv("LLMC_BLAS", str(blas))
    for waits in (False, True):
        with engine(native, model, slots=2, threads=2, isa="blas") as kept:
            for first, more, expected in (
                (300, 30, 256),
                (240, 30, 256 * waits),
                (500, 60, 256 + 256 * waits),
            ):
                prompt = ids(first, first)
                answer, _ = kept.write(prompt, tokens=30)
                if waits:
                    time.sleep(SETTLE_SECONDS)
                turn = [*prompt, *(event["token"] for event in answer), *ids(more, 50)]
                again, cached = kept.write(turn, tokens=12)
                assert cached == expected
                assert again == fresh(native, model, turn, tokens=12, isa="blas")


def test_texts_that_overflow_the_context(native: Native, model: Path) -> None:
    """They slide in the middle; then the next one shares nothing."""
    with engine(native, model) as kept:
        for at, length in enumerate((600, 690, 699, 700, 1500)):
            prompt = ids(length)
            events, _ = kept.write(prompt, tokens=400 if at % 2 else 20, seed=at)
            expected = fresh(native, model, prompt, tokens=400 if at % 2 else 20, seed=at)
            assert events == expected
            time.sleep(SETTLE_SECONDS)
        text = [*prompt, *(event["token"] for event in events)]
        again, _ = kept.write(text, tokens=20)
        assert again == fresh(native, model, text, tokens=20)


def test_a_text_that_was_cancelled_is_reused(native: Native, model: Path) -> None:
    prompt = ids(300)
    with engine(native, model) as kept:
        kept.say(line("long", prompt, tokens=1_000_000))
        for _ in range(10):
            assert kept.hear()["id"] == "long"
        kept.say("cancel long\n")
        while kept.hear()["event"] != "end":
            pass
        events, cached = kept.write(prompt[:280] + ids(30, 9), tokens=20)
        assert cached >= 264
        assert events == fresh(native, model, prompt[:280] + ids(30, 9), tokens=20)


def test_texts_at_once_share_what_is_read_once(native: Native, model: Path) -> None:
    """Several of one prompt, and others that begin as it does: also while it is being written."""
    head = ids(400)
    seeds: list[dict[str, object]] = [{"tokens": 40, "seed": seed} for seed in range(3)]
    asked = [
        *((head, keys) for keys in seeds),
        *((head[:350] + ids(60, at), keys) for at, keys in enumerate(seeds)),
        (ids(90, 5), seeds[0]),
        (ids(10, 6), seeds[0]),
    ]
    with engine(native, model, slots=5, threads=2) as kept:
        for _ in range(2):
            texts = kept.ask(*asked)
            cached = [events[0].pop("cached") for events in texts]
            assert min(cached[1:3]) >= 384 and min(cached[3:6]) >= 334
            for (prompt, keys), events in zip(asked, texts, strict=True):
                with engine(native, model) as alone:
                    (expected,) = alone.ask((prompt, keys))
                expected[0].pop("cached")
                assert events == expected


def test_conversations_keep_their_slots(native: Native, model: Path) -> None:
    """Three that take turns in three slots; what begins alike does not push another one out."""
    system = ids(60)
    texts = [[*system, *ids(150, seed)] for seed in range(3)]
    with engine(native, model, slots=3) as kept:
        first = [kept.write(text, tokens=5)[1] for text in texts]
        assert first[0] == 0 and min(first[1:]) >= 44
        for _ in range(2):
            for text in texts:
                text.extend(ids(20, len(text)))
                _, cached = kept.write(text, tokens=5)
                assert cached >= len(text) - 20 - 16


def test_probabilities_of_a_prompt_are_computed(native: Native, model: Path) -> None:
    prompt = ids(100)
    with engine(native, model) as kept:
        kept.write(prompt, tokens=5)
        (events,) = kept.ask((prompt, {"tokens": 1, "echo": 1}))
        assert [event["event"] for event in events] == ["prompt"] * 99 + ["token"]
        assert events[-1]["cached"] == 0
