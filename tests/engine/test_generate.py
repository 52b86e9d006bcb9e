"""``llmc-native generate``: its protocol, and texts that depend on their own request alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.model import ModelConfig
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.generate import generate, line
from tests.helpers.isas import ALL_ISAS
from tests.helpers.models import RAGGED, save_model

V = RAGGED.vocab_size
POSITIONS = RAGGED.context


def test_the_events_of_a_text(native: Native, model: Path) -> None:
    said = generate(native, model, [line("a-1_B", [1, 2, 3], tokens=4, logprobs=3)], slots=2)
    ready, *tokens, end = said.events
    assert ready.pop("memory_bytes") > 0
    assert ready.pop("isa") in ALL_ISAS
    assert ready == {
        "event": "ready",
        "slots": 2,
        "positions": POSITIONS,
        "vocab_size": V,
        "dtype": "fp32",
        "threads": 1,
    }
    for token in tokens:
        assert token["event"] == "token"
        assert 0 <= token["token"] < V
        assert token["logprob"] < 0
        ids, logprobs = zip(*token["top"], strict=True)
        assert len(set(ids)) == 3
        assert list(logprobs) == sorted(logprobs, reverse=True)
        if token["token"] in ids:
            assert token["logprob"] == logprobs[ids.index(token["token"])]
    assert end.pop("prompt_ms") > 0
    assert end.pop("ms") > 0
    assert end == {
        "event": "end",
        "id": "a-1_B",
        "reason": "length",
        "prompt_tokens": 3,
        "tokens": 4,
    }
    assert len(tokens) == 4


def test_all_alternatives_are_a_distribution(native: Native, tmp_path: Path) -> None:
    config = ModelConfig(layers=1, heads=2, channels=16, context=8, vocab_size=20)
    model = save_model(tmp_path / "model.bin", config)
    said = generate(native, model, [line("a", [1], tokens=6, logprobs=20)])
    for token in said.of("a"):
        assert sum(np.exp(logprob) for _, logprob in token["top"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("flags", [{"temperature": 0}, {"top-k": 3}, {"top-p": 0.5}, {}])
def test_unused_ids_are_never_drawn(
    native: Native, tmp_path: Path, flags: dict[str, object]
) -> None:
    config = ModelConfig(layers=1, heads=2, channels=16, context=8, vocab_size=20)
    model = save_model(tmp_path / "model.bin", config)
    asked = [line(f"n{seed}", [1], tokens=40, seed=seed, logprobs=20, **flags) for seed in range(5)]
    said = generate(native, model, asked, **{"unused-ids": "0-3,7-7,12-19"})
    allowed = {4, 5, 6, 8, 9, 10, 11}
    for seed in range(5):
        assert set(said.tokens(f"n{seed}")) <= allowed
        for token in said.of(f"n{seed}"):
            assert {other for other, _ in token["top"]} == allowed
            assert sum(np.exp(value) for _, value in token["top"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("ranges", ["", "3", "5-4", "1-20", "1-2,", "-1-2", "1-2 3-4", "x"])
def test_unused_ids_that_are_no_ranges_are_refused(
    native: Native, tmp_path: Path, ranges: str
) -> None:
    config = ModelConfig(layers=1, heads=2, channels=16, context=8, vocab_size=20)
    model = save_model(tmp_path / "model.bin", config)
    done = native("generate", model=model, unused_ids=ranges)
    assert done.returncode == 2
    assert "--unused-ids" in done.stderr


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with 20 symbols: 20 alternatives are all of the distribution."""
    config = ModelConfig(layers=2, heads=2, channels=16, context=64, vocab_size=20)
    return save_model(tmp_path_factory.mktemp("few") / "model.bin", config)


PENALTIES: list[Flags] = [
    {"frequency_penalty": 0.3},
    {"presence_penalty": 0.7},
    {"frequency_penalty": -0.05, "presence_penalty": 2},
    {"bias": "3:0.5,7:-0.25,18:-100"},
    {"frequency_penalty": 0.2, "presence_penalty": 0.1, "bias": "5:0.8"},
]


@pytest.mark.parametrize("flags", PENALTIES)
def test_penalties_and_biases_are_openai_s(native: Native, few: Path, flags: Flags) -> None:
    """The likeliest token by its formula, from the distributions that were told.

    The prompt's own tokens do not count.
    """
    asked = {"tokens": 60, "temperature": 0, "logprobs": 20}
    events = generate(native, few, [line("a", [3, 3, 3], **asked, **flags)]).of("a")
    pairs = str(flags.get("bias", "")).split(",") if "bias" in flags else []
    bias = np.zeros(20)
    for token, added in (pair.split(":") for pair in pairs):
        bias[int(token)] = float(added)
    times = np.zeros(20)
    for event in events:
        scores = np.empty(20)
        for token, logprob in event["top"]:
            scores[token] = logprob
        assert event["logprob"] == scores[event["token"]]  # the model's own
        scores += bias
        scores -= float(flags.get("frequency_penalty", 0)) * times
        scores -= float(flags.get("presence_penalty", 0)) * (times > 0)
        assert event["token"] == np.argmax(scores)
        times[event["token"]] += 1
    plain = generate(native, few, [line("a", [3, 3, 3], **asked)]).tokens("a")
    assert [event["token"] for event in events] != plain


