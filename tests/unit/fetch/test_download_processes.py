"""Downloads by more than one process, and by processes that die."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.web import Act, Web, part_size, wait_until

BODY = bytes(range(251)) * 4000
SIZE = len(BODY)
SHA256 = hashlib.sha256(BODY).hexdigest()
PROGRAM = """\
import sys
from pathlib import Path
from llmc.fetch.download import download
from llmc.report import Silent
class Printer(Silent):
    def note(self, message):
        print(message, flush=True)
url, path, sha256 = sys.argv[1:]
download(url, Path(path), sha256=sha256 or None, report=Printer())
"""
PINS = pytest.mark.parametrize("sha256", [SHA256, ""], ids=["pinned", "unpinned"])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def begin(url: str, path: Path, sha256: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, str(path), sha256],
        env={**os.environ, "LLMC_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@PINS
def test_the_second_waits_and_takes_what_the_first_brought(
    web: Web, tmp_path: Path, cache: Path, sha256: str
) -> None:
    web.put("/x", BODY)  # nothing tells whether it has changed since
    web.always["/x"] = Act(pause_s=0.02)
    first = begin(f"{web.url}/x", tmp_path / "a" / "x", sha256, cache)
    wait_until(lambda: part_size(cache) > 0)
    others = [begin(f"{web.url}/x", tmp_path / name / "x", sha256, cache) for name in ("b", "c")]
    for process in (first, *others):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        if process is not first:
            assert out.splitlines() == [
                "another process is fetching x: waiting for it",
                "x is in the cache",
            ]
    assert web.asked == ["GET /x"]
    assert web.sent["/x"] == SIZE
    for name in ("a", "b", "c"):
        assert (tmp_path / name / "x").read_bytes() == BODY


@PINS
def test_a_killed_process_leaves_a_part_and_no_lock(
    web: Web, tmp_path: Path, cache: Path, sha256: str
) -> None:
    web.put("/x", BODY, ETag='"one"')
    web.acts["/x"] = [Act(pause_s=0.02)]
    first = begin(f"{web.url}/x", tmp_path / "a" / "x", sha256, cache)
    wait_until(lambda: part_size(cache) > SIZE // 3)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    assert not (tmp_path / "a" / "x").exists()
    kept = part_size(cache)
    assert kept > SIZE // 3
    before = web.sent["/x"]
    second = begin(f"{web.url}/x", tmp_path / "a" / "x", sha256, cache)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert out == ""  # it waited for nobody
    assert (tmp_path / "a" / "x").read_bytes() == BODY
    assert web.ranges("/x") == [None, f"bytes={kept}-"]
    # The first may have been sent a little that it had no time to write.
    assert before <= web.sent["/x"] - (SIZE - kept) + (1 << 18)
    assert web.sent["/x"] < SIZE + (1 << 18)


def test_one_that_waits_goes_on_when_the_other_is_killed(
    web: Web, tmp_path: Path, cache: Path
) -> None:
    web.put("/x", BODY)
    web.acts["/x"] = [Act(pause_s=0.02)]
    first = begin(f"{web.url}/x", tmp_path / "a", SHA256, cache)
    wait_until(lambda: part_size(cache) > SIZE // 3)
    second = begin(f"{web.url}/x", tmp_path / "b", SHA256, cache)
    assert second.stdout is not None
    assert second.stdout.readline() == "another process is fetching b: waiting for it\n"
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert (tmp_path / "b").read_bytes() == BODY
    assert web.ranges("/x")[1] is not None


def test_ctrl_c_ends_the_waiting(web: Web, tmp_path: Path, cache: Path) -> None:
    web.put("/x", BODY)
    web.always["/x"] = Act(pause_s=0.05)
    first = begin(f"{web.url}/x", tmp_path / "a", SHA256, cache)
    wait_until(lambda: part_size(cache) > 0)
    second = begin(f"{web.url}/x", tmp_path / "b", SHA256, cache)
    assert second.stdout is not None
    second.stdout.readline()
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=5)
    assert second.returncode != 0
    first.kill()
    first.communicate(timeout=30)
