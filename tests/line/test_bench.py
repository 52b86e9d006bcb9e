"""``llmc bench``: its options, one small real run of each form, and what the engine tells it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from llmc.check.bench import Work
from llmc.cli.commands import bench as command
from llmc.engine.isas import ISAS
from llmc.model import ModelConfig, gemm_flops
from llmc.paths import shipped_dir
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.engine import Native, refused, succeeded
from tests.helpers.events import json_lines

TINY = ModelConfig(layers=2, heads=2, channels=32, context=64, vocab_size=256)
WORK = Work(TINY, B=2, T=16, threads=1, steps=2)
PRESET = """[model]
layers = 2
heads = 2
channels = 32
context = 64
vocab_size = 256
"""
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="compares with PyTorch")


# ---- options -------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """Let the command's functions only note what they were asked to time."""
    works: list[Work] = []

    def note(work: Work, against: str | None, pairs: int, **_: object) -> dict[str, Any]:
        works.append(work)
        return {}

    monkeypatch.setattr(command, "bench_steps", note)
    monkeypatch.setattr(command, "bench_kernels", note)
    monkeypatch.setattr(command, "bench_decode", note)
    monkeypatch.setattr(command, "show", lambda *_: None)
    return works


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    from llmc.cli.main import main

    monkeypatch.setattr(sys, "argv", ["llmc", "bench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, words


@pytest.mark.parametrize(
    ("size", "layers"),
    [("124M", 12), ("355m", 24), ("774M", 36), ("1558M", 48), ("gpt2-124m", 12)],
)
def test_a_model_is_a_size_or_a_preset(
    size: str, layers: int, asked: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    called(monkeypatch, "--model", size, "--threads", "3", "--dtype", "bf16")
    called(monkeypatch, "kernels", "--model", size, "--steps", "9")
    assert [work.config.layers for work in asked] == [layers, layers]
    assert (asked[0].threads, asked[0].dtype, asked[0].steps) == (3, "bf16", 5)
    assert (asked[1].dtype, asked[1].steps, asked[1].B) == ("fp32", 9, 4)
    called(monkeypatch, "decode", "--model", size, "--dtype", "int8")
    assert (asked[2].dtype, asked[2].B) == ("int8", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seq-len", "65"], "--seq-len 65 is more than the 64 positions of tiny.toml"),
        (["--model", "gpt2-124"], "no preset 'gpt2-124'; did you mean 'gpt2-124m'?"),
        (["--dtype", "fp8"], "fp8"),
        (["dance"], "dance"),
        (["--pairs", "0"], "--pairs"),
        (["--steps", "0"], "--steps"),
        (["kernels", "--against", "torch-compile"], "--against torch"),
        (["decode", "--against", "torch"], "leave out --against"),
        (["kernels", "--dtype", "int8"], "llmc bench decode --dtype int8"),
        (["isa", "--threads", "2"], "--threads does not apply"),
        (["--threads", "257"], "--threads must be between 1 and 256"),
    ],
)
def test_impossible_flags_are_refused(words: list[str], said: str, tiny: Llmc) -> None:
    model = [] if "--model" in words or "isa" in words else ["--model", "tiny.toml"]
    assert said in assert_one_sentence(tiny("bench", *model, *words), 2)


def test_without_pytorch_there_is_nothing_to_compare_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmc.cli.main import main

    monkeypatch.setattr("llmc.check.bench.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["llmc", "bench", "--against", "torch"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert re.search(r"pip install .*\[torch\]", capsys.readouterr().err)


# ---- real runs -----------------------------------------------------------------------------------


@pytest.fixture
def tiny(llmc: Llmc) -> Llmc:
    (llmc.workspace / "tiny.toml").write_text(PRESET)
    return llmc


SMALL_RUN = ("--model", "tiny.toml", "--batch-size", "2", "--seq-len", "16", "--steps", "2")


def numbers(value: Any) -> Iterator[float]:
    """Yield every number of a result, however deep."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_instruction_sets_are_measured_and_the_choice_is_that_of_a_run(llmc: Llmc) -> None:
    result = json.loads(llmc("--json", "bench", "isa").stdout)
    tables, chosen = result["tables"], result["chosen"]
    assert set(tables) <= {*ISAS, "plain"} and {"plain", *chosen.values()} <= set(tables)
    for row in tables.values():
        assert not row["runnable"] or (row["fp32_flops"] > 0 and row["bf16_flops"] > 0)
    done = llmc("bench", "isa")
    assert "fp32, GF/s" in done.stdout and chosen["bf16"] in done.stdout


def documented(result: dict[str, Any]) -> None:
    """Hold a result to docs/reference/bench.md: every key explained, every number positive."""
    text = (shipped_dir("native").parent / "docs" / "reference" / "bench.md").read_text()
    keys = set(result)
    for inner in [result.get("against", {}), *result["kernels"].values()]:
        keys |= set(inner)
    assert keys <= set(re.findall(r"`(\w+)`", text))
    assert min(numbers(result)) > 0


def test_a_step_as_a_table(tiny: Llmc) -> None:
    done = tiny("bench", *SMALL_RUN, "--threads", "1", env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["kernel", "calls", "ms", "a", "step", "share", "GF/s", "of", "peak"]
    names = {line.split()[0] for line in lines[1:-2]}
    assert {"linear_forward", "attention_backward", "adamw_update"} <= names
    assert "peak" not in names  # measured in between, no part of a step
    assert lines[-2].startswith("step ") and "tokens/s" in lines[-2]
    assert re.search(r"% of the measured peak of .* GF/s \(at best", lines[-1])
    assert "\x1b" not in done.stdout and max(map(len, lines)) <= 80
    assert "tiny.toml, B=2, T=16, fp32, threads: 1, steps a process: 2" in done.stderr
    assert "next: llmc bench --against torch" in done.stderr


def test_a_step_as_json(tiny: Llmc) -> None:
    done = tiny("bench", "step", *SMALL_RUN, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    documented(result)
    assert (result["model"], result["batch_size"], result["seq_len"]) == ("tiny.toml", 2, 16)
    shares = sum(row["share"] for row in result["kernels"].values())
    assert 0.2 < shares < 1.001  # the rest is between the kernels
    assert result["kernels"]["layernorm_forward"]["calls"] == 2 * TINY.layers + 1


def test_bf16_multiplied_as_floats_is_reported(tiny: Llmc) -> None:
    flags = ("bench", "--model", "tiny.toml", "--seq-len", "16", "--steps", "1", "--dtype", "bf16")
    said = tiny(*flags, env={"LLMC_ISA": "generic"})
    assert said.returncode == 0
    assert "bf16 was multiplied as floats: generic has no instruction for it" in said.stderr
    assert "as floats" not in tiny(*flags[:-2]).stderr


def test_kernels(tiny: Llmc) -> None:
    done = tiny("bench", "kernels", *SMALL_RUN, "--threads", "2", env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "M×N×K" in lines[0] and "GB/s" in lines[0]
    assert ["qkv_forward", "32×96×32"] in [line.split()[:2] for line in lines]
    assert lines[-2].startswith("measured peak of ")
    assert lines[-1].startswith("from one thread to another and back: ")
    assert max(map(len, lines)) <= 80
    assert "next: llmc bench kernels --against torch" in done.stderr

    result = json.loads(tiny("bench", "kernels", *SMALL_RUN, "--json").stdout)
    documented(result)
    rows = result["kernels"]
    assert all(row["best_ms"] <= row["ms"] for row in rows.values())
    # The products that were timed are those of a step, each once: B·T rows fit in one chunk.
    work = sum(v for k, v in WORK.step_flops().items() if k.startswith("linear_"))
    assert work == sum(
        (1 if name.startswith("head_") else TINY.layers) * gemm_flops(*(row[k] for k in "MNK"))
        for name, row in rows.items()
        if "M" in row
    )


@pytest.mark.parametrize(("dtype", "bits"), [("fp32", 32), ("bf16", 16), ("int8", 8 + 32 / 32)])
def test_decoding(dtype: str, bits: float, tiny: Llmc) -> None:
    flags = ("decode", "--model", "tiny.toml", "--steps", "2", "--threads", "1", "--dtype", dtype)
    done = tiny("bench", *flags, env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split()[:3] == ["qkv", "1×96×32", "4"]
    assert lines[-2].startswith("token ") and "% of the measured" in lines[-1]
    assert max(map(len, lines)) <= 80
    assert f"tiny.toml, B=1, {dtype}, threads: 1, steps a process: 2" in done.stderr

    result = json.loads(tiny("bench", *flags, "--batch-size", "3", "--json").stdout)
    documented(result)
    rows = result["kernels"]
    assert list(rows) == ["qkv", "attproj", "fc", "fcproj", "head"]
    assert {name: row["calls"] for name, row in rows.items()} == dict.fromkeys(rows, 4) | {
        "head": 2
    }
    assert {row["M"] for row in rows.values()} == {3}
    C, L, Vp = TINY.channels, TINY.layers, TINY.padded_vocab_size
    weights = 12 * L * C * C + Vp * C  # each matrix begins on a cache line, which these fill
    assert result["weight_bytes"] == weights * bits / 8
    assert result["tokens_per_second"] == pytest.approx(3e3 / result["step_ms"])


@needs_torch
def test_steps_against_pytorch(tiny: Llmc) -> None:
    done = tiny("bench", *SMALL_RUN, "--threads", "1", "--against", "torch", "--pairs", "2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"llmc is [\d.]+ times as fast \([\d.]+ to [\d.]+, pairs: 2\)", done.stdout)
    assert re.search(r"memory: [\d.]+ of PyTorch's", done.stdout)
    assert "pair 1 of 2: " in done.stderr and "pair 2 of 2: " in done.stderr


@needs_torch
def test_attention_against_pytorch(tiny: Llmc) -> None:
    flags = ("--threads", "1", "--against", "torch", "--pairs", "1", "--json")
    done = tiny("bench", "kernels", *SMALL_RUN, *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    documented(result)
    other = result["against"]
    assert other["threads"] == 1
    assert other["ratio"] == other["ratio_min"] == other["ratio_max"]
    assert other["ratio"] == pytest.approx(other["theirs_ms"] / other["ours_ms"])


@needs_torch
@pytest.mark.full  # PyTorch takes 15 seconds to find that out
def test_torch_compile_without_a_compiler_is_refused_in_one_sentence(
    tiny: Llmc, tmp_path: Path
) -> None:
    env = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = tiny("bench", *SMALL_RUN, "--against", "torch-compile", env=env)
    assert "needs a C++ compiler" in assert_one_sentence(done, 4)


@pytest.mark.parametrize("what", ["step", "kernels"])
def test_bf16_is_timed(what: str, tiny: Llmc) -> None:
    result = json.loads(
        succeeded(tiny("--json", "bench", what, *SMALL_RUN, "--dtype", "bf16")).stdout
    )
    assert result["dtype"] == "bf16"
    assert result["kernels"]


@pytest.mark.parametrize("what", ["step", "kernels"])
def test_ctrl_c_leaves_no_process_behind(what: str, tiny: Llmc) -> None:
    steps = "987654"
    with tiny.start("bench", what, "--model", "tiny.toml", "--steps", steps) as child:
        try:
            deadline = time.monotonic() + 120  # the engine may have to be built first
            while "llmc-native bench" not in running(steps):
                assert time.monotonic() < deadline and child.poll() is None
                time.sleep(0.05)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=30)
        finally:
            child.terminate()
    assert (child.returncode, out) == (130, b"")
    assert b"interrupted" in err
    assert running(steps) == ""


def running(steps: str) -> str:
    """Return the command lines of all processes that were told this number of steps."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
    )
    return "\n".join(line for line in listed.stdout.splitlines() if steps in line)


# ---- the engine's side ---------------------------------------------------------------------------


SHAPE: dict[str, Any] = {
    **{"layers": 3, "heads": 2, "channels": 32, "context": 512, "vocab_size": 300},
    **{"batch_size": 1, "seq_len": 300, "steps": 2, "warmup": 1, "threads": 2},
}


def test_every_operation_is_called_on_every_layer(native: Native) -> None:
    events = json_lines(succeeded(native("bench-kernels", **SHAPE)).stdout)
    shapes = {e["name"]: (e["M"], e["N"], e["K"]) for e in events if e["event"] == "kernel"}
    assert shapes["qkv_forward"] == (300, 96, 32)
    assert shapes["fcproj_backward_weight"] == (300, 32, 128)
    assert shapes["head_forward"] == (256, 384, 32)  # a chunk of rows, the padded vocabulary
    for name in shapes:
        calls = sum(event.get("name") == name and event["event"] == "call" for event in events)
        outside = name.startswith(("head_", "encoder_")) or name in (
            "crossentropy",
            "sum_squares",
            "adamw_update",
        )
        a_step = 1 if outside else 2 * 3 + 1 if name.startswith("layernorm_") else 3
        assert calls == 2 * a_step, name
    assert sum(event["event"] == "peak" for event in events) == 2


def test_operations_are_chosen_by_how_their_names_begin(native: Native) -> None:
    events = json_lines(succeeded(native("bench-kernels", **SHAPE, only="attention")).stdout)
    called_names = {event["name"] for event in events if event["event"] == "call"}
    assert called_names == {"attention_forward", "attention_backward"}
    assert "begins with 'x'" in refused(native("bench-kernels", **SHAPE, only="x"), 2)


@pytest.mark.parametrize("subcommand", ["bench", "bench-kernels"])
def test_the_engine_refuses_shapes_that_make_no_sense(subcommand: str, native: Native) -> None:
    refused(native(subcommand, heads=5, channels=32), 2)
    refused(native(subcommand, seq_len=65, context=64), 2)
    assert "takes fp32 or bf16" in refused(native(subcommand, dtype="fp16"), 2)


@pytest.mark.parametrize("subcommand", ["bench", "bench-kernels", "bench-decode"])
def test_a_benchmark_that_does_not_fit_is_refused(subcommand: str, native: Native) -> None:
    said = refused(native(subcommand, env={"LLMC_MEMORY": "1000000"}, **SHAPE), 2)
    assert "the benchmark needs " in said and "use a smaller --model" in said


def test_only_is_for_kernels(native: Native) -> None:
    refused(native("bench", only="qkv"), 2)
