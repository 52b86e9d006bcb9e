"""No allocation while training; the announced size is the size taken and grows with T, not T²."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.engine.toolchain import zig
from llmc.model import ModelConfig
from tests.helpers.engine import (
    ALL_EVENTS,
    BATCH,
    Flags,
    Native,
    environment,
    plan_alone,
    succeeded,
)
from tests.helpers.events import json_lines
from tests.helpers.generate import line as request
from tests.helpers.models import hollow_model, save_tokens
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
