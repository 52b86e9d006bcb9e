"""From conversations to a model that answers: prepare, train, chat."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmc import load
from llmc.errors import Usage
from llmc.tokens.files import read_tokens
from llmc.tokens.windows import count_windows
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.terminal import typing
from tests.helpers.workspace import ok

ANSWERS = {"red": "apple", "yellow": "banana", "green": "pear", "blue": "plum"}


def write(path: Path) -> str:
    with path.open("w") as file:
        for _ in range(60):
            for colour, fruit in ANSWERS.items():
                talk = [
                    {"role": "user", "content": f"{colour}?"},
                    {"role": "assistant", "content": f"{fruit}."},
                ]
                file.write(json.dumps({"messages": talk}) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """Return a workspace with a run that has learnt four answers."""
    llmc = Llmc(tmp_path_factory.mktemp("talk"), cache)
    text = write(llmc.workspace / "fruit.jsonl")
    ok(llmc("tokenize", text, "--tokenizer", "byte"))
    shape = ("--layers", "2", "--heads", "2", "--channels", "48", "--context", "96")
    random = ("export-weights", "random", *shape, "--vocab-size", "259")
    ok(llmc(*random, "--tokenizer", str(llmc.workspace / "data/fruit")))
    flags = (
        "--batch-size",
        "8",
        "--seq-len",
        "64",
        "--lr",
        "0.002",
        "--warmup",
        "50",
        "--steps",
        "600",
    )
    told = ok(llmc("train", "--val-every", "0", "--sample-every", "600", "--run", "fruit", *flags))
    return replace(llmc, environment={"SAID": told.stdout})


def asked(llmc: Llmc, *args: str, stdin: str = "") -> str:
    done = ok(llmc("chat", "--temperature", "0", *args, stdin=stdin))
    return done.stdout


def test_a_question_is_answered(talking: Llmc) -> None:
    for colour, fruit in ANSWERS.items():
        assert asked(talking, "--prompt", f"{colour}?") == f"{fruit}.\n"
    assert asked(talking, "fruit", "--prompt", "red?", "--stop", "ple") == "ap\n"


def test_samples_during_training_answer_a_question(talking: Llmc) -> None:
    said = talking.environment["SAID"]
    assert any(f"user\n{each}?\nassistant\n{ANSWERS[each]}." in said for each in ANSWERS)


def test_every_line_of_a_pipe_is_a_message(talking: Llmc) -> None:
    assert asked(talking, stdin="red?\n\nblue?\n").splitlines()[0] == "apple."
    lines = [
        json.loads(line) for line in asked(talking, "--json", stdin="red?\nred?\n").splitlines()
    ]
    first: dict[str, Any] = lines[0]
    assert first["message"] == {"role": "assistant", "content": "apple."}
    assert first["reason"] == "end-of-text" and first["dropped_messages"] == 0
    assert lines[1]["prompt_tokens"] > first["prompt_tokens"]


def test_what_is_no_message_is_refused(talking: Llmc) -> None:
    assert "--prompt" in assert_one_sentence(talking("chat", "--prompt", " "), 2)
    asked = ("chat", "fruit", "--temperature", "0")
    done = talking.raw(*asked, stdin=b"red?\na \xff\n")
    assert (done.returncode, done.stdout) == (1, b"apple.\n")
    assert b"line 2 of stdin is not UTF-8" in done.stderr


def test_the_help_says_how_long_an_answer_may_be(talking: Llmc) -> None:
    assert "half of the context" in " ".join(ok(talking("chat", "--help")).stdout.split())


def test_a_time_is_planned_with_the_windows_of_conversations(talking: Llmc) -> None:
    flags = ("--model", "runs/fruit/model.bin", "--data", "data/fruit", "--seq-len", "32")
    done = ok(talking("--json", "train", "--for", "10m", "--dry-run", *flags))
    (found,) = json.loads(done.stdout)["compared"]
    files = [talking.workspace / "data/fruit/train.bin"]
    windows = count_windows(files, len(read_tokens(files[0])), 32)
    assert found["tokens"] == found["passes"] * windows * 32


def test_a_card_counts_no_passes_over_conversations(talking: Llmc) -> None:
    out = talking.workspace / "card"
    ok(talking("export-weights", "fruit", "--to", "hf", "--out", str(out)))
    (line,) = (each for each in (out / "README.md").read_text().split("\n") if "| tokens |" in each)
    assert "passes" not in line


def test_a_run_goes_on_with_its_own_template_alone(talking: Llmc) -> None:
    text, own = str(talking.workspace / "fruit.jsonl"), str(talking.workspace / "data/fruit")
    to = ("--out", str(talking.workspace / "data/other"))
    ok(talking("tokenize", text, "--tokenizer", own, "--template", "plain", *to))
    more = ("--resume", "--run", "fruit", "--data", "data/other", "--steps", "1001")
    assert "chat template" in assert_one_sentence(talking("train", *more), 1)


def test_sample_names_the_command_for_a_conversation(talking: Llmc) -> None:
    assert "next: llmc chat fruit" in ok(talking("sample", "--run", "fruit", "--decode")).stderr


def test_python_answers_the_same(talking: Llmc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(talking.cache))
    with load("fruit", workspace=talking.workspace) as model:
        talk = [{"role": "user", "content": "red?"}]
        assert model.chat(talk, temperature=0.0, tokens=20) == "apple."
        with pytest.raises(Usage, match=r"messages\[0\]"):
            model.chat([{"role": "nobody", "content": "x"}])
        with pytest.raises(Usage, match="list of messages"):
            model.chat([])
        with pytest.raises(Usage, match=r"messages\[0\] should be an object"):
            model.chat(["red?"])  # type: ignore[list-item]


def test_old_turns_leave_the_context(talking: Llmc) -> None:
    done = asked(talking, "--json", "--tokens", "10", stdin="red?\n" * 4)
    dropped = [json.loads(line)["dropped_messages"] for line in done.splitlines()]
    assert dropped[0] == 0 and dropped[-1] > 0
    told = ok(talking("chat", "fruit", "--tokens", "10", stdin="red?\n" * 4)).stderr
    assert told.count("beyond the context") == 1
    refused = talking("chat", "--prompt", "red? " * 40)
    assert "shorten" in assert_one_sentence(refused, 2)


def test_a_model_of_text_names_the_command_for_text(talking: Llmc) -> None:
    text = talking.workspace / "plain.txt"
    text.write_text("words and words\n" * 100)
    ok(talking("tokenize", str(text), "--tokenizer", "byte"))
    shape = ("--layers", "1", "--heads", "1", "--channels", "16", "--context", "32")
    out = ("--out", str(talking.workspace / "models/plain.bin"))
    ok(
        talking(
            "export-weights", "random", *shape, "--vocab-size", "257", "--tokenizer", "byte", *out
        )
    )
    plain = ("--model", str(talking.workspace / "models/plain.bin"), "--run", "plain")
    data = ("--data", str(talking.workspace / "data/plain"))
    ok(talking("train", *plain, *data, "--steps", "1", "--batch-size", "1", "--seq-len", "16"))
    said = assert_one_sentence(talking("chat", "plain"), 1)
    assert "sample -i --run plain" in said


def test_a_conversation_in_a_terminal(talking: Llmc) -> None:
    with typing(talking, 80, "chat", "fruit", "--temperature", "0") as typist:
        typist.wait("/help")
        typist.type("red?\r")
        typist.wait("apple.")
        typist.type("/save talks.jsonl\r")
        typist.wait("added 2 messages")
        typist.type("/undo\r")
        typist.wait("took back")
        typist.type("/system Be kind\r")
        typist.wait("system: Be kind")
        typist.type("/system\r")
        typist.wait("system: none")
        typist.type("blue?\r")
        typist.wait("plum")
        typist.type("/nonsense\r")
        typist.wait("there is no /nonsense")
        typist.type("/quit\r")
    saved = [*talking.workspace.rglob("talks.jsonl"), *Path().glob("talks.jsonl")]
    assert len(saved) == 1
