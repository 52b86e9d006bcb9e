"""What the tests of the whole line share: a small prepared workspace, and what a run left in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.conftest import Llmc
from tests.helpers.events import json_lines
from tests.helpers.places import ROOT

WORDS = ("das", "Größe", "für", "élan", "naïve", "日本", "🙂", "und", "the", "of")
PRESET = """\
[model]
layers = 1
heads = 2
channels = 16
context = 64

[train]
steps = 4
batch_size = 2
seq_len = 16
val_every = 2
val_batches = 2
sample_every = 0
"""


def write_texts(folder: Path, documents: int = 12) -> Path:
    """Write documents that are about half non-ASCII, the same ones every time."""
    random = Random(1)
    folder.mkdir(parents=True)
    for index in range(documents):
        words = " ".join(random.choice(WORDS) for _ in range(120))
        (folder / f"{index:02}.txt").write_text(words, encoding="utf-8")
    return folder


def empty_workspace(folder: Path, cache: Path) -> Llmc:
    """Make a workspace with a folder of texts and a preset, nothing prepared."""
    write_texts(folder / "texts")
    (folder / "tiny.toml").write_text(PRESET)
    return Llmc(folder, cache)


def prepared_workspace(folder: Path, cache: Path) -> Llmc:
    """Make a workspace with a dataset of bytes and a tiny random model for it."""
    llmc = empty_workspace(folder, cache)
    ok(llmc("prepare", "texts", "--tokenizer", "byte", "--model", "random:tiny.toml"))
    return llmc


def copy_of(template: Llmc, folder: Path) -> Llmc:
    """Copy a workspace, times included: the newest stays the newest."""
    return Llmc(shutil.copytree(template.workspace, folder), template.cache)


def flip_a_bit(path: Path, at: int) -> bytes:
    """Damage a file in one bit of the byte ``at``; return what it then holds."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    return bytes(data)


@contextmanager
def started(llmc: Llmc, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a session of its own, as a terminal does; end it whatever happens."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests run in background

    with subprocess.Popen(
        [*llmc.command, *args],
        cwd=llmc.workspace,
        env=llmc.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 -- the tests have no threads
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ok(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, (done.args, done.returncode, done.stderr)
    return done


def without_package(folder: Path, name: str) -> dict[str, str]:
    """Return the environment of a Python that finds a package only in ``folder``, broken."""
    (folder / f"{name}.py").write_text(f"raise ImportError('no {name}')")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def assert_no_complaint(errors: bytes) -> None:
    """Hold the stderr of a command whose reader left early to a quiet end."""
    for word in (b"Traceback", b"Exception ignored", b"error"):
        assert word not in errors, errors


def assert_left_in_peace(llmc: Llmc, *args: str) -> None:
    """Run a command whose stdout nobody reads: that is not an error."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*llmc.command, *args],
        cwd=llmc.workspace,
        env=llmc.env(),
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def trained(llmc: Llmc, *flags: str | Path, run: str = "run") -> list[float]:
    """Train by the tiny preset and return the training losses."""
    ok(llmc("train", "--config", "tiny.toml", "--run", run, *flags, "--quiet"))
    return losses(llmc, run)


def metrics(llmc: Llmc, run: str) -> list[dict[str, Any]]:
    return json_lines((llmc.workspace / "runs" / run / "metrics.jsonl").read_text())


def losses(llmc: Llmc, run: str) -> list[float]:
    return [line["train_loss"] for line in metrics(llmc, run) if "train_loss" in line]


def config(llmc: Llmc, run: str) -> dict[str, Any]:
    return tomllib.loads((llmc.workspace / "runs" / run / "config.toml").read_text())


def runs(llmc: Llmc) -> list[str]:
    return sorted(path.name for path in (llmc.workspace / "runs").glob("*"))
