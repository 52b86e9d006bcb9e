"""``llmc-native generate``: requests, answers, bad lines, ends."""

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

from tests.helpers.engine import Native, build_sanitized, environment, refused
from tests.helpers.examples import examples
from tests.helpers.generate import generate, line
from tests.helpers.models import RAGGED, SMALL, save_model, some_tensors

V = RAGGED.vocab_size


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
        ("request a echo 2 prompt 1", "a", "echo takes a whole number"),
        ("request a frequency-penalty x prompt 1", "a", "frequency-penalty"),
        ("request a presence-penalty 1e7 prompt 1", "a", "presence-penalty"),
        ("request a bias 5 prompt 1", "a", "bias takes pairs"),
        ("request a bias 301:1 prompt 1", "a", "ids below 301"),
        ("request a bias 5:nan prompt 1", "a", "not '5:nan'"),
        ("request a bias 5:1e7 prompt 1", "a", "not '5:1e7'"),
        ("request a bias 5:1, prompt 1", "a", "bias takes pairs"),
        ("request a bias 5:1 bias 6:1 prompt 1", "a", "bias is given twice"),
        ("request a bias " + ",".join(["5:1"] * 301) + " prompt 1", "a", "at most 300 pairs"),
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


WORDS = (
    "request cancel a b prompt tokens temperature top-k top-p min-p seed eot logprobs "
    "repetition-penalty frequency-penalty presence-penalty echo bias 3:1 4:-1e2,5:1 5: :5 "
    "0 1 -1 0.5 1e-9 1e400 3,4 ,, 299 301 18446744073709551615"
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
            st.sampled_from(["tokens", "top-k", "seed", "temperature", "min-p", "eot", "echo"]),
            st.one_of(st.integers(-2, 40), st.floats(allow_nan=True)),
            st.lists(st.integers(-1, V), max_size=100),
        ),
    ),
    max_size=30,
)


@given(LINES)
@settings(
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
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
