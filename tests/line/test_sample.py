from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.config import SampleConfig
from llmc.errors import MissingOutput, Usage
from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.sample.model import find_model, load
from llmc.tokens.bpe import train_bpe
from llmc.tokens.tokenizer import Tokenizer
from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from llmc.weights.random import random_tensors
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.terminal import in_terminal
from tests.helpers.workspace import copy_of, flip_a_bit, ok, prepared_workspace, trained

FLAGS = ["run", "model", "prompt", "tokens", "temperature", "top-k", "top-p", "seed", "threads"]
FLAGS += ["decode", "min-p", "repetition-penalty", "stop", "ignore-eot", "num-samples", "dtype"]
FLAGS += ["show-probs", "interactive", "prompt-file"]
EOT = 256


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """A workspace with a model that has learned a little of how UTF-8 goes."""
    llmc = prepared_workspace(tmp_path_factory.mktemp("sample") / "workspace", cache)
    trained(llmc, "--steps", "300", "--lr", "0.01", "--val-every", "0", run="first")
    return llmc


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a workspace of its own with a trained model."""
    return copy_of(template, tmp_path / "workspace")


def ids(llmc: Llmc, *flags: str) -> list[int]:
    return [int(line) for line in ok(llmc("sample", *flags)).stdout.splitlines()]


def test_every_flag_is_in_the_help(template: Llmc) -> None:
    shown = ok(template("sample", "--help")).stdout
    for flag in FLAGS:
        assert re.search(rf"--{flag}\b", shown), flag


def test_the_pipe_equals_decode_byte_for_byte(template: Llmc) -> None:
    flags = ["sample", "--prompt", "naï", "--tokens", "150"]
    text = template.raw(*flags, "--decode")
    pipe = template.raw("decode", stdin=template.raw(*flags).stdout)
    assert text.returncode == pipe.returncode == 0
    assert pipe.stdout == text.stdout
    assert text.stdout.startswith("naï".encode())
    # The tokens are bytes, so that characters are split; the model has learned to complete some.
    assert len(text.stdout) > 100
    assert any(char > "\x7f" for char in text.stdout.decode(errors="ignore")[3:])


def test_the_statistics_begin_on_a_line_of_their_own(template: Llmc) -> None:
    """In one pipe with the text, too; the text itself gets no newline."""
    flags = ["sample", "--decode", "--prompt", "naï", "--tokens", "0"]
    done = subprocess.run(
        [*template.command, *flags],
        cwd=template.workspace,
        env=template.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )
    assert "naï\n0 tokens" in done.stdout.decode()
    assert template.raw(*flags).stdout.decode() == "naï"


def test_a_loaded_model_writes_what_the_command_writes(
    template: Llmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(template.cache))
    flags = ["--prompt", "naï", "--tokens", "30", "--temperature", "0.5", "--ignore-eot"]
    written = ok(template("sample", "--decode", *flags)).stdout
    settings: dict[str, Any] = {"tokens": 30, "temperature": 0.5, "ignore_eot": True}
    with load(Workspace(template.workspace), "first") as model:
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
        load(Workspace(template.workspace), "gone")


def test_half_a_character_is_written_as_it_is(template: Llmc) -> None:
    header, tensors = read_checkpoint(template.workspace / "runs/first/model.bin")
    lead = "é".encode()[0]
    tensors["lnfw"] = np.zeros_like(tensors["lnfw"])
    tensors["lnfb"] = np.ones_like(tensors["lnfb"])
    tensors["wte"] = np.zeros_like(tensors["wte"])
    tensors["wte"][lead] = 1
    path = template.workspace / "stuck.bin"
    write_checkpoint(path, header.config, tensors.items(), tokenizer=header.tokenizer)
    flags = ["--model", "stuck.bin", "--temperature", "0", "--tokens", "3"]
    assert template.raw("sample", *flags, "--decode").stdout == bytes([lead] * 3)
    assert json.loads(template("sample", *flags, "--json").stdout)["text"] == "\ufffd" * 3


def test_the_likeliest_token_needs_no_luck(template: Llmc) -> None:
    greedy = ids(template, "--temperature", "0", "--tokens", "40", "--seed", "1")
    assert len(greedy) == 40
    assert ids(template, "--temperature", "0", "--tokens", "40", "--seed", "2") == greedy
    assert ids(template, "--top-k", "1", "--tokens", "40") == greedy
    assert ids(template, "--top-p", "0", "--tokens", "40") == greedy
    assert ids(template, "--top-k", "257", "--tokens", "40") != greedy


def test_a_seed_decides_every_token_on_any_number_of_threads(template: Llmc) -> None:
    written = ids(template, "--seed", "5", "--tokens", "50", "--threads", "1")
    for threads in ("2", "3"):
        assert ids(template, "--seed", "5", "--tokens", "50", "--threads", threads) == written
    assert ids(template, "--seed", "6", "--tokens", "50") != written


def test_the_defaults(template: Llmc) -> None:
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
    written = ids(template, "--ignore-eot")  # four times the context of the model
    assert len(written) == 256
    assert written == ids(
        template, "--tokens", "256", "--temperature", "1", "--top-k", "0", "--top-p", "1",
        "--min-p", "0", "--repetition-penalty", "1", "--seed", "1337", "--dtype", "fp32",
        "--num-samples", "1", "--run", "first", "--ignore-eot",
    )  # fmt: skip


def test_a_text_ends_before_end_of_text(template: Llmc) -> None:
    flags = ["--temperature", "2", "--tokens", "600", "--seed", "4"]
    endless = ids(template, *flags, "--ignore-eot")
    assert len(endless) == 600
    assert EOT in endless
    assert ids(template, *flags) == endless[: endless.index(EOT)]
    done = ok(template("sample", *flags, "--decode"))
    assert "; the text ended by itself\n" in done.stderr
    assert "<|endoftext|>" not in done.stdout
    assert json.loads(template("sample", *flags, "--json").stdout)["reason"] == "end-of-text"
    shown = ok(template("sample", *flags, "--decode", "--ignore-eot")).stdout
    assert "<|endoftext|>" in shown


def test_the_prompt_is_part_of_what_is_written(template: Llmc) -> None:
    prompt = "Größe 🙂 "
    written = ids(template, "--prompt", prompt, "--tokens", "5")
    assert bytes(written[:-5]).decode() == prompt
    assert ids(template, "--prompt", prompt, "--tokens", "0") == list(prompt.encode())
    assert ids(template, "--tokens", "0") == []
    assert ids(template, "--prompt", "", "--tokens", "5") == ids(template, "--tokens", "5")
    long = "das und the of " * 10  # more than the context
    assert ids(template, "--prompt", long, "--tokens", "3")[:-3] == list(long.encode())


def test_a_prompt_longer_than_the_context_is_reported(template: Llmc) -> None:
    """What is said to be seen is what decides; the context is 64 tokens."""
    flags = ["--temperature", "0", "--tokens", "4"]
    long = "das und the of " * 10
    done = ok(template("sample", *flags, "--prompt", long))
    said = "of the prompt's 150 tokens the model sees only the last 54; its context is 64"
    assert said in done.stderr.replace("\n", " ")
    written = [int(line) for line in done.stdout.splitlines()][-4:]
    assert written == ids(template, *flags, "--prompt", long[-54:])[-4:]
    done = ok(template("sample", *flags, "--prompt", long[-64:]))
    assert "of the prompt" not in done.stderr


def test_a_prompt_may_look_like_a_flag(template: Llmc) -> None:
    assert ids(template, "--prompt=--json", "--tokens", "0") == list(b"--json")


def test_json_is_one_object(template: Llmc) -> None:
    flags = ["--prompt", "das ", "--tokens", "6", "--seed", "3"]
    done = ok(template("sample", *flags, "--decode", "--json"))
    result = json.loads(done.stdout)
    written = ids(template, *flags)
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

    header, tensors = read_checkpoint(template.workspace / "runs/first/model.bin")
    with torch.no_grad():
        logits, _ = GPT2(header.config).load(tensors)(torch.tensor([written]))
    expected = logits[0].log_softmax(-1)[range(3, 9), written[4:]]
    assert logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_several_texts_are_those_of_several_seeds(template: Llmc) -> None:
    flags = ["--prompt", "das ", "--tokens", "30", "--ignore-eot"]
    alone = [ids(template, *flags, "--seed", str(seed)) for seed in (7, 8, 9)]
    together = [*flags, "--seed", "7", "--num-samples", "3"]
    assert ids(template, *together) == [*alone[0], EOT, *alone[1], EOT, *alone[2]]
    text = template.raw("sample", *together, "--decode")
    pipe = template.raw("decode", stdin=template.raw("sample", *together).stdout)
    assert text.stdout == pipe.stdout
    assert b"90 tokens in 3 texts, " in text.stderr
    lines = ok(template("sample", *together, "--json")).stdout.splitlines()
    objects = [json.loads(line) for line in lines]
    assert [(found["sample"], found["seed"]) for found in objects] == [(0, 7), (1, 8), (2, 9)]
    assert [found["ids"] for found in objects] == alone
    many = [*flags, "--seed", "7", "--num-samples", "40", "--tokens", "2"]
    assert len(ok(template("sample", *many, "--json")).stdout.splitlines()) == 40


def test_a_stop_string_is_not_written(template: Llmc) -> None:
    flags = ["--prompt", "das the", "--tokens", "200", "--ignore-eot"]
    full = template.raw("sample", *flags, "--decode").stdout
    found = json.loads(template("sample", *flags, "--json").stdout)
    for stop in ("the", "of the", "für", "日"):
        cut, met, _ = full[len("das the") :].partition(stop.encode())
        given = [*flags, "--stop", "never that", "--stop", stop]
        done = template.raw("sample", *given, "--decode")
        assert done.stdout == b"das the" + cut
        assert (b"; a stop string came\n" in done.stderr) == bool(met)
        assert template.raw("decode", stdin=template.raw("sample", *given).stdout).stdout == (
            b"das the" + cut
        )
        result = json.loads(template("sample", *given, "--json").stdout)
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
    assert [int(line) for line in done.stdout.splitlines()] == list(b"a\r\nb")
    assert ok(llmc("sample", "--prompt", "-", "--tokens", "0", stdin="\n")).stdout == ""
    (llmc.workspace / "prompt.txt").write_bytes(b"Gr\xf6\xdfe")
    error = assert_one_sentence(llmc("sample", "--prompt-file", "prompt.txt"), 1)
    assert "prompt.txt is not UTF-8 text (byte 2): convert it" in error


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_smaller_weights_write_almost_the_same(template: Llmc, dtype: str) -> None:
    flags = ["--prompt", "das the of", "--tokens", "8", "--temperature", "0"]
    exact = json.loads(template("sample", *flags, "--json").stdout)
    found = json.loads(template("sample", *flags, "--json", "--dtype", dtype).stdout)
    assert found["dtype"] == dtype
    assert found["logprobs"] != exact["logprobs"]
    assert found["logprobs"][0] == pytest.approx(exact["logprobs"][0], abs=0.1)


def test_filters_reach_the_engine(template: Llmc) -> None:
    greedy = ids(template, "--temperature", "0", "--tokens", "40")
    assert ids(template, "--min-p", "1", "--tokens", "40") == greedy
    assert ids(template, "--min-p", "0.001", "--tokens", "40") != greedy
    assert (
        ids(template, "--temperature", "0", "--repetition-penalty", "5", "--tokens", "40") != greedy
    )


def test_colours_are_for_terminals(template: Llmc) -> None:
    flags = ["sample", "--prompt", "das ", "--tokens", "30"]
    plain = template.raw(*flags, "--decode")
    assert template.raw(*flags, "--show-probs").stdout == plain.stdout
    shown = in_terminal(template, 80, *flags, "--show-probs")
    assert "\x1b[38;5;" in shown
    assert "probability: " in shown
    for extra in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        llmc = Llmc(template.workspace, template.cache, extra)
        shown = in_terminal(llmc, 80, *flags, "--show-probs")
        assert not re.search(r"\x1b\[[0-9;]*38;5", shown)


def test_a_terminal_is_shown_nothing_that_moves_its_cursor(template: Llmc) -> None:
    flags = ["--temperature", "100", "--tokens", "400", "--ignore-eot", "--prompt", "a\x1b[2J"]
    assert b"\x1b[2J" in template.raw("sample", "--decode", *flags).stdout
    llmc = Llmc(template.workspace, template.cache, {"NO_COLOR": "1"})
    shown = in_terminal(llmc, 80, "sample", "--decode", "--quiet", *flags)
    text = re.sub(r"\x1b\[[01]?m", "", shown)  # the prompt is bold
    assert not set(map(chr, range(32))) & set(text) - set("\r\n\t")
    assert shown.endswith("\n")


def test_a_heading_separates_several_texts(template: Llmc) -> None:
    flags = ["--decode", "--num-samples", "2", "--tokens", "5", "--ignore-eot"]
    shown = in_terminal(template, 80, "sample", *flags)
    assert "── 1 of 2, seed 1337 ──" in shown
    assert "── 2 of 2, seed 1338 ──" in shown
    assert "<|endoftext|>" not in shown


def test_choices_and_the_next_command_are_printed(template: Llmc) -> None:
    done = ok(template("sample", "--tokens", "1"))
    assert "run: runs/first (the newest)\n" in done.stderr
    assert "next: llmc sample --decode\n" in done.stderr
    done = ok(template("sample", "--tokens", "40", "--prompt", "das ", "--ignore-eot"))
    assert re.search(
        r"^40 tokens, [\d,.]+ tokens/s \(prompt of 4 in [\d.]+ ms\)$", done.stderr, re.M
    )
    done = ok(template("sample", "--tokens", "1", "--decode", "--quiet"))
    assert done.stderr == ""
    assert done.stdout != ""


def test_the_newest_run_is_taken_unless_one_is_named(llmc: Llmc) -> None:
    flags = ["--temperature", "0", "--tokens", "30"]
    first = ids(llmc, *flags)
    trained(llmc, run="second")
    second = ids(llmc, *flags)
    assert second != first
    assert ids(llmc, *flags, "--run", "second") == second
    assert ids(llmc, *flags, "--run", "first") == first
    assert ids(llmc, *flags, "--model", "runs/first/model.bin") == first


def test_a_model_finds_its_tokenizer_by_fingerprint(llmc: Llmc) -> None:
    done = ok(llmc("tokenize", "texts", "--tokenizer", "bpe:280", "--out", "data/bpe", "--json"))
    tokenizer = bytes.fromhex(json.loads(done.stdout)["tokenizer"]["fingerprint"])
    config = ModelConfig(1, 2, 16, 64, 280)
    model = llmc.workspace / "mine.bin"
    write_checkpoint(model, config, random_tensors(config, 1), tokenizer=tokenizer)
    done = llmc("sample", "--model", "mine.bin", "--prompt", "Größe", "--decode", "--tokens", "9")
    assert ok(done).stdout.startswith("Größe")
    ok(llmc("train", "--data", "data/bpe", "--model", "mine.bin", "--steps", "1", "--run", "bpe"))
    shutil.rmtree(llmc.workspace / "data")  # the run has recorded it too
    found = find_model(Workspace(llmc.workspace), None, model, needs_tokenizer=True)
    assert found.tokenizer is not None
    assert found.tokenizer.fingerprint == tokenizer.hex()
    shutil.rmtree(llmc.workspace / "runs")
    for flag in (["--decode"], ["--prompt", "a"]):
        error = assert_one_sentence(llmc("sample", "--model", "mine.bin", *flag), 1)
        assert "tokenizer of mine.bin is unknown" in error
        assert "'llmc decode --tokenizer NAME'" in error
    assert len(ids(llmc, "--model", "mine.bin", "--tokens", "4")) == 4
    done = ok(llmc("sample", "--model", "mine.bin", "--tokens", "4", "--json"))
    assert json.loads(done.stdout)["text"] is None


def test_a_checkpoint_of_llm_c_speaks_gpt2(tmp_path: Path, gpt2: Tokenizer) -> None:
    config = ModelConfig(1, 1, 4, 8, gpt2.vocab_size)
    path = tmp_path / "llmc.bin"
    write_checkpoint(path, config, random_tensors(config, 1))
    workspace = Workspace(tmp_path)
    found = find_model(workspace, None, path, needs_tokenizer=True)
    assert found.tokenizer is not None
    assert found.tokenizer.fingerprint == gpt2.fingerprint
    fingerprint = bytes.fromhex(train_bpe(["some words"], 258).fingerprint)
    write_checkpoint(path, config, random_tensors(config, 1), tokenizer=fingerprint)
    assert find_model(workspace, None, path).tokenizer is None


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--run", "first", "--model", "x.bin"], 2, "--run and --model exclude each other"),
        (["--model", "x.bin"], 3, "make one with 'llmc export-weights MODEL'"),
        (["--model", "runs/first"], 2, "runs/first is a folder"),
        (["--model", "runs/first"], 2, "--run NAME"),
        (["--seed", "9007199254740993"], 2, "between 0 and 9007199254740992, not 9007199254740993"),
        (["--run", "second"], 3, "run 'llmc train --run second' first"),
        (["--model", "tiny.toml"], 1, "tiny.toml"),
        (["--model", "data/texts/train.bin"], 1, "data/texts/train.bin"),
        (["--temperature", "-1"], 2, "'--temperature'"),
        (["--temperature", "hot"], 2, "'--temperature'"),
        (["--top-p", "1.5"], 2, "'--top-p'"),
        (["--tokens", "-1"], 2, "'--tokens'"),
        (["--threads", "0"], 2, "'--threads'"),
        (["--min-p", "1.5"], 2, "'--min-p'"),
        (["--repetition-penalty", "0"], 2, "'--repetition-penalty'"),
        (["--num-samples", "0"], 2, "'--num-samples'"),
        (["--dtype", "fp16"], 2, "'--dtype'"),
        (["--stop", ""], 2, "--stop needs at least one character"),
        (["--prompt", "a", "--prompt-file", "b"], 2, "--prompt and --prompt-file exclude"),
        (["--prompt-file", "nowhere.txt"], 1, "cannot read the prompt from nowhere.txt: No such"),
        (["-i"], 2, "-i needs a terminal"),
        (["-i", "--num-samples", "2"], 2, "leave out --json and --num-samples"),
    ],
)
def test_impossible_flags_are_refused(
    template: Llmc, flags: list[str], code: int, said: str
) -> None:
    assert said in assert_one_sentence(template("sample", "--quiet", *flags), code)


def test_no_run_names_the_command(template: Llmc, tmp_path: Path) -> None:
    empty = Llmc(tmp_path, template.cache)
    assert "run 'llmc train' first" in assert_one_sentence(empty("sample"), 3)


def test_a_damaged_checkpoint_is_refused(llmc: Llmc) -> None:
    path = llmc.workspace / "runs/first/model.bin"
    data = flip_a_bit(path, -1)
    assert "checksum" in assert_one_sentence(llmc("sample", "--quiet"), 1)
    path.write_bytes(data[:-1])
    assert "cut short" in assert_one_sentence(llmc("sample", "--quiet"), 1)


@pytest.mark.parametrize("flags", [[], ["--decode"]])
def test_a_reader_that_leaves_early_is_no_error(template: Llmc, flags: list[str]) -> None:
    with template.start("sample", "--tokens", "1000000", *flags) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(2)) == 2  # it comes while the rest is being made
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert b"error" not in errors
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors
