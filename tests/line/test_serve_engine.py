"""llmc serve over the real engine: the texts are those of llmc sample, whoever else is served."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.served import Served, child_of, command_of, is_alive, served
from tests.helpers.workspace import copy_of, ok, prepared_workspace, trained

CLIENTS = 64


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    llmc = prepared_workspace(tmp_path_factory.mktemp("serve") / "workspace", cache)
    trained(llmc, run="first")
    return llmc


@pytest.fixture(scope="module")
def server(template: Llmc) -> Iterator[Served]:
    argv = [*template.command, "serve", "--port", "0", "--slots", "8", "--queue", "100"]
    with served(argv, template.env(), template.workspace) as running:
        yield running


def test_it_says_where_it_is_and_ends_with_its_signal(template: Llmc) -> None:
    """stdout has the address alone, so that a script can take it."""
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        argv = [*template.command, "serve", "--port", "0"]
        with served(argv, template.env(), template.workspace) as running:
            assert running.get("/health").json() == {"status": "ok"}
            ended, said = running.end(number)
        assert ended == code
        assert said.splitlines()[:2] == [
            "run: runs/first (the newest)",
            "serving first; Ctrl-C ends",
        ]
        assert "Traceback" not in said


def test_a_small_model_is_served_by_one_thread(server: Served) -> None:
    assert "--threads 1" in command_of(child_of(server.process.pid))


def test_the_weights_are_held_as_the_run_s_settings_say(template: Llmc, tmp_path: Path) -> None:
    llmc = copy_of(template, tmp_path / "workspace")
    path = llmc.workspace / "runs/first/run.json"
    record = json.loads(path.read_text())
    assert record["settings"]["sample"]["dtype"] == "fp32"
    record["settings"]["sample"]["dtype"] = "bf16"
    path.write_text(json.dumps(record))
    for flags, held in (([], "bf16"), (["--dtype", "int8"], "int8")):
        argv = [*llmc.command, "serve", "--port", "0", *flags]
        with served(argv, llmc.env(), llmc.workspace) as running:
            assert running.get("/info").json()["engine"]["dtype"] == held


def test_with_json_it_says_the_same_to_programs(template: Llmc) -> None:
    argv = [*template.command, "--json", "serve", "--port", "0", "--model", "runs/first/model.bin"]
    with served(argv, template.env(), template.workspace) as running:
        told = json.loads(running.url)
        assert told["model"] == "first"
        assert running.client.get(f"{told['url']}v1/models").json()["data"][0]["id"] == "first"


def test_the_texts_are_those_of_sample(template: Llmc, server: Served) -> None:
    """The same seed writes the same, chosen or greedy; the probabilities are a distribution's."""
    for temperature, seed in ((0, 1), (0.8, 7), (1.3, 8)):
        flags = ["--temperature", temperature, "--seed", seed, "--tokens", 40, "--top-k", 9]
        flags += ["--top-p", 0.9]
        words = ["--json", "sample", "--prompt", "the", *map(str, flags)]
        expected = json.loads(ok(template(*words)).stdout)["text"]
        done = server.complete(
            prompt="the", max_tokens=40, temperature=temperature, seed=seed, top_k=9, top_p=0.9,
            logprobs=5, echo=False,
        ).json()  # fmt: skip
        (choice,) = done["choices"]
        assert (
            choice["text"] == expected.encode(errors="surrogateescape").decode(errors="replace")[3:]
        )
        assert max(choice["logprobs"]["token_logprobs"]) <= 0
        for top in choice["logprobs"]["top_logprobs"]:
            assert 5 <= len(top) <= 6
            assert list(top.values())[:5] == sorted(list(top.values())[:5], reverse=True)


def test_choices_count_on_from_the_seed(server: Served) -> None:
    ask = {"prompt": "das", "max_tokens": 30, "temperature": 1.0}
    three = server.complete(**ask, seed=5, n=3).json()["choices"]
    alone = [server.complete(**ask, seed=seed).json()["choices"][0]["text"] for seed in (5, 6, 7)]
    assert [choice["text"] for choice in three] == alone
    assert len(set(alone)) == 3
    unseeded = {server.complete(**ask).json()["choices"][0]["text"] for _ in range(3)}
    assert len(unseeded) == 3


def test_best_of_is_the_likeliest_of_several(server: Served) -> None:
    ask = {"prompt": ["das", "of"], "max_tokens": 12, "temperature": 1.0, "seed": 5, "logprobs": 0}
    every = server.complete(**ask, n=5).json()["choices"]
    best = server.complete(**ask, n=2, best_of=5).json()
    for prompt in (0, 1):
        group = every[5 * prompt : 5 * prompt + 5]
        means = [sum(told) / len(told) for each in group if (told := logprobs_of(each))]
        order = sorted(range(5), key=lambda at: -means[at])[:2]
        chosen = best["choices"][2 * prompt : 2 * prompt + 2]
        assert [each["text"] for each in chosen] == [group[at]["text"] for at in order]
    assert [each["index"] for each in best["choices"]] == [0, 1, 2, 3]
    assert best["usage"]["completion_tokens"] >= 10


