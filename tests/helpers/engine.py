"""What the tests of the compiled engine share: the binary, small models and token files, a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmc.engine.build import build_native, compiler_for
from llmc.engine.toolchain import BINARY, Cpu, Mode
from llmc.model import ModelConfig, tensor_shapes
from llmc.tokens.files import write_tokens
from llmc.weights.checkpoint import checkpoint_bytes, write_checkpoint
from tests.helpers.programs import kept_programs

Floats = NDArray[np.float32]
Flags = dict[str, Any]

SMALL = ModelConfig(layers=2, heads=4, channels=64, context=64, vocab_size=512)
# Nothing here is a multiple of any vector, tile or block.
RAGGED = ModelConfig(layers=3, heads=5, channels=40, context=41, vocab_size=301)

# A batch of several sizes, and a run that does all that a run can do.
BATCH: Flags = {"batch_size": 3, "seq_len": 37}
ALL_EVENTS: Flags = {"val_every": 1, "sample_every": 1, "save_every": 1, "sample_tokens": 16}
SLOW_ISAS = ("plain", "generic")  # without vectors: they take several times as long
ALL_ISAS = ("plain", "generic", "neon", "neonbf16", "bfmmla", "sme", "avx2", "avx512", "avx512bf16")


def isas_but_the_slow() -> list[Any]:
    """Return parameters for all instruction sets; only make test-full takes the slow ones."""
    full = pytest.mark.full
    return [pytest.param(isa, marks=full) if isa in SLOW_ISAS else isa for isa in ALL_ISAS]


@dataclass(frozen=True)
class Native:
    """Runs the engine; every flag is a keyword, with underscores for dashes.

    A list gives a flag several times.
    """

    binary: Path
    emulator: tuple[str, ...] = ()

    def argv(self, subcommand: str, **flags: object) -> list[str]:
        words = [*self.emulator, str(self.binary), subcommand]
        for name, value in flags.items():
            for each in value if isinstance(value, list) else [value]:
                words += [f"--{name.replace('_', '-')}", str(each)]
        return words

    def __call__(
        self,
        subcommand: str,
        *,
        isa: str | None = None,
        env: Mapping[str, str] | None = None,
        **flags: object,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(subcommand, **flags),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment(isa, env),
            timeout=300,
        )


def environment(isa: str | None = None, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's variables, without a choice of instruction set that leaks in."""
    kept = {name: value for name, value in os.environ.items() if name != "LLMC_ISA"}
    return {**kept, **({"LLMC_ISA": isa} if isa else {}), **(env or {})}