def test_what_a_token_is_drawn_with(native: Native, tmp_path: Path) -> None:
    """Biases, penalties and the temperature in numpy; the prompt stands for what was written."""
    logits = (3 * np.random.default_rng(1).standard_normal((4, 50))).astype(np.float32)
    (tmp_path / "logits").write_bytes(logits.tobytes())
    text = [7, 7, 7, 8, 49]
    request = line(
        "a", text, temperature=0.7, frequency_penalty=0.5, presence_penalty=-0.3, bias="0:2,7:1.5"
    )
    flags: Flags = {"logits": tmp_path / "logits", "out": tmp_path / "out"}
    succeeded(native("debug-filter", vocab_size=50, request=request.strip(), **flags))
    scores = logits.astype(np.float64)
    scores[:, 0] += 2
    scores[:, 7] += 1.5 - 3 * 0.5
    scores[:, [8, 49]] -= 0.5
    scores[:, [7, 8, 49]] += 0.3
    weights = np.exp(scores / 0.7)
    got = np.fromfile(tmp_path / "out", np.float32).reshape(logits.shape)
    np.testing.assert_allclose(got, weights / weights.sum(1, keepdims=True), rtol=1e-5, atol=1e-9)


def test_no_penalty_and_no_bias_change_nothing(native: Native, few: Path) -> None:
    asked = {"tokens": 50, "seed": 3, "logprobs": 3}
    zeros = {"frequency_penalty": 0, "presence_penalty": 0, "echo": 0}
    said = generate(native, few, [line("a", [1], **asked), line("b", [1], **zeros, **asked)])
    told = [[{**event, "id": ""} for event in said.of(name)] for name in "ab"]
    assert told[0] == told[1]


def test_the_probabilities_of_a_prompt(native: Native, model: Path) -> None:
    """They are those the tokens had when they were written, however many slots there are."""
    asked = {"temperature": 0, "logprobs": 4}
    written = generate(native, model, [line("a", [9], tokens=POSITIONS - 1, **asked)]).of("a")
    text = [9, *(event["token"] for event in written)]
    told = []
    for slots in (1, 3, 8):
        requests = [
            line("b", text, tokens=0, echo=1, **asked),
            line("c", text[:20], tokens=2, echo=1, **asked),
        ]
        said = generate(native, model, requests, slots=slots, threads=2)
        events = [event for event in said.events if event["event"] == "prompt"]
        told.append({name: [e for e in events if e["id"] == name] for name in "bc"})
        assert said.tokens("b") == []
        assert (said.end("b")["reason"], said.end("b")["tokens"]) == ("length", 0)
        assert said.tokens("c") == text[20:22]
    assert told[0] == told[1] == told[2]
    for name, length in (("b", len(text)), ("c", 20)):
        assert [event["token"] for event in told[0][name]] == text[1:length]
        for event, before in zip(told[0][name], written, strict=False):
            assert event["logprob"] == pytest.approx(before["logprob"], abs=1e-5)
            assert dict(event["top"]) == pytest.approx(dict(before["top"]), abs=1e-5)


def test_it_stops_after_end_of_text(native: Native, model: Path) -> None:
    flags = {"tokens": 30, "temperature": 0}
    free = generate(native, model, [line("a", [7], **flags)]).tokens("a")
    at = next(i for i, token in enumerate(free) if token not in free[:i] and i > 2)
    said = generate(native, model, [line("a", [7], eot=free[at], **flags)])
    assert said.tokens("a") == free[: at + 1]
    assert said.end("a")["reason"] == "stop"
    assert said.end("a")["tokens"] == at + 1
    said = generate(native, model, [line("a", [7], eot=-1, **flags)])
    assert said.tokens("a") == free


def test_no_tokens_are_none(native: Native, model: Path) -> None:
    said = generate(native, model, [line("a", [7], tokens=0), line("b", [7], tokens=1)])
    assert said.end("a")["reason"] == "length"
    assert said.tokens("a") == []
    assert len(said.tokens("b")) == 1


