"""A checkpoint that was announced is there, whole, whatever ends the trainer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.weights.checkpoint import scan_header
from llmc.weights.state import scan_training_state
from tests.helpers.engine import Flags, Native, environment, refused, succeeded
from tests.programs.torture import ending, settings


@pytest.fixture
def flags(tmp_path: Path) -> Flags:
    return {**settings(tmp_path, 12), "threads": 2, "sample_every": 0}


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def injected(native: Native, fault: str, **flags: object) -> subprocess.CompletedProcess[str]:
    """Train while strace makes a system call fail, wait or kill."""
    call = fault.partition(":")[0]
    words = [
        "strace",
        "-f",
        "-q",
        "-o",
        "/dev/null",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={fault}",
    ]
    argv = [*words, *native.argv("train", **flags)]
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env=environment(), timeout=120
    )


def parts(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if path.name.endswith((".part", ".old"))]


def whole(out: Path) -> list[str]:
    """Return the names of the checkpoints, each of which has both of its files."""
    found = sorted(path for path in (out / "checkpoints").iterdir() if path.name[0] != ".")
    for path in found:
        assert {file.name for file in path.iterdir()} == {"model.bin", "state.bin"}, path
    return [path.name for path in found]


def test_a_checkpoint_is_told_of_when_it_is_there(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags |= {"steps": 40, "save_every": 1, "keep": 1000}
    argv = native.argv("train", out=out, events="json", **flags)
    told = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        for event in map(json.loads, process.stdout):
            if event.get("event") == "saved":
                assert f"{event['step']:08}" in whole(out)
                told.append(event["step"])
    assert told == list(range(1, 41))


@needs_strace
@pytest.mark.parametrize("numbers", [[signal.SIGINT] * 2, [signal.SIGINT, signal.SIGTERM]])
def test_no_half_checkpoint_stays_after_a_signal(
    numbers: list[signal.Signals], native: Native, flags: Flags, tmp_path: Path
) -> None:
    """The disk takes its time: a second Ctrl-C comes while the saver works."""
    out = tmp_path / "out"
    inject = "inject=fsync:delay_enter=100000"
    words = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=fsync", "-e", inject]
    argv = native.argv("train", out=out, events="json", **{**flags, "steps": 10**6})
    with subprocess.Popen(
        [*words, *argv], stdout=subprocess.PIPE, text=True, env=environment(), process_group=0
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"step":4,' in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        engine = subprocess.run(["kill", f"-{numbers[0].value}", *children], check=True)
        assert engine.returncode == 0
        subprocess.run(["kill", f"-{numbers[1].value}", *children], check=False)
        process.stdout.read()
        assert process.wait(60) == 130
    assert parts(out) == []
    assert whole(out)


@needs_strace
@pytest.mark.parametrize(
    ("call", "apart"),
    [
        ("rename", 19),
        ("fsync", 19),
        *(
            pytest.param(call, 7, marks=pytest.mark.full)
            for call in ("unlink", "rmdir", "rename", "fsync")
        ),
    ],
)
def test_a_kill_at_any_call_leaves_whole_checkpoints(
    call: str, apart: int, native: Native, flags: Flags, tmp_path: Path
) -> None:
    succeeded(native("train", out=tmp_path / "calm", **flags))
    for when in range(3, 60, apart):
        out = tmp_path / f"{call}-{when}"
        done = injected(native, f"{call}:signal=KILL:when={when}", out=out, **flags)
        if done.returncode == 0:
            break
        assert "error" not in done.stderr
        whole(out)
        succeeded(native("train", out=out, resume=1, **flags))
        assert ending(out) == ending(tmp_path / "calm")
        assert parts(out) == []


@needs_strace
def test_a_file_system_without_locks_is_said(native: Native, flags: Flags, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = succeeded(injected(native, "flock:error=ENOLCK", out=out, **flags))
    assert done.stderr.count("\n") == 1
    assert f"{out} cannot be locked (No locks available)" in done.stderr


@needs_strace
@pytest.mark.parametrize(
    "when", [pytest.param(n, marks=() if n in (1, 3) else pytest.mark.full) for n in range(1, 7)]
)
def test_a_failed_fsync_is_an_error(
    when: int, native: Native, flags: Flags, tmp_path: Path
) -> None:
    """Of a file, of a folder, of metrics.jsonl: the checkpoint is not told of, and saved again."""
    out, calm = tmp_path / "out", tmp_path / "calm"
    succeeded(native("train", out=calm, **flags))
    done = injected(native, f"fsync:error=EIO:when={when}", out=out, events="json", **flags)
    # strace counts the calls of each thread: this may hit the last line of metrics.jsonl too.
    assert done.returncode == 0 or "step 12 is saved" in refused(done, 1)
    events = list(map(json.loads, done.stdout.splitlines()))
    notes = [event["text"] for event in events if event.get("event") == "note"]
    assert "Input/output error" in notes[0]
    saved = [event["step"] for event in events if event.get("event") == "saved"]
    assert 2 not in saved and saved[-1] == 12
    assert parts(out) == []
    assert (out / "model.bin").read_bytes() == (calm / "model.bin").read_bytes()


@needs_strace
def test_a_disk_that_has_become_read_only_has_synced_nothing(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    """Ext4 answers EROFS to fsync where it has given up."""
    fault = "fsync:error=EROFS:when=1"
    done = injected(native, fault, out=tmp_path / "out", events="json", **flags)
    events = list(map(json.loads, done.stdout.splitlines()))
    notes = [event["text"] for event in events if event.get("event") == "note"]
    assert "Read-only file system" in notes[0] and "make the disk writable again" in notes[0]
    assert 2 not in [event["step"] for event in events if event.get("event") == "saved"]


def test_a_run_whose_folder_was_deleted_saves_its_weights(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    out, calm = tmp_path / "out", tmp_path / "calm"
    argv = native.argv("train", out=out, events="json", **{**flags, "save_every": 1, "steps": 400})
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        while '"saved"' not in process.stdout.readline():
            pass
        out.rename(tmp_path / "elsewhere")
        process.stdout.read()
        assert process.wait(60) == 0
    succeeded(native("train", out=calm, **{**flags, "save_every": 1, "steps": 400}))
    assert (out / "model.bin").read_bytes() == (calm / "model.bin").read_bytes()
    assert whole(out)[-1] == "00000400"


def test_a_file_takes_the_place_of_no_device(native: Native, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    shape: Flags = {"layers": 1, "heads": 1, "channels": 32, "context": 8, "vocab_size": 20}
    assert str(pipe) in refused(native("init", out=pipe, **shape), 1)
    assert pipe.is_fifo()


def flipped(path: Path, bit: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


SCANS: list[tuple[str, Callable[[Path], tuple[object, list[str]]]]] = [
    ("model.bin", scan_header),
    ("state.bin", scan_training_state),
]


@pytest.mark.parametrize(("name", "scan"), SCANS, ids=["model", "state"])
def test_no_bit_of_a_header_flips_unnoticed(
    name: str,
    scan: Callable[[Path], tuple[object, list[str]]],
    native: Native,
    flags: Flags,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    succeeded(native("train", out=out, **flags))
    newest = out / "checkpoints" / "00000012"
    good, damaged = newest / name, tmp_path / "damaged.bin"
    assert scan(good)[1] == []
    for bit in range(8 * 130):
        damaged.write_bytes(flipped(good, bit))
        assert scan(damaged)[1], bit
    content = good.read_bytes()
    for bit in range(5, 8 * 128, 61):  # and so says the engine
        data = bytearray(content)
        data[bit // 8] ^= 1 << bit % 8
        good.unlink(missing_ok=True)
        good.write_bytes(data)
        assert f"00000012/{name}" in refused(native("train", out=out, resume=1, **flags), 1), bit
    good.unlink()
    good.write_bytes(content)
    succeeded(native("train", out=out, resume=1, **flags))


def aged(path: Path, version_at: int, version: int, crc_at: int) -> None:
    """Write a file as an older version did, whose header had no checksum."""
    data = bytearray(path.read_bytes())
    assert data[4 * crc_at : 4 * crc_at + 4] != bytes(4)
    data[4 * version_at : 4 * version_at + 4] = version.to_bytes(4, "little")
    data[4 * crc_at : 4 * crc_at + 4] = bytes(4)
    path.unlink()  # it has other names
    path.write_bytes(data)


def test_checkpoints_of_older_versions_are_resumed(
    native: Native, flags: Flags, tmp_path: Path
) -> None:
    out, calm = tmp_path / "out", tmp_path / "calm"
    succeeded(native("train", out=calm, **flags))
    succeeded(native("train", out=out, **{**flags, "steps": 6, "schedule": "constant"}))
    for folder in (out / "checkpoints").iterdir():
        aged(folder / "model.bin", 9, 1, 22)
        aged(folder / "state.bin", 1, 2, 29)
        assert scan_header(folder / "model.bin")[1] == []
        assert scan_training_state(folder / "state.bin")[1] == []
    succeeded(native("train", out=out, resume=1, **flags))
    header = (out / "model.bin").read_bytes()[:1024]
    bare = header[:88] + bytes(4) + header[92:]
    assert zlib.crc32(bare).to_bytes(4, "little") == header[88:92]