def build(cache: Path) -> Native:
    """Compile the engine into the session's cache, unless it is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMC_CACHE_DIR", str(cache))
        return Native(build_native().path)


def build_sanitized(cache: Path) -> Native:
    """Compile the engine for this CPU with a sanitizer, unless it is there.

    Undefined behaviour raises SIGILL, without a message; ``llmc build --sanitize`` names the line.
    The sanitizer's own library and an optimised build would take four times as long to compile.
    """
    compiler = replace(compiler_for(Cpu.NATIVE), extra=("-O0", "-fsanitize-trap=undefined"))
    return Native(kept_programs(cache, compiler=compiler, mode=Mode.SANITIZE, tests=False)[BINARY])


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done


def refused(done: subprocess.CompletedProcess[str], *codes: int) -> str:
    """Hold a failed run to the rules: its code, no signal, one sentence, which is returned."""
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise AssertionError(f"{done.args} died of {name}: {done.stderr}")
    assert done.returncode in codes, (done.args, done.returncode, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), (done.args, done.stderr)
    return lines[0]


def must_run(isa: str, isas: list[str]) -> None:
    """Skip a test of an instruction set that is not among those that run here."""
    if isa not in isas:
        pytest.skip(f"this machine cannot run {isa}, or the build does not have it")


def runnable_isas(native: Native, scratch: Path) -> list[str]:
    """Return the instruction sets that this build has and this machine can run, worst first."""
    model, data = scratch / "probe.bin", scratch / "probe-tokens.bin"
    config = ModelConfig(layers=1, heads=1, channels=4, context=4, vocab_size=8)
    save_model(model, config)
    save_tokens(data, np.zeros(5, np.int64), 8)
    flags: Flags = {
        "model": model,
        "data": data,
        "batch_size": 1,
        "seq_len": 4,
        "steps": 0,
    }
    codes = {isa: native("train", isa=isa, **flags).returncode for isa in ALL_ISAS}
    assert set(codes.values()) <= {0, 2}, codes
    return [isa for isa, code in codes.items() if code == 0]


def some_tensors(config: ModelConfig, seed: int = 7) -> dict[str, Floats]:
    """Return weights in which every bias and every norm counts, and logits are of some size."""
    generator = np.random.default_rng(seed)
    made = {}
    for name, shape in tensor_shapes(config).items():
        values = generator.standard_normal(shape, np.float32)
        values *= 0.1 if len(shape) > 1 and not name.endswith("b") else 0.05
        made[name] = values + np.float32(name in ("ln1w", "ln2w", "lnfw"))
    made["wte"][config.vocab_size :] = 0
    return made


def save_model(
    path: Path, config: ModelConfig, tensors: Mapping[str, Floats] | None = None
) -> Path:
    write_checkpoint(path, config, iter((tensors or some_tensors(config)).items()))
    return path


def hollow_model(path: Path, m: ModelConfig) -> Path:
    """Write a header, and a hole of the model's size: enough for a plan, on any disk."""
    header = np.zeros(256, "<i4")
    shape = (m.context, m.vocab_size, m.layers, m.heads, m.channels, m.padded_vocab_size)
    header[:8] = (20240326, 3, *shape)
    path.write_bytes(header.tobytes())
    os.truncate(path, checkpoint_bytes(m, "fp32"))
    return path


def plan_alone(native: Native, **flags: Any) -> dict[str, Any]:
    """Return what a run would take. It is allowed one byte: it plans, tells, and is refused."""
    done = native("train", events="json", steps=0, env={"LLMC_MEMORY": "1"}, **flags)
    assert "of memory, but only" in refused(done, 2)
    (start,) = json_lines(done.stdout)
    return start


def save_tokens(path: Path, tokens: NDArray[np.integer[Any]], vocab_size: int) -> Path:
    write_tokens(path, [tokens], vocab_size)
    return path


def training_files(folder: Path, config: ModelConfig, tokens: int = 1200) -> Flags:
    """Write a model and random tokens to train and to validate on; return the flags naming them."""
    V = config.vocab_size
    return {
        "model": save_model(folder / "model.bin", config),
        "data": save_tokens(folder / "train.bin", random_tokens(tokens, V), V),
        "val_data": save_tokens(folder / "val.bin", random_tokens(tokens // 3, V, 4), V),
    }


def random_tokens(count: int, vocab_size: int, seed: int = 3) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, vocab_size, count)


def with_header_crc(state: bytes | bytearray) -> bytes:
    """Return a training state whose header has the checksum of what it says."""
    at = 4 * 29
    header = state[:at] + bytes(4) + state[at + 4 : 1024]
    return bytes(header[:at] + zlib.crc32(header).to_bytes(4, "little") + state[at + 4 :])


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def steps_of(out: Path) -> list[dict[str, Any]]:
    """Return what a run told of its training steps."""
    lines = json_lines((out / "metrics.jsonl").read_text())
    return [line for line in lines if "train_loss" in line]


def without_times(text: str) -> list[dict[str, Any]]:
    """Return events without what may differ between two runs of the same training."""
    lines = json_lines(text)
    for line in lines:
        for name in ("step_ms", "exchange_ms", "tokens_per_second", "threads", "seconds"):
            line.pop(name, None)
        for name in ("peak_flops", "memory", "memory_parts", "memory_available", "recompute_saves"):
            line.pop(name, None)
    return lines
