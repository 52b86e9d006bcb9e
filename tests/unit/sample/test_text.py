"""One text while it is written, over a stand-in for the engine; and on how many threads."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmc.cli.views.sampling import summary
from llmc.config import SampleConfig
from llmc.engine.generator import Generator, generate_argv
from llmc.engine.protocol import NO_TOKEN, Request
from llmc.errors import BadData, LlmcError
from llmc.model import ModelConfig, parameter_count
from llmc.sample import model as sampling
from llmc.sample.streaming import TextStream
from llmc.sample.text import Sample
from llmc.tokens.tokenizer import load_tokenizer
from tests.helpers.places import FAKE_ENGINE


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    argv = generate_argv(FAKE_ENGINE, Path("model.bin"), slots=2, positions=64)
    with Generator([sys.executable, *argv]) as running:
        yield running


def text(
    generator: Generator, prompt: str, tokens: int, *stops: str, eot: int = NO_TOKEN
) -> Sample:
    return Sample(
        generator,
        load_tokenizer("byte"),
        Request(list(prompt.encode()), SampleConfig(tokens), eot),
        stops,
    )


def test_a_text_is_what_was_certain(generator: Generator) -> None:
    written = text(generator, "hé日", 7)
    assert "".join(token.text for token in written) == written.text == "hé日h"
    assert bytes(written.ids).decode() == "hé日h"
    assert written.logprobs == [-k / 8 for k in range(7)]
    assert written.reason == "length"


def test_a_stop_string_ends_a_text_that_nobody_reads(generator: Generator) -> None:
    """Of several texts that are shown one after the other, the later ones free their slots too."""
    stopped = text(generator, "abcd", 10**9, "cd")
    limit = time.monotonic() + 60
    while stopped._identity in generator._open:
        assert time.monotonic() < limit
        time.sleep(0.001)
    assert [token.text for token in stopped] == ["a", "b"]
    assert stopped.reason == "stop"
    assert stopped.end is not None
    assert 4 <= stopped.end.tokens < 10**9


def test_what_is_counted_are_the_tokens_of_the_text(generator: Generator) -> None:
    """Not what the engine wrote beyond, until it was told to stop."""
    for asked, said in (
        (text(generator, "abcd", 1000, "cd"), "2 tokens, "),
        (text(generator, "ab", 1000, eot=ord("b")), "1 token, "),
        (text(generator, "ab", 1), "1 token (prompt of 2 in 2.50 ms)"),
        (text(generator, "ab", 0), "0 tokens"),
    ):
        for _ in asked:
            pass
        line = summary([asked], 1.0)
        assert line.startswith(said) and (line == said or asked.reason != "length"), line
    both = [text(generator, "abcd", 1000, "cd") for _ in range(2)]
    for asked in both:
        for _ in asked:
            pass
    assert summary(both, 1.0).startswith("4 tokens in 2 texts, ")


def test_an_id_that_is_no_text_is_an_error_and_no_wait(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(stream: TextStream, token: int) -> None:
        raise BadData(f"token {token} is not in the byte vocabulary")

    monkeypatch.setattr(TextStream, "feed", refuse)
    with pytest.raises(BadData, match="token 97 is not"):
        list(text(generator, "ab", 10**9))


def test_a_request_that_is_refused_is_an_error(generator: Generator) -> None:
    with pytest.raises(LlmcError, match="token 300 is not below 257"):
        list(Sample(generator, load_tokenizer("byte"), Request([300])))


def test_a_small_model_writes_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for every 4 million parameters, and never more than there are cores."""
    monkeypatch.setattr("llmc.engine.machine.default_threads", lambda: 4)
    demo = ModelConfig(layers=4, heads=4, channels=128, context=256, vocab_size=2048)
    assert parameter_count(demo) < 4e6
    assert sampling.default_threads(demo) == 1
    wider = replace(demo, channels=400)
    assert 8e6 < parameter_count(wider) < 12e6
    assert sampling.default_threads(wider) == 2
    assert sampling.default_threads(ModelConfig()) == 4