def logprobs_of(choice: dict[str, Any]) -> list[float]:
    found: list[float] = choice["logprobs"]["token_logprobs"]
    return found


def test_penalties_and_biases_reach_the_engine(server: Served) -> None:
    """Also in a stream, and with several choices."""
    ask = {"prompt": "the", "max_tokens": 30, "temperature": 0, "logprobs": 0, "ignore_eos": True}
    (plain,) = server.complete(**ask).json()["choices"]
    tokens = plain["logprobs"]["tokens"]
    assert len(set(tokens)) < 30
    for penalty in ("frequency_penalty", "presence_penalty"):
        for choice in server.complete(**ask, **{penalty: 2.0}, n=2).json()["choices"]:
            assert len(set(choice["logprobs"]["tokens"])) > len(set(tokens))
    answer = server.complete(**ask, logit_bias={"33": 100}, stream=True)
    parts = [json.loads(event[6:]) for event in answer.text.split("\n\n")[:-2]]
    assert {token for part in parts for token in part["choices"][0]["logprobs"]["tokens"]} == {"!"}


def test_many_clients_at_once_all_get_their_text(server: Served) -> None:
    """64 at once, streaming and not, of different lengths: each gets what it gets alone."""

    def ask(index: int) -> str:
        body = {
            "prompt": "und " * (index % 5 + 1),
            "max_tokens": 8 + index % 40,
            "seed": index % 10,
            "temperature": 0.9,
        }
        if index % 2:
            return str(server.complete(**body).json()["choices"][0]["text"])
        answer = server.complete(**body, stream=True)
        events = [event.removeprefix("data: ") for event in answer.text.split("\n\n")[:-1]]
        assert events.pop() == "[DONE]"
        return "".join(json.loads(event)["choices"][0]["text"] for event in events)

    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(ask, range(CLIENTS)))
    assert together == [ask(index) for index in range(CLIENTS)]
    assert server.becomes("llmc_completions_waiting", 0)
    assert server.becomes("llmc_completions_running", 0)


def test_the_next_turn_reads_only_what_is_new(server: Served) -> None:
    """What was read is counted once for all choices."""
    head = "naïve of the 日本 of und das of."
    before = server.metric("llmc_prompt_tokens_cached_total")
    first, second = (
        server.complete(prompt=prompt, max_tokens=4, n=n, seed=3).json()["usage"]
        for prompt, n in ((head, 1), (head + "und", 2))
    )
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert second["prompt_tokens"] - 16 <= cached < second["prompt_tokens"]
    assert server.becomes("llmc_prompt_tokens_cached_total", before + cached)


def test_clients_that_leave_take_nothing_with_them(server: Served) -> None:
    """A third leave in the middle of their text; the others get all of theirs."""

    def ask(index: int) -> int:
        body = {"prompt": "of", "max_tokens": 200, "stream": True, "ignore_eos": True}
        with server.client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            if index % 3 == 0:
                next(lines)
                return 0
            return sum(line == "data: [DONE]" for line in lines)

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, range(24))) == [int(index % 3 > 0) for index in range(24)]
    assert server.becomes("llmc_completions_running", 0)


def test_its_memory_does_not_grow_with_what_it_was_asked(server: Served) -> None:
    """The engine takes nothing after its start; the server stays where it was, give or take."""

    def resident() -> float:
        return server.metric("process_resident_memory_bytes")

    def ask(index: int) -> int:
        body = {"prompt": "the", "max_tokens": 100, "logprobs": 5, "ignore_eos": True}
        return len(server.complete(**body).json()["choices"][0]["logprobs"]["tokens"])

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(64))) == {100}
        before = resident()
        assert set(pool.map(ask, range(256))) == {100}
    assert resident() - before < 32e6


def test_facts_and_curves_are_the_run_s(server: Served) -> None:
    facts = server.get("/info").json()
    assert (facts["model"], facts["run"], facts["dataset"]) == ("first", "first", "texts")
    assert (facts["layers"], facts["context"], facts["step"]) == (1, 64, 4)
    assert facts["engine"]["slots"] == 8
    curves = server.get("/curves").json()
    assert curves["line"]["step"] == [0, 1, 2, 3]
    assert len(curves["val"]["loss"]) == 3


def test_there_has_to_be_a_model(llmc: Llmc, template: Llmc) -> None:
    assert "no trained model" in assert_one_sentence(llmc("serve"), 3)
    said = assert_one_sentence(template("serve", "--run", "none"), 3)
    assert "llmc train --run none" in said
    assert "no file none.bin" in assert_one_sentence(template("serve", "--model", "none.bin"), 3)


def test_a_damaged_model_is_refused(template: Llmc, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    data = bytearray((template.workspace / "runs/first/model.bin").read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    said = assert_one_sentence(template("serve", "--model", str(path), "--port", "0", "--quiet"), 1)
    assert "checksum" in said


def test_without_a_server_no_engine_is_left(template: Llmc) -> None:
    argv = [*template.command, "serve", "--port", "0"]
    with served(argv, template.env(), template.workspace) as running:
        engine = child_of(running.process.pid)
        running.process.kill()
        running.process.wait()
        while is_alive(engine):
            pass
