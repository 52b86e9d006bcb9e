"""The engine trusts no file: damage is one sentence and an exit code; nothing is half-written.

Everything runs twice: on the engine as it is used, and on one that stops at undefined behaviour.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.model import ModelConfig
from llmc.tokens.files import write_tokens
from llmc.weights.checkpoint import write_checkpoint
from tests.helpers.engine import (
    Flags,
    Native,
    build,
    build_sanitized,
    environment,
    refused,
    succeeded,
)
from tests.helpers.examples import examples
from tests.helpers.models import SMALL, random_tokens, save_model, save_tokens, some_tensors

CONFIG = ModelConfig(layers=2, heads=2, channels=12, context=16, vocab_size=50)
BATCH: Flags = {"batch_size": 2, "seq_len": 8}
ODD_INTS = (0, -1, 1, 2, 2**31 - 1, -(2**31), 2**16, 2**24, 20240326, 0x7F7F7F7F)
MODEL_INTS = 8  # magic, version and the six dimensions
HEADER_BYTES = 1024


@pytest.fixture(scope="module", params=["release", "sanitized"])
def native(request: pytest.FixtureRequest, cache: Path) -> Native:
    return build_sanitized(cache) if request.param == "sanitized" else build(cache)


@dataclass(frozen=True)
class Good:
    """A model and tokens that work, and how the three subcommands are run on them."""

    folder: Path
    model: bytes
    data: bytes

    def run(
        self, native: Native, subcommand: str, model: Path | None = None, data: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        model, data = model or self.folder / "model.bin", data or self.folder / "data.bin"
        if subcommand == "sample":
            return native("sample", model=model, tokens=2)
        if subcommand == "train":
            return native("train", model=model, data=data, out=self.out, steps=1, **BATCH)
        return native("debug-state", model=model, data=data, out=self.out / "state.bin", **BATCH)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def written(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def assert_nothing_written(self) -> None:
        """At most the empty list of a run's steps, where the run got as far as reading weights."""
        left = [path for path in self.out.rglob("*") if path.stat().st_size > 0]
        assert not left and not list(self.out.glob("*.part")), left


@pytest.fixture
def good(tmp_path: Path) -> Iterator[Good]:
    model = save_model(tmp_path / "model.bin", CONFIG, some_tensors(CONFIG))
    data = save_tokens(tmp_path / "data.bin", random_tokens(100, CONFIG.vocab_size), 50)
    (tmp_path / "out").mkdir()
    yield Good(tmp_path, model.read_bytes(), data.read_bytes())
    for path in tmp_path.rglob("*"):
        assert path.suffix != ".part", "a half-written file is left"


def with_int(content: bytes, at: int, value: int) -> bytes:
    return content[: 4 * at] + struct.pack("<i", value) + content[4 * at + 4 :]


SUBCOMMANDS = ("train", "sample", "debug-state")


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_what_is_right_works(subcommand: str, native: Native, good: Good) -> None:
    succeeded(good.run(native, subcommand))


@pytest.mark.parametrize("at", range(MODEL_INTS))
def test_a_models_header(at: int, native: Native, good: Good) -> None:
    """Other heads, or another vocabulary that is padded alike, are of the same size: a checksum."""
    was = struct.unpack_from("<i", good.model, 4 * at)[0]
    for value in (*ODD_INTS, was + 1, was - 1, 2 * was):
        if value == was or not -(2**31) <= value < 2**31:
            continue
        bad = good.written("bad.bin", with_int(good.model, at, value))
        for subcommand in SUBCOMMANDS if value in (0, -1, was + 1) else ("sample",):
            done = good.run(native, subcommand, model=bad)
            message = refused(done, 1)
            assert str(bad) in message, message
            good.assert_nothing_written()


def test_a_models_extension(native: Native, good: Good) -> None:
    for at in range(8, 22):
        for value in (0, -1, 7, 2**31 - 1):
            if struct.unpack_from("<i", good.model, 4 * at)[0] == value:
                continue
            bad = good.written("bad.bin", with_int(good.model, at, value))
            done = good.run(native, "sample", model=bad)
            refused(done, 1)  # the header has a checksum


