"""One engine that many ask, against a stand-in that says the same lines."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from llmc.config import SampleConfig
from llmc.engine import process
from llmc.engine.generator import Generator, generate_argv
from llmc.engine.protocol import End, Ready, Request, Token
from llmc.errors import BadData, Interrupted, LlmcError, LossNotFinite, Usage
from tests.helpers.places import FAKE_ENGINE


def fake(*flags: str, slots: int = 2) -> Generator:
    argv = generate_argv(FAKE_ENGINE, Path("model.bin"), slots=slots, positions=64, dtype="bf16")
    return Generator([sys.executable, *argv, *flags])


def asked(count: int, *prompt: int, logprobs: int = 0, eot: int = -1) -> Request:
    return Request(prompt, SampleConfig(tokens=count), eot, logprobs)


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with fake() as running:
        yield running


class Writing:
    """The events of one text, as they come; the last one is its end."""

    def __init__(self, generator: Generator, request: Request) -> None:
        self.events: SimpleQueue[Token | End] = SimpleQueue()
        self.name = generator.submit(request, self.events.put)

    def __iter__(self) -> Iterator[Token | End]:
        while isinstance(event := self.events.get(), Token):
            yield event
        event.raise_failure()
        yield event


def read(generator: Generator, request: Request) -> tuple[list[int], End]:
    *tokens, last = Writing(generator, request)
    assert isinstance(last, End)
    return [event.token for event in tokens if isinstance(event, Token)], last


def pid_of(generator: Generator) -> int:
    child = generator._engine._child
    assert child is not None
    return child.pid


def test_it_says_what_it_loaded(generator: Generator) -> None:
    assert generator.ready == Ready(2, 64, 257, "bf16", "none", 1 << 20)


def test_a_text_comes_with_its_events(generator: Generator) -> None:
    assert list(Writing(generator, asked(3, 5, 6, logprobs=2))) == [
        Token(5, 0.0, ((5, 0.0), (6, -1.0))),
        Token(6, -0.125, ((6, -0.125), (7, -1.125))),
        Token(5, -0.25, ((5, -0.25), (6, -1.25))),
        End("length", 2, 3, 2.5, 10.0),
    ]
    assert read(generator, asked(9, 1, 2, 256, eot=256)) == (
        [1, 2, 256],
        End("stop", 3, 3, 2.5, 10.0),
    )
    assert read(generator, asked(0, 1)) == ([], End("length", 1, 0, 2.5, 10.0))


def test_a_request_is_one_line_with_every_setting() -> None:
    settings = SampleConfig(7, 0.5, 40, 0.9, 0.05, 1.25, 2**53, "int8")
    assert Request([15, 2], settings, 256, 3).line("r1") == (
        "request r1 tokens 7 temperature 0.5 top-k 40 top-p 0.9 min-p 0.05 "
        "repetition-penalty 1.25 seed 9007199254740992 eot 256 logprobs 3 prompt 15,2"
    )


def test_what_the_engine_would_refuse_is_not_asked() -> None:
    with pytest.raises(Usage, match="at least one token"):
        Request([])
    with pytest.raises(Usage, match="between 0 and 20, not 21"):
        Request([1], logprobs=21)
    for setting in ({"temperature": -0.1}, {"top_p": 1.1}, {"min_p": 2.0}, {"dtype": "fp8"}):
        with pytest.raises(Usage, match="must be"):
            SampleConfig(**setting)


def test_more_texts_than_slots_from_many_threads(generator: Generator) -> None:
    found: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        found[number] = read(generator, asked(20, number, number + 1))[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [number, number + 1] * 10 for number in range(30)}


def test_texts_are_written_together() -> None:
    with fake("--step-seconds", "0.005") as generator:
        order = []
        done = threading.Event()

        def hear(name: str, event: Token | End) -> None:
            order.append(name)
            if order.count("long") > 20 and "short" in order:
                done.set()

        name = generator.submit(asked(1000, 1), lambda event: hear("long", event))
        generator.submit(asked(5, 1), lambda event: hear("short", event))
        assert done.wait(60)
        generator.cancel(name)
    assert "long" in order[order.index("short") :]


def test_a_text_can_be_cancelled_while_others_go_on(generator: Generator) -> None:
    writing = Writing(generator, asked(10**9, 1))
    other = Writing(generator, asked(50, 2))
    events = iter(writing)
    assert next(events) == Token(1, 0.0)
    generator.cancel(writing.name)
    *_, last = events
    assert isinstance(last, End)
    assert last.reason == "cancelled"
    assert len(list(other)) == 51
    generator.cancel(writing.name)  # there is nothing to cancel any more
    generator.cancel("nobody")
    assert len(read(generator, asked(3, 1))[0]) == 3


def test_one_bad_request_is_an_error_of_its_own(generator: Generator) -> None:
    writing = Writing(generator, asked(5, 300))
    with pytest.raises(LlmcError, match="token 300 is not below 257"):
        list(writing)
    ends: list[Token | End] = []
    done = threading.Event()

    def hear(event: Token | End) -> None:
        ends.append(event)
        done.set()

    generator.submit(asked(5, 300), hear)
    assert done.wait(60)
    assert [(end.reason, end.failure) for end in ends if isinstance(end, End)] == [("error", None)]
    assert len(read(generator, asked(3, 1))[0]) == 3


def test_a_listener_that_fails_loses_its_text_only(generator: Generator) -> None:
    heard = []

    def listen(event: Token | End) -> None:
        heard.append(event)
        raise RuntimeError("the event loop is closed")

    generator.submit(asked(10**9, 1), listen)
    generator.submit(asked(10**9, 1), listen)
    assert len(read(generator, asked(3, 1))[0]) == 3  # so both have left their slots
    assert len(heard) == 2


def test_an_event_loop_may_ask(generator: Generator) -> None:
    async def ask(number: int) -> list[int]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Token | End] = asyncio.Queue()
        generator.submit(
            asked(10, number), lambda event: loop.call_soon_threadsafe(queue.put_nowait, event)
        )
        tokens = []
        while isinstance(event := await queue.get(), Token):
            tokens.append(event.token)
        return tokens

    async def both() -> list[list[int]]:
        return list(await asyncio.gather(ask(3), ask(4), ask(5)))

    assert asyncio.run(both()) == [[3] * 10, [4] * 10, [5] * 10]


def test_a_prompt_longer_than_a_pipe(generator: Generator) -> None:
    prompt = [index % 257 for index in range(100_000)]
    assert read(generator, Request(prompt, SampleConfig(tokens=300)))[0] == prompt[:300]


def test_a_model_that_is_refused_is_told_at_once() -> None:
    with (
        pytest.raises(BadData, match=r"^model.bin is cut short: export it again$"),
        fake("--fault", "refuse"),
    ):
        pass


@pytest.mark.parametrize(
    ("fault", "said"), [("garbage", "'hello'"), ("mute", "ended unexpectedly")]
)
def test_an_engine_that_makes_no_sense_is_a_bug(fault: str, said: str) -> None:
    with pytest.raises(LlmcError, match=said) as caught, fake("--fault", fault):
        pass
    assert caught.value.exit_code == 70


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LlmcError, match="llmc build --force"), Generator([str(tmp_path / "no")]):
        pass


def test_a_prompt_that_the_engine_would_not_read_is_refused(generator: Generator) -> None:
    with pytest.raises(Usage, match="600,000 tokens is more than the engine reads"):
        generator.submit(Request([1] * 600_000), print)


@pytest.mark.parametrize(("fault", "kind"), [("die", LossNotFinite), ("strange", LlmcError)])
def test_when_the_engine_dies_everybody_is_told(fault: str, kind: type[LlmcError]) -> None:
    with fake("--fault", fault) as generator:
        writing = Writing(generator, asked(5, 1))
        with pytest.raises(kind) as caught:
            list(writing)
        assert type(caught.value) is kind
        generator._thread.join()
        with pytest.raises(kind):
            generator.submit(asked(5, 1), print)


def test_a_killed_engine_makes_one_think_of_memory() -> None:
    with fake("--step-seconds", "0.01") as generator:
        events = iter(Writing(generator, asked(10**6, 1)))
        next(events)
        os.kill(pid_of(generator), signal.SIGKILL)
        with pytest.raises(LlmcError, match="memory"):
            list(events)


def test_closing_ends_the_engine_and_what_it_writes() -> None:
    generator = fake("--step-seconds", "0.01")
    with generator:
        pid = pid_of(generator)
        events = iter(Writing(generator, asked(10**6, 1)))
        next(events)
    with pytest.raises(LlmcError, match="closed"):
        list(events)
    with pytest.raises(LlmcError, match="closed"):
        generator.submit(asked(1, 1), print)
    generator.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_engine_that_does_not_read_holds_nobody_up() -> None:
    with fake("--fault", "deaf") as generator:
        pid = pid_of(generator)
        for _ in range(20):
            generator.submit(Request([1] * 50_000), print)  # more than a pipe takes
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_stubborn_engine_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)
    script = (
        "import json, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "facts = dict.fromkeys(['slots', 'positions', 'vocab_size', 'memory_bytes'], 1)\n"
        "print(json.dumps({'event': 'ready', 'dtype': '', 'isa': '', **facts}), flush=True)\n"
        "time.sleep(600)\n"
    )
    with Generator([sys.executable, "-c", script]) as generator:
        pid = pid_of(generator)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_interrupt_while_the_model_loads_leaves_nothing_behind() -> None:
    generator = fake("--fault", "slow")

    def interrupt() -> None:
        while generator._engine._child is None:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with pytest.raises(KeyboardInterrupt), generator:
        pass
    helper.join()
    with pytest.raises(ProcessLookupError):
        os.kill(pid_of(generator), 0)


def test_no_signal_is_taken_from_the_caller() -> None:
    before = [signal.getsignal(number) for number in process.FORWARDED]
    with fake():
        assert [signal.getsignal(number) for number in process.FORWARDED] == before


def test_the_other_engines_still_read_nothing() -> None:
    script = "import sys; print(repr(sys.stdin.read()))"
    with process.Engine([sys.executable, "-c", script]) as engine:
        assert list(engine) == ["''"]


def test_stop_ends_an_engine_from_another_thread() -> None:
    script = "import time\nwhile True: print(1, flush=True); time.sleep(0.01)\n"
    with pytest.raises(Interrupted), process.Engine([sys.executable, "-c", script]) as engine:
        for index, _ in enumerate(engine):
            if index == 3:
                threading.Thread(target=engine.stop).start()
