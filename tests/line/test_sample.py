from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.config import SampleConfig
from llmc.errors import MissingOutput, Usage
from llmc.paths import Workspace
from llmc.sample.loaded import load
from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.sampling import ids
from tests.helpers.terminal import in_terminal
from tests.helpers.workspace import copy_of, ok

FLAGS = ["run", "model", "prompt", "tokens", "temperature", "top-k", "top-p", "seed", "threads"]
FLAGS += ["decode", "min-p", "repetition-penalty", "stop", "ignore-eot", "num-samples", "dtype"]
FLAGS += ["show-probs", "interactive", "prompt-file"]
EOT = 256


@pytest.fixture
def llmc(learnt: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a workspace of its own with a trained model."""
    return copy_of(learnt, tmp_path / "workspace")


def test_every_flag_is_in_the_help(learnt: Llmc) -> None:
    shown = ok(learnt("sample", "--help")).stdout
    for flag in FLAGS:
        assert re.search(rf"--{flag}\b", shown), flag


def test_the_pipe_equals_decode_byte_for_byte(learnt: Llmc) -> None:
    flags = ["sample", "--prompt", "naï", "--tokens", "150"]
    text = learnt.raw(*flags, "--decode")
    pipe = learnt.raw("decode", stdin=learnt.raw(*flags).stdout)
    assert text.returncode == pipe.returncode == 0
    assert pipe.stdout == text.stdout
    assert text.stdout.startswith("naï".encode())
    # The tokens are bytes, so that characters are split; the model has learned to complete some.
    assert len(text.stdout) > 100
    assert any(char > "\x7f" for char in text.stdout.decode(errors="ignore")[3:])


def test_the_statistics_begin_on_a_line_of_their_own(learnt: Llmc) -> None:
    """In one pipe with the text, too; the text itself gets no newline."""
    flags = ["sample", "--decode", "--prompt", "naï", "--tokens", "0"]
    done = subprocess.run(
        [*learnt.command, *flags],
        cwd=learnt.workspace,
        env=learnt.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )
    assert "naï\n0 tokens" in done.stdout.decode()
    assert learnt.raw(*flags).stdout.decode() == "naï"


def test_a_loaded_model_writes_what_the_command_writes(
    learnt: Llmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(learnt.cache))
    flags = ["--prompt", "naï", "--tokens", "30", "--temperature", "0.5", "--ignore-eot"]
    written = ok(learnt("sample", "--decode", *flags)).stdout
    settings: dict[str, Any] = {"tokens": 30, "temperature": 0.5, "ignore_eot": True}
    with load(Workspace(learnt.workspace), "first") as model:
        text = model.sample("naï", **settings)
        assert "naï" + text == written
        assert "".join(model.stream("naï", **settings)) == text
        sample = model.start("naï", **settings).finished()
        assert (len(sample.ids), sample.reason) == (30, "length")
        assert text[:4] not in model.sample("naï", stop=text[:4], **settings)
        for wrong in ({"warmth": 1}, {"dtype": "bf16"}, {"top_p": 2}, {"stop": ""}):
            with pytest.raises(Usage):
                model.sample("naï", **wrong)
    with pytest.raises(MissingOutput, match="no run and no checkpoint 'gone'"):
        load(Workspace(learnt.workspace), "gone")


def test_half_a_character_is_written_as_it_is(learnt: Llmc) -> None:
    header, tensors = read_checkpoint(learnt.workspace / "runs/first/model.bin")
    lead = "é".encode()[0]
    tensors["lnfw"] = np.zeros_like(tensors["lnfw"])
    tensors["lnfb"] = np.ones_like(tensors["lnfb"])
    tensors["wte"] = np.zeros_like(tensors["wte"])
    tensors["wte"][lead] = 1
    path = learnt.workspace / "stuck.bin"
    write_checkpoint(path, header.config, tensors.items(), tokenizer=header.tokenizer)
    flags = ["--model", "stuck.bin", "--temperature", "0", "--tokens", "3"]
    assert learnt.raw("sample", *flags, "--decode").stdout == bytes([lead] * 3)
    assert json.loads(learnt("sample", *flags, "--json").stdout)["text"] == "\ufffd" * 3


def test_the_likeliest_token_needs_no_luck(learnt: Llmc) -> None:
    greedy = ids(learnt, "--temperature", "0", "--tokens", "40", "--seed", "1")
    assert len(greedy) == 40
    assert ids(learnt, "--temperature", "0", "--tokens", "40", "--seed", "2") == greedy
    assert ids(learnt, "--top-k", "1", "--tokens", "40") == greedy
    assert ids(learnt, "--top-p", "0", "--tokens", "40") == greedy
    assert ids(learnt, "--top-k", "257", "--tokens", "40") != greedy


def test_a_seed_decides_every_token_on_any_number_of_threads(learnt: Llmc) -> None:
    written = ids(learnt, "--seed", "5", "--tokens", "50", "--threads", "1")
    for threads in ("2", "3"):
        assert ids(learnt, "--seed", "5", "--tokens", "50", "--threads", threads) == written
    assert ids(learnt, "--seed", "6", "--tokens", "50") != written


def test_the_defaults(learnt: Llmc) -> None:
    assert SampleConfig() == SampleConfig(
        tokens=256,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repetition_penalty=1.0,
        seed=1337,
        dtype="fp32",
    )
    written = ids(learnt, "--ignore-eot")  # four times the context of the model
    assert len(written) == 256
    assert written == ids(
        learnt, "--tokens", "256", "--temperature", "1", "--top-k", "0", "--top-p", "1",
        "--min-p", "0", "--repetition-penalty", "1", "--seed", "1337", "--dtype", "fp32",
        "--num-samples", "1", "--run", "first", "--ignore-eot",
    )  # fmt: skip


def test_a_text_ends_before_end_of_text(learnt: Llmc) -> None:
    flags = ["--temperature", "2", "--tokens", "600", "--seed", "4"]
    endless = ids(learnt, *flags, "--ignore-eot")
    assert len(endless) == 600
    assert EOT in endless
    assert ids(learnt, *flags) == endless[: endless.index(EOT)]
    done = ok(learnt("sample", *flags, "--decode"))
    assert "; the text ended by itself\n" in done.stderr
    assert "<|endoftext|>" not in done.stdout
    assert json.loads(learnt("sample", *flags, "--json").stdout)["reason"] == "end-of-text"
    shown = ok(learnt("sample", *flags, "--decode", "--ignore-eot")).stdout
    assert "<|endoftext|>" in shown


def test_the_prompt_is_part_of_what_is_written(learnt: Llmc) -> None:
    prompt = "Größe 🙂 "
    written = ids(learnt, "--prompt", prompt, "--tokens", "5")
    assert bytes(written[:-5]).decode() == prompt
    assert ids(learnt, "--prompt", prompt, "--tokens", "0") == list(prompt.encode())
    assert ids(learnt, "--tokens", "0") == []
    assert ids(learnt, "--prompt", "", "--tokens", "5") == ids(learnt, "--tokens", "5")
    long = "das und the of " * 10  # more than the context
    assert ids(learnt, "--prompt", long, "--tokens", "3")[:-3] == list(long.encode())


def test_a_prompt_longer_than_the_context_is_reported(learnt: Llmc) -> None:
    """What is said to be seen is what decides; the context is 64 tokens."""
    flags = ["--temperature", "0", "--tokens", "4"]
    long = "das und the of " * 10
    done = ok(learnt("sample", *flags, "--prompt", long))
    said = "of the prompt's 150 tokens the model sees only the last 54; its context is 64"
    assert said in done.stderr.replace("\n", " ")
    written = [int(line) for line in done.stdout.splitlines()][-4:]
    assert written == ids(learnt, *flags, "--prompt", long[-54:])[-4:]
    done = ok(learnt("sample", *flags, "--prompt", long[-64:]))
    assert "of the prompt" not in done.stderr


def test_a_prompt_may_look_like_a_flag(learnt: Llmc) -> None:
    assert ids(learnt, "--prompt=--json", "--tokens", "0") == list(b"--json")


def test_json_is_one_object(learnt: Llmc) -> None:
    flags = ["--prompt", "das ", "--tokens", "6", "--seed", "3"]
    done = ok(learnt("sample", *flags, "--decode", "--json"))
    result = json.loads(done.stdout)
    written = ids(learnt, *flags)
    assert result.pop("ms") >= result.pop("prompt_ms") > 0
    logprobs = result.pop("logprobs")
    assert result == {
        "model": "runs/first/model.bin",
        "dtype": "fp32",
        "sample": 0,
        "seed": 3,
        "prompt_tokens": 4,
        "ids": written,
        "text": bytes(written).decode(errors="replace"),
        "reason": "length",
    }
    torch = pytest.importorskip("torch")
    from llmc.check.torch_model import GPT2

    header, tensors = read_checkpoint(learnt.workspace / "runs/first/model.bin")
    with torch.no_grad():
        logits, _ = GPT2(header.config).load(tensors)(torch.tensor([written]))
    expected = logits[0].log_softmax(-1)[range(3, 9), written[4:]]
    assert logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_several_texts_are_those_of_several_seeds(learnt: Llmc) -> None:
    flags = ["--prompt", "das ", "--tokens", "30", "--ignore-eot"]
    alone = [ids(learnt, *flags, "--seed", str(seed)) for seed in (7, 8, 9)]
    together = [*flags, "--seed", "7", "--num-samples", "3"]
    assert ids(learnt, *together) == [*alone[0], EOT, *alone[1], EOT, *alone[2]]
    text = learnt.raw("sample", *together, "--decode")
    pipe = learnt.raw("decode", stdin=learnt.raw("sample", *together).stdout)
    assert text.stdout == pipe.stdout
    assert b"90 tokens in 3 texts, " in text.stderr
    lines = ok(learnt("sample", *together, "--json")).stdout.splitlines()
    objects = [json.loads(line) for line in lines]
    assert [(found["sample"], found["seed"]) for found in objects] == [(0, 7), (1, 8), (2, 9)]
    assert [found["ids"] for found in objects] == alone
    many = [*flags, "--seed", "7", "--num-samples", "40", "--tokens", "2"]
    assert len(ok(learnt("sample", *many, "--json")).stdout.splitlines()) == 40


def test_a_stop_string_is_not_written(learnt: Llmc) -> None:
    flags = ["--prompt", "das the", "--tokens", "200", "--ignore-eot"]
    full = learnt.raw("sample", *flags, "--decode").stdout
    found = json.loads(learnt("sample", *flags, "--json").stdout)
    for stop in ("the", "of the", "für", "日"):
        cut, met, _ = full[len("das the") :].partition(stop.encode())
        given = [*flags, "--stop", "never that", "--stop", stop]
        done = learnt.raw("sample", *given, "--decode")
        assert done.stdout == b"das the" + cut
        assert (b"; a stop string came\n" in done.stderr) == bool(met)
        assert learnt.raw("decode", stdin=learnt.raw("sample", *given).stdout).stdout == (
            b"das the" + cut
        )
        result = json.loads(learnt("sample", *given, "--json").stdout)
        assert result["ids"] == list(b"das the" + cut)
        assert result["reason"] == ("stop" if met else "length")
        assert result["logprobs"] == found["logprobs"][: len(cut)]


def test_the_prompt_may_come_from_a_file_or_a_pipe(llmc: Llmc) -> None:
    (llmc.workspace / "prompt.txt").write_bytes("Größe\n\n".encode())
    expected = ids(llmc, "--prompt", "Größe\n", "--tokens", "4")
    assert ids(llmc, "--prompt-file", "prompt.txt", "--tokens", "4") == expected
    (llmc.workspace / "marked.txt").write_bytes("\ufeffGröße\n\n".encode())
    assert ids(llmc, "--prompt-file", "marked.txt", "--tokens", "4") == expected
    assert ids(llmc, "--prompt", "\ufeffGröße\n", "--tokens", "4") == expected
    for flag in ("--prompt", "--prompt-file"):
        done = ok(llmc("sample", flag, "-", "--tokens", "4", stdin="Größe\n\n"))
        assert [int(line) for line in done.stdout.splitlines()] == expected
    done = ok(llmc("sample", "--prompt", "-", "--tokens", "0", stdin="a\r\nb\r\n"))
    assert [int(line) for line in done.stdout.splitlines()] == list(b"a\nb")  # as texts are read
    assert ok(llmc("sample", "--prompt", "-", "--tokens", "0", stdin="\n")).stdout == ""
    (llmc.workspace / "prompt.txt").write_bytes(b"Gr\xf6\xdfe")
    error = assert_one_sentence(llmc("sample", "--prompt-file", "prompt.txt"), 1)
    assert "prompt.txt is not UTF-8 text (byte 2): convert it" in error


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_smaller_weights_write_almost_the_same(learnt: Llmc, dtype: str) -> None:
    flags = ["--prompt", "das the of", "--tokens", "8", "--temperature", "0"]
    exact = json.loads(learnt("sample", *flags, "--json").stdout)
    found = json.loads(learnt("sample", *flags, "--json", "--dtype", dtype).stdout)
    assert found["dtype"] == dtype
    assert found["logprobs"] != exact["logprobs"]
    assert found["logprobs"][0] == pytest.approx(exact["logprobs"][0], abs=0.1)


def test_filters_reach_the_engine(learnt: Llmc) -> None:
    greedy = ids(learnt, "--temperature", "0", "--tokens", "40")
    assert ids(learnt, "--min-p", "1", "--tokens", "40") == greedy
    assert ids(learnt, "--min-p", "0.001", "--tokens", "40") != greedy
    assert (
        ids(learnt, "--temperature", "0", "--repetition-penalty", "5", "--tokens", "40") != greedy
    )


def test_colours_are_for_terminals(learnt: Llmc) -> None:
    flags = ["sample", "--prompt", "das ", "--tokens", "30"]
    plain = learnt.raw(*flags, "--decode")
    assert learnt.raw(*flags, "--show-probs").stdout == plain.stdout
    shown = in_terminal(learnt, 80, *flags, "--show-probs")
    assert "\x1b[38;5;" in shown
    assert "probability: " in shown
    for extra in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        llmc = Llmc(learnt.workspace, learnt.cache, extra)
        shown = in_terminal(llmc, 80, *flags, "--show-probs")
        assert not re.search(r"\x1b\[[0-9;]*38;5", shown)


def test_a_terminal_is_shown_nothing_that_moves_its_cursor(learnt: Llmc) -> None:
    flags = ["--temperature", "100", "--tokens", "400", "--ignore-eot", "--prompt", "a\x1b[2J"]
    assert b"\x1b[2J" in learnt.raw("sample", "--decode", *flags).stdout
    llmc = Llmc(learnt.workspace, learnt.cache, {"NO_COLOR": "1"})
    shown = in_terminal(llmc, 80, "sample", "--decode", "--quiet", *flags)
    text = re.sub(r"\x1b\[[01]?m", "", shown)  # the prompt is bold
    assert not set(map(chr, range(32))) & set(text) - set("\r\n\t")
    assert shown.endswith("\n")


def test_a_heading_separates_several_texts(learnt: Llmc) -> None:
    flags = ["--decode", "--num-samples", "2", "--tokens", "5", "--ignore-eot"]
    shown = in_terminal(learnt, 80, "sample", *flags)
    assert "── 1 of 2, seed 1337 ──" in shown
    assert "── 2 of 2, seed 1338 ──" in shown
    assert "<|endoftext|>" not in shown