def cuts(size: int) -> list[int]:
    sizes = {
        0,
        1,
        3,
        4,
        27,
        512,
        HEADER_BYTES - 1,
        HEADER_BYTES,
        HEADER_BYTES + 1,
        size - 1,
        size - 4,
    }
    return sorted(sizes | {size // 2, size // 3})


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_a_model_of_the_wrong_length(subcommand: str, native: Native, good: Good) -> None:
    for content in (*(good.model[:cut] for cut in cuts(len(good.model))), good.model + b"\0"):
        bad = good.written("bad.bin", content)
        assert str(bad) in refused(good.run(native, subcommand, model=bad), 1)
        good.assert_nothing_written()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_flipped_bit(dtype: str, native: Native, good: Good) -> None:
    path = good.folder / "bad.bin"
    write_checkpoint(path, CONFIG, iter(some_tensors(CONFIG).items()), dtype=dtype)
    content = path.read_bytes()
    succeeded(good.run(native, "sample", model=path))
    for at in (HEADER_BYTES, HEADER_BYTES + 13, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        for subcommand in SUBCOMMANDS:
            assert "checksum" in refused(good.run(native, subcommand, model=path), 1)
            good.assert_nothing_written()
    # Without the extension there is nothing to compare with: llm.c's own files load.
    path.write_bytes(content[:32] + bytes(HEADER_BYTES - 32) + content[HEADER_BYTES:])
    succeeded(good.run(native, "sample", model=path))


def test_a_models_versions(native: Native, good: Good) -> None:
    """Version 1 has no padding rows: the same weights, the same tokens."""
    tensors = some_tensors(CONFIG)
    payload = b"".join(
        (values[: CONFIG.vocab_size] if name == "wte" else values).tobytes()
        for name, values in tensors.items()
    )
    header = with_int(good.model[:32].ljust(HEADER_BYTES, b"\0"), 1, 1)
    unpadded = good.written("unpadded.bin", header + payload)
    same = succeeded(good.run(native, "sample", model=unpadded)).stdout
    assert same == succeeded(good.run(native, "sample")).stdout
    short = good.written("short.bin", header + payload[:-1])
    assert "cut short" in refused(good.run(native, "sample", model=short), 1)


def test_a_failed_start_keeps_the_last_runs_metrics(native: Native, good: Good) -> None:
    succeeded(good.run(native, "train"))

    def left() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in good.out.rglob("*") if path.is_file()}

    before = left()
    assert {path.name for path in before} == {"metrics.jsonl", "model.bin", "state.bin"}
    bad = good.written("bad.bin", good.model[:-1] + b"\x55")
    refused(good.run(native, "train", model=bad), 1, 2)
    assert left() == before
    files: Flags = {"model": good.folder / "model.bin", "data": bad, **BATCH}
    refused(native("train", out=good.out, resume=1, steps=2, **files), 1)
    assert left() == before


@pytest.mark.parametrize("subcommand", ["train", "debug-state"])
def test_a_token_file(subcommand: str, native: Native, good: Good) -> None:
    headers = [
        with_int(good.data, at, value)
        for at in range(3)
        for value in ODD_INTS
        if struct.unpack_from("<i", good.data, 4 * at)[0] != value
    ]
    wrong_length = [*(good.data[:cut] for cut in cuts(len(good.data))), good.data + b"\0"]
    wide = with_int(with_int(good.data, 0, 20240801), 1, 7)  # says uint32, holds uint16
    for content in (*headers, *wrong_length, wide, good.model, b"\0" * 5000):
        bad = good.written("bad.bin", content)
        assert str(bad) in refused(good.run(native, subcommand, data=bad), 1)
        good.assert_nothing_written()


@pytest.mark.parametrize("vocab_size", [50, 70000])
@pytest.mark.parametrize("position", [0, 7, 16])
def test_a_token_outside_the_vocabulary(
    position: int, vocab_size: int, native: Native, good: Good
) -> None:
    """The last position read is a target only; both widths of token."""
    for token in (50, 65535, *((2**31, 2**32 - 1) if vocab_size > 65536 else ())):
        tokens = np.zeros(17, np.int64)
        tokens[position] = token
        path = good.folder / "bad.bin"
        write_tokens(path, [tokens], 2**32 if vocab_size > 65536 else 65536)
        message = refused(good.run(native, "debug-state", data=path), 1)
        assert f"token {token} at position {position}" in message
        refused(good.run(native, "train", data=path), 1)
        good.assert_nothing_written()


def test_a_model_that_does_not_fit_in_memory(native: Native, good: Good) -> None:
    files: Flags = {"model": good.folder / "model.bin", "data": good.folder / "data.bin"}
    out = good.out / "state.bin"
    done = native("debug-state", env={"LLMC_MEMORY": "1000000"}, out=out, **files, **BATCH)
    assert "debug-state needs " in refused(done, 2)
    good.assert_nothing_written()


def test_sizes_that_do_not_fit(native: Native, good: Good) -> None:
    files: Flags = {
        "model": good.folder / "model.bin",
        "data": good.folder / "data.bin",
    }
    for subcommand in ("train", "debug-state"):
        flags: Flags = {**files, "out": good.out / "new"}
        assert "16 positions" in refused(native(subcommand, seq_len=17, batch_size=1, **flags), 2)
        succeeded(native(subcommand, seq_len=9, batch_size=11, **flags))  # all hundred tokens
        shutil.rmtree(good.out)
        good.out.mkdir()
        larger = native(subcommand, seq_len=16, batch_size=7, **flags)
        if subcommand == "train":
            succeeded(larger)  # training repeats some of them
            shutil.rmtree(good.out)
            good.out.mkdir()
        else:
            refused(larger, 1)
    refused(native("train", val_data=good.written("v", good.data[:1040]), **files, **BATCH), 1)


@pytest.mark.parametrize("flag", ["model", "data", "val_data"])
def test_a_file_that_is_none(flag: str, native: Native, good: Good) -> None:
    files: Flags = {
        "model": good.folder / "model.bin",
        "data": good.folder / "data.bin",
        "out": good.out,
        "steps": 1,
    }
    missing = good.folder / "nowhere.bin"
    message = refused(native("train", **{**files, **BATCH, flag: missing}), 3)
    assert str(missing) in message and "run 'llmc " in message
    loop, pipe = good.folder / "loop", good.folder / "pipe"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path in (good.folder, loop, pipe, good.folder / "model.bin" / "below", Path("/dev/null")):
        assert str(path) in refused(native("train", **{**files, **BATCH, flag: path}), 1)
    if os.geteuid() != 0:  # root reads everything
        closed = good.written("closed.bin", good.model)
        closed.chmod(0)
        refused(native("train", **{**files, **BATCH, flag: closed}), 1)
    good.assert_nothing_written()


def test_a_place_that_cannot_be_written(native: Native, good: Good) -> None:
    files: Flags = {
        "model": good.folder / "model.bin",
        "data": good.folder / "data.bin",
        "steps": 1,
    }
    for out in (good.folder / "model.bin", good.folder / "no" / "such", Path("/proc/nothing")):
        refused(native("train", out=out, **files, **BATCH), 1)
    refused(native("train", out="/" + 600 * "ab", **files, **BATCH), 1, 2)
    (good.out / "model.bin").mkdir()  # what is to be written is a folder
    assert "move away what is there" in refused(native("train", out=good.out, **files, **BATCH), 1)
    assert list((good.out / "model.bin").iterdir()) == []
    # The checkpoint lies where checkpoints lie: nothing is lost.
    assert (good.out / "checkpoints" / "00000001" / "model.bin").is_file()


LIMITED = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as a shell leaves it
os.execv(sys.argv[2], sys.argv[2:])
"""


def limited(size: int, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run with files that may grow to ``size`` bytes only: a disk that is full from there on."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *argv],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def test_a_full_disk_keeps_what_was_there(native: Native, good: Good) -> None:
    succeeded(good.run(native, "train"))
    succeeded(good.run(native, "debug-state"))
    before = {name: (good.out / name).read_bytes() for name in ("model.bin", "state.bin")}
    files: Flags = {"model": good.folder / "model.bin", "data": good.folder / "data.bin", **BATCH}
    for size in (1000, 5000, len(good.model) - 1):
        other = good.folder / f"limited-{size}"
        message = refused(limited(size, native.argv("train", out=other, steps=3, **files)), 1)
        assert "File too large" in message and "model.bin" in message
        assert not (other / "model.bin").exists()
        assert not list(other.glob("checkpoints/[0-9]*"))
        argv = native.argv("debug-state", out=good.out / "state.bin", **files)
        assert "File too large" in refused(limited(size, argv), 1)
        assert {name: (good.out / name).read_bytes() for name in before} == before
        assert sorted(path.name for path in good.out.iterdir()) == [
            "checkpoints",
            "metrics.jsonl",
            "model.bin",
            "state.bin",
        ]
    argv = native.argv("train", out=good.folder / "told", steps=30, **files)
    assert "metrics.jsonl" in refused(limited(300, argv), 1)


def test_a_run_of_the_small_model(native: Native, tmp_path: Path) -> None:
    """Under the sanitizer above all: training, validation and sampling hold nothing undefined."""
    model = save_model(tmp_path / "model.bin", SMALL)
    data = save_tokens(
        tmp_path / "data.bin", random_tokens(700, SMALL.vocab_size), SMALL.vocab_size
    )
    flags: Flags = {
        "model": model,
        "data": data,
        "val_data": data,
        "out": tmp_path / "out",
        "threads": 2,
    }
    flags |= {"steps": 2, "val_every": 1, "sample_every": 1, "val_batches": 1, "weight_decay": 0.1}
    assert succeeded(native("train", **flags)).stderr == ""
    done = native("sample", model=model, tokens=70, top_k=40, top_p=0.9, threads=2)
    assert succeeded(done).stderr == ""


HEADER_BITS = st.integers(0, 8 * 14 * 4 - 1)


def test_any_damage_to_a_header(native: Native, good: Good) -> None:
    """Flipped bits of the ints that mean something, in both kinds of file."""

    @settings(max_examples=examples(40), deadline=None, database=None)
    @given(st.sets(HEADER_BITS, min_size=1, max_size=4), st.booleans())
    def damage(bits: set[int], tokens: bool) -> None:
        content = bytearray(good.data if tokens else good.model)
        for bit in bits:
            content[bit // 8] ^= 1 << bit % 8
        bad = good.written("bad.bin", bytes(content))
        done = (
            good.run(native, "debug-state", data=bad)
            if tokens
            else good.run(native, "sample", model=bad)
        )
        if done.returncode != 0:
            refused(done, 1)

    damage()
