"""``llmc-native generate``: its protocol, and texts that depend on their own request alone."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc.model import ModelConfig
from tests.helpers.engine import (
    ALL_ISAS,
    RAGGED,
    SMALL,
    Flags,
    Native,
    build_sanitized,
    environment,
    must_run,
    refused,
    save_model,
    some_tensors,
)
from tests.helpers.generate import generate, line

V = RAGGED.vocab_size
POSITIONS = RAGGED.context


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.bin", RAGGED)


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


@pytest.mark.parametrize(
    ("bad", "name", "why"),
    [
        ("", "", "a line begins with request or cancel"),
        ("hello", "", "not 'hello'"),
        ("requests a prompt 1", "", "not 'requests'"),
        ("request", "", "an id is a word"),
        ("request  a prompt 1", "", "an id is a word"),
        ("request a.b prompt 1", "", "not 'a.b'"),
        ("request " + "a" * 65 + " prompt 1", "", "1 to 64 letters"),
        ("request a", "a", "ends with its prompt"),
        ("request a tokens 3", "a", "ends with its prompt"),
        ("request a prompt", "a", "prompt needs a value"),
        ("request a prompt ", "a", "token ids below 301"),
        ("request a prompt 1,", "a", "not ''"),
        ("request a prompt 1,,2", "a", "not ''"),
        ("request a prompt 301", "a", "not '301'"),
        ("request a prompt -1", "a", "not '-1'"),
        ("request a prompt 0x1", "a", "not '0x1'"),
        ("request a prompt 99999999999999999999999", "a", "token ids below 301"),
        ("request a prompt 1 tokens 3", "a", "ends with its prompt"),
        ("request a prompt 1 ", "a", "ends with its prompt"),
        ("request a words 3 prompt 1", "a", "a request has no 'words'"),
        ("request a tokens 3 tokens 4 prompt 1", "a", "tokens is given twice"),
        ("request a tokens 1.5 prompt 1", "a", "whole number"),
        ("request a tokens 1e3 prompt 1", "a", "whole number"),
        ("request a temperature -1 prompt 1", "a", "temperature takes a number from 0"),
        ("request a temperature nan prompt 1", "a", "not 'nan'"),
        ("request a temperature inf prompt 1", "a", "not 'inf'"),
        ("request a temperature 0x1p3 prompt 1", "a", "temperature"),
        ("request a temperature 1e999 prompt 1", "a", "temperature"),
        ("request a top-p 1.01 prompt 1", "a", "top-p takes a number from 0 to 1"),
        ("request a min-p -0.1 prompt 1", "a", "min-p"),
        ("request a repetition-penalty 0 prompt 1", "a", "repetition-penalty"),
        ("request a seed 18446744073709551616 prompt 1", "a", "seed"),
        ("request a eot 301 prompt 1", "a", "eot"),
        ("request a eot -2 prompt 1", "a", "eot"),
        ("request a logprobs 21 prompt 1", "a", "from 0 to 20"),
        ('request a temperature "\\\x01\x7f prompt 1', "a", "not '????'"),
        ("cancel", "", "an id is a word"),
        ("cancel a b", "a", "has an id and no more"),
        ("request a prompt 1\0", "a", "not '1?'"),
    ],
)
def test_a_bad_line_is_answered(bad: str, name: str, why: str, native: Native, model: Path) -> None:
    said = generate(native, model, [bad + "\n", line("ok", [1], tokens=2)])
    assert [event["event"] for event in said.events] == ["ready", "end", "token", "token", "end"]
    error = said.events[1]
    assert error["id"] == name
    assert error["reason"] == "error"
    assert error["tokens"] == 0
    assert why in error["message"]


def test_a_line_without_end_and_one_without_a_newline(native: Native, model: Path) -> None:
    endless = "request a prompt " + "1," * 600_000 + "1\n"
    said = generate(native, model, [endless, line("b", [1], tokens=1).rstrip("\n")])
    assert said.events[1]["message"] == "a line is longer than 1048576 bytes"
    assert len(said.tokens("b")) == 1
    assert len(said.events) == 4


def test_an_id_in_use_is_not_taken_twice(native: Native, model: Path) -> None:
    said = generate(native, model, [line("a", [1], tokens=3), line("a", [2], tokens=3)])
    assert len(said.tokens("a")) == 3
    assert said.end("a")["tokens"] == 3
    assert "use another id" in said.end("")["message"]


def test_those_that_wait_have_an_order_and_a_limit(native: Native, model: Path) -> None:
    lines = [line(f"n{i}", [i % V], tokens=1) for i in range(1100)]
    said = generate(native, model, lines, slots=3, threads=2)
    errors = [e for e in said.events if e.get("reason") == "error"]
    begun = [e["id"] for e in said.events if e["event"] == "token"]
    assert 0 < len(errors) <= 1100 - 1024
    assert all("1024 requests are waiting" in error["message"] for error in errors)
    assert len(begun) + len(errors) == 1100
    assert sorted(begun, key=lambda name: int(name[1:])) == begun


class Session:
    """An engine to talk with."""

    def __init__(self, native: Native, model: Path, **flags: object) -> None:
        self.process = subprocess.Popen(
            native.argv("generate", model=model, **flags),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert self.hear()["event"] == "ready"

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        event: dict[str, Any] = json.loads(self.process.stdout.readline())
        return event

    def until_end(self, name: str) -> dict[str, Any]:
        while (event := self.hear())["event"] != "end" or event["id"] != name:
            pass
        return event

    def close(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def test_a_text_joins_and_another_is_cancelled(native: Native, model: Path) -> None:
    session = Session(native, model, slots=2)
    session.say(line("long", [1], tokens=1_000_000))
    assert session.hear()["id"] == "long"
    session.say(line("short", [2], tokens=5) + line("later", [2], tokens=1_000_000))
    assert session.until_end("short")["reason"] == "length"
    session.say(line("waits", [3], tokens=5) + "cancel waits\ncancel nobody\n")
    end = session.until_end("waits")
    assert (end["reason"], end["tokens"], end["prompt_tokens"]) == ("cancelled", 0, 1)
    session.say("cancel long\n")
    end = session.until_end("long")
    assert end["reason"] == "cancelled"
    assert end["tokens"] > 5
    session.say("cancel later\n")
    assert session.until_end("later")["reason"] == "cancelled"
    session.say(line("again", [4], tokens=2))
    assert session.until_end("again")["tokens"] == 2
    assert session.close() == (0, "", "")


def test_the_end_of_input_is_not_the_end_of_texts(native: Native, model: Path) -> None:
    session = Session(native, model)
    session.say(line("a", [1], tokens=200) + line("b", [1], tokens=200))
    code, out, err = session.close()
    assert (code, err) == (0, "")
    assert [json.loads(text)["id"] for text in out.splitlines()].count("b") == 201


def test_ctrl_c_is_not_for_it_and_sigterm_is(native: Native, model: Path) -> None:
    session = Session(native, model)
    session.say(line("a", [1], tokens=1_000_000))
    session.hear()
    session.process.send_signal(signal.SIGINT)
    for _ in range(50):
        assert session.hear()["event"] == "token"
    session.process.send_signal(signal.SIGTERM)
    code, _, err = session.close()
    assert (code, err) == (-signal.SIGTERM, "")


def test_it_ends_when_nobody_listens(native: Native, model: Path) -> None:
    session = Session(native, model)
    session.say(line("a", [1], tokens=1_000_000))
    session.hear()
    assert session.process.stdout is not None
    session.process.stdout.close()
    assert session.process.wait(60) == 0
    assert session.process.stderr is not None
    assert session.process.stderr.read() == ""
    session.process.stderr.close()
    assert session.process.stdin is not None
    session.process.stdin.close()


def test_it_waits_without_work(native: Native, model: Path) -> None:
    """A process that waits uses no processor; one that asks again and again uses all of it."""
    session = Session(native, model, threads=3)
    time.sleep(0.05)
    used = Path(f"/proc/{session.process.pid}/stat")
    if used.exists():
        before = sum(map(int, used.read_text().rpartition(")")[2].split()[11:13]))
        time.sleep(0.5)
        after = sum(map(int, used.read_text().rpartition(")")[2].split()[11:13]))
        assert after - before <= 5  # hundredths of a second
    assert session.close() == (0, "", "")


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
@pytest.mark.parametrize("isa", ALL_ISAS)
def test_a_text_is_its_requests_alone(
    isa: str, dtype: str, native: Native, isas: list[str], model: Path
) -> None:
    """Neither the other texts, nor their order, nor the threads change a bit of it."""
    must_run(isa, isas)
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


def test_logits_that_are_no_numbers(native: Native, tmp_path: Path) -> None:
    tensors = some_tensors(SMALL)
    tensors["lnfb"][3] = np.nan
    model = save_model(tmp_path / "nan.bin", SMALL, tensors)
    for dtype in ("fp32", "bf16", "int8"):
        said = generate(native, model, [line("a", [1]), line("b", range(40))], dtype=dtype)
        for name in "ab":
            assert said.end(name)["reason"] == "error"
            assert "no finite logits" in said.end(name)["message"]
        assert "no finite logits" in refused(native("sample", model=model, dtype=dtype), 5)


def test_samples_are_written_together(native: Native, model: Path) -> None:
    flags: Flags = {"model": model, "tokens": 50, "seed": 11, "prompt": "1,2,3"}
    lines = native("sample", num_samples=5, threads=2, **flags).stdout.splitlines()
    for i in range(5):
        alone = native("sample", **{**flags, "seed": 11 + i}).stdout.split()
        assert [text.split()[1] for text in lines if text.startswith(f"{i} ")] == alone
    first = native("sample", **flags, temperature=0.5).stdout.split()
    stopped = native("sample", **flags, temperature=0.5, stop="eot", eot=first[4]).stdout.split()
    assert stopped == first[: first.index(first[4]) + 1]


WORDS = (
    "request cancel a b prompt tokens temperature top-k top-p min-p seed eot logprobs "
    "repetition-penalty 0 1 -1 0.5 1e-9 1e400 3,4 ,, 299 301 18446744073709551615"
)
PIECES = st.one_of(
    st.sampled_from(WORDS.split()),
    st.text(max_size=12).map(lambda text: text.replace("\n", "\0")),
)
LINES = st.lists(
    st.one_of(
        st.lists(PIECES, max_size=12).map(" ".join),
        st.builds(
            lambda key, value, prompt: (
                f"request a {key} {value} prompt {','.join(map(str, prompt))}"
            ),
            st.sampled_from(["tokens", "top-k", "seed", "temperature", "top-p", "min-p", "eot"]),
            st.one_of(st.integers(-2, 40), st.floats(allow_nan=True)),
            st.lists(st.integers(-1, V), max_size=100),
        ),
    ),
    max_size=30,
)


@given(LINES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_breaks_it(sanitized: Native, model: Path, lines: list[str]) -> None:
    data = "".join(text + "\n" for text in lines).encode(errors="surrogatepass")
    # Texts may be long: their end is not waited for.
    data += b"cancel a\ncancel b\n"
    done = subprocess.run(
        sanitized.argv("generate", model=model, slots=2),
        input=data,
        capture_output=True,
        check=False,
        env=environment(),
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert events[0]["event"] == "ready"
    ends = sum(event["event"] == "end" for event in events)
    assert ends >= sum(
        b"request" not in text and b"cancel" not in text for text in data.split(b"\n")[:-1]
    )


@pytest.fixture(scope="module")
def sanitized(cache: Path) -> Native:
    return build_sanitized(cache)