REQUESTS = [
    line("greedy", [5], tokens=60, temperature=0, logprobs=5),
    line("free", [6, 7], tokens=60, seed=2, logprobs=2),
    line("long", range(POSITIONS - 1), tokens=60, temperature=0.7, top_k=20, seed=3),
    line("longer", [i % V for i in range(3 * POSITIONS)], tokens=5, top_p=0.8, seed=4),
    line("middle", range(17), tokens=60, temperature=1.5, min_p=0.1, seed=5, logprobs=20),
    line("again", range(16), tokens=60, repetition_penalty=1.5, seed=5),
    line("short", range(15), tokens=3, seed=6),
    line("last", range(20), tokens=90, seed=7, eot=3),
]

NAMES = [request.split()[1] for request in REQUESTS]


def texts(native: Native, model: Path, **flags: Any) -> dict[str, list[dict[str, Any]]]:
    said = generate(native, model, REQUESTS, **flags)
    assert all(said.end(name)["reason"] in ("length", "stop") for name in NAMES)
    return {name: said.of(name) for name in NAMES}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_a_text_is_its_requests_alone(isa: str, dtype: str, native: Native, model: Path) -> None:
    """Neither the other texts, nor their order, nor the threads change a bit of it."""
    alone = texts(native, model, isa=isa, dtype=dtype)
    assert len({str(text) for text in alone.values()}) == len(alone)
    for flags in ({"slots": 8, "threads": 3}, {"slots": 3, "threads": 2}):
        assert texts(native, model, isa=isa, dtype=dtype, **flags) == alone, flags
    backwards = generate(native, model, REQUESTS[::-1], isa=isa, dtype=dtype, slots=70, threads=2)
    assert {name: backwards.of(name) for name in NAMES} == alone


def test_the_rest_of_a_long_prompt_is_what_the_context_holds(native: Native, model: Path) -> None:
    """Half of the context is kept when it is full: docs/reference/generate.md."""
    kept, room = POSITIONS // 2, POSITIONS - POSITIONS // 2
    prompt = [(7 * i) % V for i in range(4 * POSITIONS)]
    for length in (POSITIONS, POSITIONS + 1, POSITIONS + room, POSITIONS + room + 1, 4 * POSITIONS):
        held = length
        while held > POSITIONS:
            held -= room
        assert kept < held <= POSITIONS
        flags = {"tokens": 3, "temperature": 0, "logprobs": 3}
        whole, end = (
            line("a", prompt[:length], **flags),
            line("b", prompt[length - held : length], **flags),
        )
        said = generate(native, model, [whole, end])
        assert [e["top"] for e in said.of("a")] == [e["top"] for e in said.of("b")]
        assert said.end("a")["prompt_tokens"] == length


def test_a_full_context_continues_from_its_newer_half(native: Native, model: Path) -> None:
    flags = {"tokens": 2 * POSITIONS, "temperature": 0, "logprobs": 2}
    free = generate(native, model, [line("a", [9], **flags)])
    text = [9, *free.tokens("a")]
    kept = POSITIONS // 2
    held = text[POSITIONS - kept : POSITIONS + 1]  # what is left, and the token that was too much
    flags["tokens"] = 10
    again = generate(native, model, [line("b", held, **flags)])
    assert [e["top"] for e in again.of("b")] == [
        e["top"] for e in free.of("a")[POSITIONS : POSITIONS + 10]
    ]


def test_fewer_positions_than_the_models(native: Native, model: Path) -> None:
    said = generate(native, model, [line("a", [1], tokens=50, temperature=0)], positions=10)
    assert said.ready["positions"] == 10
    assert len(said.tokens("a")) == 50
    one = generate(native, model, [line("a", [1], tokens=5, temperature=0)], positions=1)
    assert len(one.tokens("a")) == 5
    assert "at most that" in refused(native("generate", model=model, positions=42), 2)


def test_what_does_not_fit_is_refused(native: Native, model: Path) -> None:
    done = native("generate", env={"LLMC_MEMORY": "1000000"}, model=model, slots=8)
    assert "use fewer --slots" in refused(done, 2)
    done = native("sample", env={"LLMC_MEMORY": "1000000"}, model=model, num_samples=8)
    said = refused(done, 2)
    assert f"8 texts of 41 tokens with {model} need " in said
    assert said.endswith(
        " MB of memory, but only 1.00 MB are available; use fewer --num-samples or --tokens, or a "
        "smaller model"
    )


def test_samples_are_written_together(native: Native, model: Path) -> None:
    flags: Flags = {"model": model, "tokens": 50, "seed": 11, "prompt": "1,2,3"}
    lines = native("sample", num_samples=5, threads=2, **flags).stdout.splitlines()
    for i in range(5):
        alone = native("sample", **{**flags, "seed": 11 + i}).stdout.split()
        assert [text.split()[1] for text in lines if text.startswith(f"{i} ")] == alone
    first = native("sample", **flags, temperature=0.5).stdout.split()
    stopped = native("sample", **flags, temperature=0.5, stop="eot", eot=first[4]).stdout.split()
    assert stopped == first[: first.index(first[4]) + 1]
