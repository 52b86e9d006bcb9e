"""``llmc train --dry-run``: it reports time, memory and disk, and writes nothing."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.dry_run import PARTS
from tests.helpers.workspace import copy_of, ok, runs


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


def files(llmc: Llmc) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in llmc.workspace.rglob("*"):
        about = path.stat()
        found[path] = (about.st_size, about.st_mtime_ns)
    return found


def test_the_command_reports_everything_and_writes_nothing(llmc: Llmc) -> None:
    before = files(llmc)
    done = ok(llmc("train", "--dry-run", "--config", "tiny.toml", "--no-shuffle", "--lr", "0.01"))
    assert files(llmc) == before
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    rows = dict(line.split(maxsplit=1) for line in lines if line)
    assert [name for name in rows if name in PARTS] == PARTS
    counts = {name: int(row.split()[0].replace(",", "")) for name, row in rows.items()
              if name in (*PARTS, "total", "available")}  # fmt: skip
    assert sum(counts[part] for part in PARTS) == counts["total"] < counts["available"]
    assert re.fullmatch(r"4 +\d+\.\d +00:00", rows["steps"])
    assert re.fullmatch(r"batches +3 +\d+\.\d +00:00", rows["validation"])
    assert "sampled" not in rows
    assert re.fullmatch(
        r"an estimate from 5 measured steps \([\d,]+ tokens/s\); saving is not included", lines[-1]
    )
    assert done.stderr.endswith("next: llmc train --config tiny.toml --no-shuffle --lr 0.01\n")


def test_json_is_one_object(llmc: Llmc) -> None:
    done = ok(llmc("train", "--dry-run", "--json"))
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert result["dry_run"] is True
    assert sum(result["memory_parts"].values()) == result["memory_bytes"]
    assert result["memory_available"] > result["memory_bytes"]
    assert result["tokens_per_second"] == pytest.approx(1e3 * 4 * 64 / result["step_ms"])
    counts = {name: work["count"] for name, work in result["work"].items()}
    assert counts == {"steps": 40, "validation_batches": 5, "sampled_tokens": 128}
    total = sum(work["count"] * work["ms"] / 1e3 for work in result["work"].values())
    assert result["seconds"] == pytest.approx(total)
    assert runs(llmc) == []


def sizes(folder: Path) -> int:
    """Return the bytes of all files of a folder, each counted once however many names it has."""
    about = [path.stat() for path in folder.rglob("*.bin")]
    return sum({one.st_ino: one.st_size for one in about}.values())


def test_the_disk_space_is_reported_and_no_more_is_used(llmc: Llmc) -> None:
    flags = ("train", "--keep", "2", "--save-every", "1", "--steps", "4", "--val-every", "2")
    told = json.loads(ok(llmc(*flags, "--dry-run", "--json")).stdout)
    assert told["disk_free"] > told["disk_bytes"] > 0
    ok(llmc(*flags, "--run", "a", "--quiet"))
    run = llmc.workspace / "runs" / "a"
    one = sizes(run / "checkpoints" / "00000004")
    assert told["disk_bytes"] == 4 * one
    assert sizes(run) <= told["disk_bytes"]
    said = ok(llmc(*flags, "--dry-run")).stdout.splitlines()
    assert said[-2].startswith(f"disk: up to {told['disk_bytes']:,} bytes (")


def test_quiet_leaves_only_the_exit_code(llmc: Llmc) -> None:
    done = ok(llmc("train", "--dry-run", "--quiet"))
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("flags", [["--quiet"], ["--dry-run", "--json"], ["--dry-run", "--quiet"]])
def test_the_command_refuses_what_cannot_fit(llmc: Llmc, flags: list[str]) -> None:
    given = ["train", "--val-every", "0", "--threads", "1", "--steps", "2", "--batch-size"]
    plan = json.loads(ok(llmc(*given, "3", "--dry-run", "--json")).stdout)
    env = {"LLMC_MEMORY": str(plan["memory_bytes"])}
    error = assert_one_sentence(llmc(*given, "64", *flags, env=env), 2)
    found = re.search(r" MB are available; use --batch-size (\d+) or less$", error)
    assert found is not None, error
    assert 3 <= int(found[1]) < 64
    assert runs(llmc) == []
    ok(llmc(*given, found[1], *flags, env=env))


def test_the_plan_is_shown_before_the_refusal(llmc: Llmc) -> None:
    env = {"LLMC_MEMORY": "100"}
    done: subprocess.CompletedProcess[str] = llmc("train", "--dry-run", env=env)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-2].split() == ["available", "100", "0.0", "MB"]
    assert "time" not in done.stdout
