"""The engine's laws: same bits, no allocation while training, honest sizes, losses and ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.engine.toolchain import zig
from llmc.model import ModelConfig
from llmc.paths import shipped_dir
from llmc.weights.checkpoint import read_header
from tests.helpers.engine import (
    ALL_ISAS,
    RAGGED,
    SMALL,
    Flags,
    Native,
    environment,
    hollow_model,
    json_lines,
    must_run,
    plan_alone,
    random_tokens,
    refused,
    save_model,
    save_tokens,
    some_tensors,
    steps_of,
    succeeded,
    training_files,
    without_times,
)
from tests.helpers.generate import line as request
from tests.programs.torture import watched

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, or preloads a library")

COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
static atomic_long calls;
static atomic_size_t largest;
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void *malloc(size_t n) { calls++; return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { calls++; return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { calls++; return __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { calls++; return __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { calls++; return __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) { *p = aligned_alloc(a, n); return *p ? 0 : 12; }
typedef void *Map(void *, size_t, int, int, int, off_t);
static void *mapped(const char *name, void *at, size_t n, int p, int f, int file, off_t from) {
  calls++;
  if (n > largest) largest = n;
  return ((Map *)dlsym(RTLD_NEXT, name))(at, n, p, f, file, from);
}
void *mmap(void *at, size_t n, int p, int f, int d, off_t o) {
  return mapped("mmap", at, n, p, f, d, o);
}
void *mmap64(void *at, size_t n, int p, int f, int d, off_t o) {
  return mapped("mmap64", at, n, p, f, d, o);
}
void *sbrk(intptr_t n) { calls++; return ((void *(*)(intptr_t))dlsym(RTLD_NEXT, "sbrk"))(n); }
int brk(void *to) { calls++; return ((int (*)(void *))dlsym(RTLD_NEXT, "brk"))(to); }
__attribute__((destructor)) static void report(void) {
  char line[64];
  int length = snprintf(line, sizeof line, "%ld %zu\n", (long)calls, (size_t)largest);
  FILE *file = fopen(getenv("COUNTER_REPORT"), "w");
  if (file) { fwrite(line, 1, (size_t)length, file); fclose(file); }
}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    """A model whose sizes are multiples of nothing, and tokens to train and validate on."""
    return training_files(tmp_path_factory.mktemp("files"), RAGGED)


BATCH: Flags = {"batch_size": 3, "seq_len": 37}
ALL_EVENTS: Flags = {"val_every": 1, "sample_every": 1, "save_every": 1, "sample_tokens": 16}


@pytest.mark.parametrize("isa", ALL_ISAS)
def test_the_same_bits_for_any_number_of_threads(
    isa: str, native: Native, isas: list[str], files: Flags, tmp_path: Path
) -> None:
    must_run(isa, isas)
    expected = None
    for threads in (1, 2, 3, 7):
        out = tmp_path / str(threads)
        flags: Flags = {**files, **BATCH, "val_every": 2, "sample_every": 2, "sample_tokens": 16}
        flags |= {"steps": 5, "lr": 1e-3, "out": out, "threads": threads, "events": "json"}
        done = succeeded(native("train", isa=isa, **flags))
        metrics = without_times((out / "metrics.jsonl").read_text())
        got = (metrics, without_times(done.stdout), (out / "model.bin").read_bytes())
        expected = expected or got
        assert got[0] == expected[0], threads
        assert got[1] == expected[1], threads
        assert got[2] == expected[2], threads
    assert expected is not None
    assert sum("train_loss" in line for line in expected[0]) == 5
    assert sum("val_loss" in line for line in expected[0]) == 4  # steps 0, 2, 4, and the end
    assert sum(line.get("event") == "sample" for line in expected[1]) == 2
    texts = {
        native("sample", isa=isa, model=files["model"], tokens=12, threads=threads).stdout
        for threads in (1, 2, 3, 7)
    }
    assert len(texts) == 1 and len(texts.pop().split()) == 12


def test_updating_within_backward_changes_no_bit(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    """A norm to clip by asks for all gradients at once; one never reached changes nothing else."""
    for recompute in (0, 1):
        outs = [tmp_path / f"{recompute}-{clip}" for clip in (0, 1e9)]
        for clip, out in zip((0, 1e9), outs, strict=True):
            flags: Flags = {**files, **BATCH, "steps": 5, "lr": 1e-3, "weight_decay": 0.1}
            flags |= {"recompute": recompute, "grad_clip": clip, "threads": 2, "out": out}
            succeeded(native("train", **flags))
        within, after = ((out / "model.bin").read_bytes() for out in outs)
        assert within == after
        metrics = [without_times((out / "metrics.jsonl").read_text()) for out in outs]
        assert metrics[0] == metrics[1]
        assert all(line["grad_norm"] > 0 for line in metrics[0] if "grad_norm" in line)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A library that counts every call which asks for memory, and reports at the end."""
    folder = tmp_path_factory.mktemp("counter")
    source, library = folder / "counter.c", folder / "counter.so"
    source.write_text(COUNTER)
    argv = [*zig().command, "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"]
    zigs_own = {
        "ZIG_GLOBAL_CACHE_DIR": str(cache / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(cache / "zig"),
    }
    subprocess.run(argv, env={**os.environ, **zigs_own}, check=True, capture_output=True)
    return library


def counted(
    native: Native, counter: Path, report: Path, subcommand: str = "train", **flags: Any
) -> tuple[int, int, dict[str, Any]]:
    """Return how often memory was asked for, the largest mapping, and the start event."""
    env = {"LD_PRELOAD": str(counter), "COUNTER_REPORT": str(report)}
    done = succeeded(native(subcommand, env=env, events="json", **flags))
    calls, largest = map(int, report.read_text().split())
    return calls, largest, json_lines(done.stdout)[0]


@LINUX
@pytest.mark.parametrize("threads", [1, 3])
def test_training_takes_no_memory(
    threads: int, native: Native, counter: Path, files: Flags, tmp_path: Path
) -> None:
    flags: Flags = {**files, **BATCH, **ALL_EVENTS, "threads": threads}
    few, many = (
        counted(native, counter, tmp_path / "report", steps=steps, out=tmp_path / out, **flags)[0]
        for steps, out in ((2, "few"), (12, "many"))
    )
    assert few > 0, "the counter does not count"
    assert many == few


@LINUX
def test_evaluating_takes_no_memory_and_what_it_announced(
    native: Native, counter: Path, files: Flags, tmp_path: Path
) -> None:
    flags: Flags = {"model": files["model"], "data": files["data"], "threads": 2, "seq_len": 37}
    report = tmp_path / "report"
    few, _, _ = counted(native, counter, report, "eval", max_tokens=100, batch_size=2, **flags)
    many, largest, start = counted(native, counter, report, "eval", batch_size=2, **flags)
    assert few > 0, "the counter does not count"
    assert many == few
    assert start["memory"] == largest


@LINUX
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_generating_takes_no_memory_and_what_it_announced(
    dtype: str, native: Native, counter: Path, files: Flags, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    env = environment(env={"LD_PRELOAD": str(counter), "COUNTER_REPORT": str(report)})
    argv = native.argv("generate", model=files["model"], slots=3, threads=2, dtype=dtype)
    counts = []
    for requests, tokens in ((1, 1), (40, 100)):
        lines = [
            request(f"n{i}", range(1 + i), tokens=tokens, top_k=50, top_p=0.9, logprobs=i % 20)
            for i in range(requests)
        ]
        done = subprocess.run(
            argv, input="".join(lines), capture_output=True, text=True, check=True, env=env
        )
        calls, largest = map(int, report.read_text().split())
        counts.append(calls)
        assert json_lines(done.stdout)[0]["memory_bytes"] == largest
    assert counts[0] > 0, "the counter does not count"
    assert counts[0] == counts[1]


@LINUX
def test_the_size_announced_is_the_size_taken(
    native: Native, counter: Path, files: Flags, tmp_path: Path
) -> None:
    _, largest, start = counted(native, counter, tmp_path / "report", steps=1, **files, **BATCH)
    assert start["event"] == "start"
    assert start["memory"] == largest
    assert sum(start["memory_parts"].values()) == start["memory"]
    parameters = start["parameters"]
    assert start["memory_parts"]["parameters"] >= 4 * parameters
    parts = start["memory_parts"]
    assert parts["optimizer"] == 2 * parts["parameters"]
    assert parts["gradients"] < parts["parameters"]
    clipped = counted(native, counter, tmp_path / "report", steps=1, grad_clip=1, **files, **BATCH)[
        2
    ]
    assert clipped["memory_parts"]["gradients"] == parts["parameters"]


@LINUX
@pytest.mark.parametrize("threads", [1, 3])
def test_memory_does_not_grow_by_a_page(
    threads: int, native: Native, files: Flags, tmp_path: Path
) -> None:
    """From the first step to the last, over validations, samples and checkpoints."""
    flags: Flags = {**files, **BATCH, **ALL_EVENTS, "steps": 120, "threads": threads}
    flags |= {"save_every": 7, "val_every": 5, "sample_every": 9, "skip_loss_z": 1.5, "keep": 3}
    sizes = watched(native, flags, tmp_path / "out")
    assert len(sizes) == 119 + 24
    assert max(sizes) == sizes[0] > 1 << 20


def planned_parts(
    native: Native, folder: Path, isa: str, T: int, *, B: int = 1, V: int = 2048, **more: Any
) -> dict[str, int]:
    """Return the parts of the memory of a small model whose context is T."""
    config = ModelConfig(layers=2, heads=2, channels=64, context=T, vocab_size=V)
    data = save_tokens(folder / "data.bin", np.zeros(B * T + 1, np.int64), 300)
    files: Flags = {"model": hollow_model(folder / "model.bin", config), "data": data, "threads": 2}
    flags: Flags = {**files, "val_every": 0, "sample_every": 0, **more}
    plan = plan_alone(native, isa=isa, batch_size=B, seq_len=T, **flags)
    parts: dict[str, int] = plan["memory_parts"]
    return parts


@pytest.mark.parametrize("more", [{}, {"recompute": 1}, {"dtype": "bf16"}])
def test_memory_grows_with_t_and_not_with_its_square(
    more: Flags, native: Native, isas: list[str], tmp_path: Path
) -> None:
    """Scores of one head, (T, T), would be a megabyte and a half too many."""
    for isa in isas:
        sizes = []
        for T in (256, 512, 1024):
            parts = planned_parts(native, tmp_path, isa, T, **more)
            sizes.append(parts["activations"] + parts["scratch"])
        first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
        assert first > 0 and abs(second - 2 * first) < 1 << 16, (isa, sizes)


def test_no_more_than_256_rows_of_logits_are_there(
    native: Native, isas: list[str], tmp_path: Path
) -> None:
    """What rows beyond them take does not depend on the vocabulary."""
    shapes = [(1, 128), (1, 256), (1, 512), (8, 128), (4, 1024)]
    small, large = 384, 50_304  # both are padded already
    for isa in isas:
        rest = []
        for B, T in shapes:
            sizes = []
            for V in (small, large):
                parts = planned_parts(native, tmp_path, isa, T, B=B, V=V)
                sizes.append(parts["activations"])
            rows = min(B * T, 256)
            assert sizes[1] - sizes[0] == 4 * rows * (large - small), (isa, B, T)
            rest.append(sizes[0])
        assert rest == sorted(rest)


def test_the_plain_engine_is_small_and_every_file_is() -> None:
    lines = {
        path.name: len(path.read_text("utf-8").splitlines())
        for path in shipped_dir("native").rglob("*.[ch]")
    }
    assert lines["gpt2.c"] + lines["plain.c"] <= 1000
    assert len(lines) > 90 and max(lines.values()) <= 400, max(lines, key=lines.__getitem__)


def test_events_are_json_lines(native: Native, files: Flags, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags: Flags = {**files, **BATCH, **ALL_EVENTS, "steps": 2, "out": out, "events": "json"}
    lines = json_lines(succeeded(native("train", **flags)).stdout)
    kinds = [
        line.get("event") or next(iter(set(line) & {"train_loss", "val_loss"})) for line in lines
    ]
    once = ["train_loss", "val_loss", "sample", "saved"]
    assert kinds == ["start", "val_loss", *once, *once, "end"]
    assert (lines[0]["steps"], lines[0]["threads"]) == (2, 1)
    step = next(line for line in lines if "train_loss" in line)
    assert list(step) == ["step", "train_loss", "lr", "grad_norm", "step_ms", "tokens_per_second"]
    metrics = json_lines((out / "metrics.jsonl").read_text())
    assert metrics == [line for line in lines if line.get("event") in (None, "end")]
    assert metrics.pop()["reason"] == "steps"
    assert all(len(line["tokens"]) == 16 for line in lines if line.get("event") == "sample")
    assert read_header(out / "model.bin").step == 2
    assert read_header(out / "model.bin").val_loss == np.float32(metrics[-1]["val_loss"])


def test_losses_have_every_digit(native: Native, files: Flags, tmp_path: Path) -> None:
    """The printed loss gives back the float32 that debug-state writes in binary."""
    out, state = tmp_path / "out", tmp_path / "state.bin"
    given: Flags = {"model": files["model"], "data": files["data"], **BATCH}
    succeeded(native("train", out=out, steps=1, shuffle=0, **given))
    succeeded(native("debug-state", out=state, **given))
    B, T, V = 3, 37, RAGGED.vocab_size
    loss = np.frombuffer(state.read_bytes(), "<f4", 1, 1024 + 8 * B * T + 4 * B * T * V)[0]
    printed = steps_of(out)[0]["train_loss"]
    assert np.float32(printed) == loss
    assert printed != round(printed, 6)


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00001, 0x7F800000])
def test_no_number_hides_what_is_none(
    bits: int, native: Native, isas: list[str], files: Flags, tmp_path: Path
) -> None:
    """Fast-math would let a NaN or an infinity pass as if it were a number."""
    for name in ("wte", "qkvw", "lnfb", "fcb"):
        tensors = some_tensors(RAGGED)
        tensors[name].view(np.uint32).flat[0] = bits
        model = save_model(tmp_path / "model.bin", RAGGED, tensors)
        data = save_tokens(tmp_path / "data.bin", np.zeros(200, np.int64), RAGGED.vocab_size)
        for isa in isas:
            out = tmp_path / "out"
            done = native("train", isa=isa, model=model, data=data, out=out, steps=3, **BATCH)
            assert "loss" in refused(done, 5)
            assert not (out / "model.bin").exists()
            shutil.rmtree(out)


def test_a_run_that_diverges_keeps_what_was_saved(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    flags: Flags = {
        **files,
        **BATCH,
        "steps": 200,
        "lr": 10,
        "weight_decay": 10,  # the weights grow a hundredfold in a step
        "save_every": 1,
        "out": tmp_path / "out",
    }
    refused(native("train", **flags), 5)
    saved = read_header(tmp_path / "out" / "model.bin").step
    assert saved == len(steps_of(tmp_path / "out"))
    end = json_lines((tmp_path / "out" / "metrics.jsonl").read_text())[-1]
    assert (end["event"], end["reason"], end["step"]) == ("end", "not-finite", saved)
    assert not list((tmp_path / "out").glob("*.part"))


def test_the_instruction_set_can_be_forced(native: Native, isas: list[str], files: Flags) -> None:
    flags: Flags = {**files, **BATCH, "steps": 1, "events": "json"}
    assert isas[0] == "plain" and "generic" in isas
    for isa in isas:
        start = json_lines(succeeded(native("train", isa=isa, **flags)).stdout)[0]
        assert start["isa"] == isa
    # On a Mac a BLAS may be measured to be faster than the best table.
    best = json_lines(succeeded(native("train", **flags)).stdout)[0]["isa"]
    assert best in {isas[-1], "blas"} & set(isas)
    for isa in ("abacus", *(set(ALL_ISAS) - set(isas))):
        message = refused(native("train", isa=isa, **flags), 2)
        assert f"LLMC_ISA={isa}" in message
        assert ("LLMC_BLAS" in message) == (isa == "blas")


def started(native: Native, files: Flags, out: Path) -> subprocess.Popen[str]:
    flags: Flags = {**files, **BATCH, "steps": 10**6, "out": out, "events": "json"}
    flags |= {"val_every": 0, "sample_every": 0}
    child = subprocess.Popen(
        native.argv("train", **flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert child.stdout is not None
    for line in child.stdout:
        if '"step":3' in line:
            break
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_step_and_saves(
    number: signal.Signals, native: Native, files: Flags, tmp_path: Path
) -> None:
    with started(native, files, tmp_path / "out") as child:
        child.send_signal(number)
        rest, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (130, "")
    saved, end = json_lines(rest)[-2:]
    assert (saved["event"], end["event"], end["reason"]) == ("saved", "end", "interrupted")
    steps = len(steps_of(tmp_path / "out"))
    assert read_header(tmp_path / "out" / "model.bin").step == steps < 10**6
    again: Flags = {"model": tmp_path / "out" / "model.bin", "data": files["data"]}
    succeeded(native("train", steps=1, **again, **BATCH))


def test_a_reader_that_leaves_ends_the_trainer(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    with started(native, files, tmp_path / "out") as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.wait(60) == 0
        assert child.stderr.read() == ""
    assert not list((tmp_path / "out").glob("*.part"))
    argv = native.argv("sample", model=files["model"], tokens=10**6)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment()) as sampler:
        assert sampler.stdout is not None
        sampler.stdout.readline()
        sampler.stdout.close()
        assert sampler.wait(60) == 0


def test_no_steps_still_save(native: Native, tmp_path: Path) -> None:
    """What comes out is what went in, with its step and checksum."""
    model = save_model(tmp_path / "model.bin", SMALL)
    data = save_tokens(
        tmp_path / "data.bin", random_tokens(300, SMALL.vocab_size), SMALL.vocab_size
    )
    succeeded(native("train", model=model, data=data, steps=0, out=tmp_path / "out"))
    assert (tmp_path / "out" / "model.bin").read_bytes() == model.read_bytes()
