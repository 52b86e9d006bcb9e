"""A conversation with a model: by the keys of a terminal, and line by line with a stand-in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmc.cli.conversation import COMMANDS, Conversation, Session, changed
from llmc.cli.ui import Ui
from llmc.config import SampleConfig
from llmc.engine.generator import Generator, generate_argv
from llmc.engine.protocol import NO_TOKEN
from llmc.errors import LossNotFinite, Usage
from llmc.model import ModelConfig
from llmc.sample.model import SampleModel
from llmc.tokens.tokenizer import load_tokenizer
from tests.conftest import Llmc
from tests.helpers.places import FAKE_ENGINE
from tests.helpers.terminal import typing
from tests.helpers.workspace import ok, prepared_workspace, trained

EOT = 256


def fake(*flags: str) -> Generator:
    argv = generate_argv(FAKE_ENGINE, Path("model.bin"), positions=64)
    return Generator([sys.executable, *argv, *flags])


def conversation(generator: Generator, eot: int = EOT) -> Conversation:
    model = ModelConfig(1, 1, 4, 64, 257)
    weights = SampleModel(Path("model.bin"), model, load_tokenizer("byte"), SampleConfig())
    session = Session(Ui(), generator, weights, SampleConfig(tokens=6))
    return Conversation(session, eot=eot)


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with fake() as running:
        yield running


@pytest.fixture
def talk(generator: Generator) -> Conversation:
    return conversation(generator)


def test_a_prompt_is_gone_on_from(talk: Conversation, capfd: pytest.CaptureFixture[str]) -> None:
    assert talk.take("abcd")
    shown = capfd.readouterr()
    assert shown.out == "abcd" + "abcdab" + "\n"
    assert shown.err == "6 tokens, 667 tokens/s (prompt of 4 in 2.50 ms); seed 1337\n"
    assert talk.take("x\n")
    assert capfd.readouterr().out == "x\n" + "x\n" * 3


def test_every_text_has_the_next_seed(talk: Conversation) -> None:
    for _ in range(3):
        talk.take("a")
    assert talk.settings.seed == 1340
    talk.take("/seed 9007199254740992")
    talk.take("a")
    assert talk.settings.seed == 1


def test_an_empty_line_goes_on(talk: Conversation, capfd: pytest.CaptureFixture[str]) -> None:
    talk.take("ab")
    capfd.readouterr()
    assert talk.take("")
    assert capfd.readouterr().out == "ababab\n"
    assert bytes(talk.ids) == b"ab" * 7


def test_an_empty_line_at_first_begins_a_document(
    generator: Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    talk = conversation(generator, eot=NO_TOKEN)
    talk.take("")
    assert capfd.readouterr().out == "<|endoftext|>" * 6 + "\n"
    talk = conversation(generator)
    talk.take("")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "; the text ended by itself; seed 1337\n" in shown.err


def test_a_line_may_begin_with_a_slash(
    talk: Conversation, capfd: pytest.CaptureFixture[str]
) -> None:
    assert talk.take("//usr")
    assert capfd.readouterr().out.startswith("/usr/usr/u")


def test_settings_can_be_changed(talk: Conversation, capfd: pytest.CaptureFixture[str]) -> None:
    for line in (
        "/temp 0.7",
        "/top-k 40",
        "/top-p 0.9",
        "/min-p 0.05",
        "/penalty 1.5",
        "/tokens 3",
    ):
        assert talk.take(line)
    assert talk.take("/seed 7")
    assert talk.settings == SampleConfig(3, 0.7, 40, 0.9, 0.05, 1.5, 7)
    assert "temperature: 0.7\ntop_k: 40\n" in capfd.readouterr().err
    assert talk.take("/temperature 1")
    assert talk.take("/temp")
    assert capfd.readouterr().err == "temperature: 1.0\ntemperature: 1.0\n"
    talk.take("abcd")
    assert capfd.readouterr().out == "abcdabc\n"


def test_a_text_ends_before_a_stop_string(
    talk: Conversation, capfd: pytest.CaptureFixture[str]
) -> None:
    talk.take("/stop cd")
    talk.take("abcd")
    shown = capfd.readouterr()
    assert shown.out == "abcdab\n"
    assert shown.err.startswith("stop: 'cd'\n")
    assert "; a stop string came; seed" in shown.err
    assert "2 tokens, " in shown.err
    talk.take(r"/stop \n\n")
    talk.take('/stop "a b"')
    talk.take("/stop")
    assert capfd.readouterr().err == "stop: '\\n\\n'\nstop: 'a b'\nstop: none\n"


def test_what_is_set_can_be_seen(talk: Conversation, capfd: pytest.CaptureFixture[str]) -> None:
    talk.take("/show")
    shown = capfd.readouterr().err
    assert [line.split("  ")[0] for line in shown.splitlines()] == [
        *(name.replace("_", " ") for name in vars(SampleConfig())),
        "stop",
        "model",
    ]
    assert "model.bin: fp32, 1.0 MB, 64 tokens of context\n" in shown
    talk.take("/help")
    shown = capfd.readouterr().err
    assert all(f"/{name}" in shown for name in COMMANDS)
    assert max(map(len, shown.splitlines())) <= 80
    assert {command.setting for command in COMMANDS.values()} - {""} == {
        name for name in vars(SampleConfig()) if name != "dtype"
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/tmp 1", "there is no /tmp; did you mean '/temp'?"),
        ("/", "there is no /; known: /temp, /top-k"),
        ("/temp hot", "/temp takes a number, such as /temp 0.7"),
        ("/top-k 1.5", "/top-k takes a whole number, such as /top-k 40"),
        ("/temp -1", "temperature must be between 0 and 1000000, not -1"),
        ("/temp nan", "temperature must be between 0 and 1000000, not nan"),
        ("/top-p 2", "top_p must be between 0 and 1, not 2"),
        ("/penalty 0", "repetition_penalty must be between 1e-06 and 1000000, not 0"),
        ("/stop 'a", "/stop 'a: No closing quotation"),
        ("/stop ''", "/stop takes a text"),
        ("/probs maybe", "/probs takes on or off"),
        ("/quit now", "/quit takes nothing after it"),
        ("/exit now", "/quit takes nothing after it"),
        ("/show all", "/show takes nothing after it"),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    talk: Conversation, capfd: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    assert talk.take(line)
    assert capfd.readouterr().err.replace("\n", " ").startswith(f"error: {said}"[:78])
    assert talk.settings == SampleConfig(tokens=6)
    assert talk.stops == []


def test_a_value_keeps_its_type() -> None:
    assert changed(SampleConfig(), COMMANDS["temp"], "1").temperature == 1.0
    with pytest.raises(Usage):
        changed(SampleConfig(), COMMANDS["tokens"], "inf")


def test_quit_leaves(talk: Conversation) -> None:
    assert not talk.take("/quit")
    assert not talk.take("/exit")
    assert not talk.take("/quit ")


def test_colours_can_be_had_and_left(talk: Conversation, capfd: pytest.CaptureFixture[str]) -> None:
    talk.take("/probs")
    talk.take("ab")
    shown = capfd.readouterr()
    assert shown.out == "abababab\n"  # not a terminal: no colours
    assert "probability: 50% and more" in shown.err
    talk.take("/probs")
    assert capfd.readouterr().err == "colours by probability: off\n"
    for line, said in (("off", "off"), ("on", "on"), ("on ", "on"), ("", "off")):
        talk.take(f"/probs {line}")
        assert capfd.readouterr().err == f"colours by probability: {said}\n"


def test_a_prompt_longer_than_the_context_is_told_of(
    talk: Conversation, capfd: pytest.CaptureFixture[str]
) -> None:
    said = "of the prompt's 65 tokens the model sees only the last 33; its context is 64"
    talk.take("a" * 65)
    assert said in capfd.readouterr().err.replace("\n", " ")
    talk.take("")  # the text is longer still, but no prompt
    assert "of the prompt" not in capfd.readouterr().err


def test_a_prompt_that_is_too_long_is_no_end(
    talk: Conversation, capfd: pytest.CaptureFixture[str]
) -> None:
    assert talk.take("a" * 600_000)
    assert "600,000 tokens is more than the engine reads" in capfd.readouterr().err
    assert talk.take("ab")


def test_an_engine_that_dies_is_an_end() -> None:
    with fake("--fault", "die") as generator, pytest.raises(LossNotFinite):
        conversation(generator).take("ab")


# ---- with the keys -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llmc(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    llmc = prepared_workspace(tmp_path_factory.mktemp("talk") / "workspace", cache)
    trained(llmc, run="first")
    return llmc


def letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text)


def test_talking(llmc: Llmc) -> None:
    flags = ["--prompt", "das ", "--tokens", "12", "--temperature", "0", "--ignore-eot"]
    expected = [
        ok(llmc("sample", "--decode", *flags, "--seed", seed)).stdout for seed in ("1337", "1338")
    ]
    with typing(llmc, 80, "sample", "-i", *flags[2:]) as person:
        assert "runs/first/best.bin: fp32, " in person.wait("/help lists")
        person.wait(">")
        for seed, text in zip((1337, 1338), expected, strict=True):
            person.type("das \r")
            shown = person.wait(f"; seed {seed}").rpartition("12 tokens, ")[0]
            assert letters(shown).endswith(letters(text))
            person.wait(">")
        person.type("/temp 3\r")
        person.wait("temperature: 3.0")
        person.type("/tokens 1000000000\r")
        person.wait("tokens: 1000000000")
        person.type("für\r")
        before = len(person.shown)
        while len(person.shown) < before + 4000:
            assert person.read()
        person.type("\x03")
        person.wait("; stopped; seed 1339")
        person.type("/tokens 3\r")  # it is still there
        person.wait("tokens: 3")
        person.wait(">")
        person.type("gone\x03")  # gives up the line
        person.wait(">")
        person.type("und\r")
        person.wait("3 tokens, ")
        person.wait(">")
        person.type("\x04")
    assert person.code == 0
    assert "Traceback" not in person.shown
    assert "error" not in person.shown


def test_prompts_are_remembered(llmc: Llmc) -> None:
    for keys in ("first prompt\r", "\x1b[A\r"):
        with typing(llmc, 120, "sample", "-i", "--tokens", "2", "--ignore-eot") as person:
            person.wait(">")
            person.type(keys)
            person.wait("first prompt")
            person.wait("2 tokens, ")
            person.wait(">")  # Ctrl-D means the end only to a prompt that is there
            person.type("\x04")
        assert person.code == 0
    history = Path(llmc.env()["LLMC_CACHE_DIR"]) / "prompts"
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_ends_a_sample(llmc: Llmc) -> None:
    flags = ["--decode", "--tokens", "1000000000", "--ignore-eot", "--temperature", "3"]
    with typing(llmc, 80, "sample", *flags) as person:
        while len(person.shown) < 500:
            assert person.read()
        person.type("\x03")
        person.wait("error: interrupted")
    assert person.code == 130
    assert "Traceback" not in person.shown
