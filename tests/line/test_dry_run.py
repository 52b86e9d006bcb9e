"""``llmc train --dry-run``, and runs that cannot fit: told exactly, in time, without a trace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmc.cli.main import app
from llmc.config import TrainConfig, load_preset
from llmc.model import ModelConfig
from llmc.train.dry_run import planned_work
from llmc.train.metrics import Event
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.engine import (
    RAGGED,
    SMALL,
    Flags,
    Native,
    environment,
    hollow_model,
    json_lines,
    plan_alone,
    random_tokens,
    refused,
    save_model,
    save_tokens,
    some_tensors,
    succeeded,
)
from tests.helpers.workspace import copy_of, ok, runs

HUGE_PAGE = 2 << 20
PARTS = [
    "parameters", "gradients", "optimizer", "activations", "scratch", "buffers", "rounding"
]  # fmt: skip


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    """A model whose sizes are multiples of nothing, and tokens to train and validate on."""
    folder = tmp_path_factory.mktemp("ragged")
    V = RAGGED.vocab_size
    return {
        "model": save_model(folder / "model.bin", RAGGED),
        "data": save_tokens(folder / "train.bin", random_tokens(1200, V), V),
        "val_data": save_tokens(folder / "val.bin", random_tokens(400, V, 4), V),
        "batch_size": 3,
        "seq_len": 37,
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    """A model and enough tokens for large batches."""
    folder = tmp_path_factory.mktemp("small")
    V = SMALL.vocab_size
    return {
        "model": save_model(folder / "model.bin", SMALL),
        "data": save_tokens(folder / "train.bin", random_tokens(10000, V), V),
        "seq_len": 64,
    }


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


def rehearsed(native: Native, **flags: Any) -> tuple[Event, Event]:
    """Return the two events of a dry run: the plan and the measurement."""
    done = succeeded(native("train", dry_run=1, events="json", **flags))
    start, measured = json_lines(done.stdout)
    assert (start["event"], measured["event"]) == ("start", "measured")
    return start, measured


def planned(native: Native, limit: int, **flags: Any) -> tuple[Event, str]:
    """Return the plan of a run that may take ``limit`` bytes, and the error or an empty text."""
    env = {"LLMC_MEMORY": str(limit)}
    done = native("train", dry_run=1, events="json", val_every=0, sample_every=0, env=env, **flags)
    error = refused(done, 2) if done.returncode else ""
    return json_lines(done.stdout)[0], error


# ---- the plan ------------------------------------------------------------------------------------


def size(*counts: int, width: int = 4) -> int:
    """Return the bytes of blocks of so many numbers, each block in whole cache lines."""
    return sum(-(-count * width // 64) * 64 for count in counts)


@pytest.mark.parametrize(("validated", "clipped"), [(True, False), (False, True)])
def test_the_parts_are_what_the_formulas_say(
    validated: bool, clipped: bool, native: Native, ragged: Flags
) -> None:
    """On the plain loops, which need no scratch memory."""
    flags = {**ragged, "threads": 2, "sample_tokens": 9, "steps": 0, "events": "json"}
    flags |= {"isa": "reference", "val_every": int(validated), "grad_clip": int(clipped)}
    start = json_lines(succeeded(native("train", **flags)).stdout)[0]
    B, T, L, NH, C = 3, 37, RAGGED.layers, RAGGED.heads, RAGGED.channels
    Vp, maxT = RAGGED.padded_vocab_size, RAGGED.context
    BT, LBT = B * T, L * B * T
    block, rest = 12 * C * C + 13 * C, (Vp + maxT) * C + 2 * C
    count = rest + L * block
    kept = [BT * C, *[LBT * C] * 5, LBT * 3 * C, *[LBT * 4 * C] * 2, *[LBT] * 4, LBT * NH]
    kept += [BT * C, BT, BT, min(BT, 256) * Vp, BT]
    backward = [BT * C, BT * C, BT * 3 * C, BT * 4 * C]
    # The cache of nine positions, whose rows are filled up to 16 numbers; then a row of each kind.
    cached = L * NH * 9 * -(-C // NH // 16) * 16
    decoder = [cached, cached, 1, 1, *[C] * 3, 3 * C, 4 * C, Vp]
    expected = {
        "parameters": size(count),
        "gradients": size(count if clipped else rest + block),
        "optimizer": size(count, count),
        "activations": size(*kept, *backward),
        "scratch": 0,
    }
    parts = dict(start["memory_parts"])
    buffers, rounding = parts.pop("buffers"), parts.pop("rounding")
    assert parts == expected
    # Beside arrays the writer of samples has a few structures, whose size is the compiler's matter.
    arrays = size(*[BT + 1] * (2 if validated else 1), width=2) + size(*decoder, BT, BT, 9)
    assert arrays <= buffers < arrays + 16384
    assert rounding == -(sum(expected.values()) + buffers) % HUGE_PAGE
    assert start["memory"] == sum(expected.values()) + buffers + rounding


@pytest.mark.parametrize("threads", [1, 3])
def test_the_parts_add_up_to_the_byte(threads: int, native: Native, ragged: Flags) -> None:
    start, _ = rehearsed(native, threads=threads, **ragged)
    assert list(start["memory_parts"]) == PARTS
    assert sum(start["memory_parts"].values()) == start["memory"]
    assert start["memory"] % HUGE_PAGE == 0
    assert 0 <= start["memory_parts"]["rounding"] < HUGE_PAGE


def test_a_dry_run_plans_the_memory_of_the_run(native: Native, ragged: Flags) -> None:
    start, _ = rehearsed(native, steps=3, **ragged)
    flags = {**ragged, "steps": 3, "events": "json"}
    real = json_lines(succeeded(native("train", **flags)).stdout)[0]
    for event in (start, real):
        del event["memory_available"], event["peak_flops"]  # they change by themselves
    assert start == real


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc")
def test_what_is_available_is_part_of_the_machine(native: Native, ragged: Flags) -> None:
    found = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    start, _ = rehearsed(native, **ragged)
    assert start["memory"] < start["memory_available"] < 1024 * int(found[1])


# Models whose weights, or whose activations, are most of the memory; a hundred megabytes and more,
# of which the program itself, three at most, is little.
WIDE = ModelConfig(layers=1, heads=1, channels=128, context=64, vocab_size=120_000)
DEEP = ModelConfig(layers=8, heads=2, channels=64, context=256, vocab_size=256)
MODES: dict[str, tuple[ModelConfig, Flags]] = {
    "weights": (WIDE, {}),
    "clipped": (WIDE, {"grad_clip": 1, "optimizer_state": "bf16"}),
    "8bit": (WIDE, {"optimizer_state": "8bit"}),
    "parts": (WIDE, {"total_batch_size": 64, "optimizer_state": "8bit"}),
    "activations": (DEEP, {"batch_size": 16, "seq_len": 256}),
    "recompute": (DEEP, {"batch_size": 64, "seq_len": 256, "recompute": 1}),
    "bf16": (DEEP, {"batch_size": 32, "seq_len": 256, "dtype": "bf16"}),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", MODES)
def test_the_plan_is_the_resident_set(mode: str, native: Native, tmp_path: Path) -> None:
    """To two parts in a hundred, at its peak, after steps, validations and samples."""
    config, more = MODES[mode]
    V = config.vocab_size
    flags: Flags = {
        "model": save_model(tmp_path / "model.bin", config),
        "data": save_tokens(tmp_path / "train.bin", random_tokens(40_000, V), V),
        "val_data": save_tokens(tmp_path / "val.bin", random_tokens(20_000, V, 4), V),
        **{"batch_size": 1, "seq_len": 32, "threads": 2, "events": "json", **more},
    }
    flags |= {"steps": 1000, "val_every": 1, "val_batches": 1, "sample_every": 1}
    peak = 0
    with subprocess.Popen(
        native.argv("train", **flags), stdout=subprocess.PIPE, text=True, env=environment()
    ) as child:
        assert child.stdout is not None
        start = json.loads(child.stdout.readline())
        for line in child.stdout:
            if json.loads(line).get("event") == "sample":
                status = Path(f"/proc/{child.pid}/status").read_text()
                found = re.search(r"VmHWM:\s+(\d+) kB", status)
                assert found is not None
                peak = 1024 * int(found[1])
                break
        child.kill()
    assert start["memory"] > 100e6
    assert peak == pytest.approx(start["memory"], rel=0.02)


@pytest.mark.parametrize(
    ("preset", "flags", "gigabytes"),
    [
        ("gpt2-124m", {"optimizer_state": "8bit"}, 1.4),
        ("gpt2-124m", {"optimizer_state": "bf16", "recompute": 1}, 1.4),
        ("gpt2-124m", {"optimizer_state": "bf16", "recompute": 1, "dtype": "bf16"}, 1.4),
        ("gpt2-355m", {}, 6),
        ("gpt2-355m", {"grad_clip": 1, "optimizer_state": "bf16"}, 6),
    ],
)
def test_what_fits_into_a_small_machine(
    preset: str, flags: Flags, gigabytes: float, native: Native, tmp_path: Path
) -> None:
    """At llm.c's B=4 and T=64, with validations and samples."""
    data = save_tokens(tmp_path / "data.bin", np.zeros(1000, np.int64), 300)
    model = hollow_model(tmp_path / "model.bin", load_preset(preset).model)
    files: Flags = {"model": model, "data": data, "val_data": data, "threads": 2}
    plan = plan_alone(native, batch_size=4, seq_len=64, **files, **flags)
    assert 4 * plan["parameters"] < plan["memory"] < gigabytes * 1e9


# ---- what is measured ----------------------------------------------------------------------------


def test_steps_are_measured(native: Native, ragged: Flags) -> None:
    _, measured = rehearsed(native, val_batches=2, sample_tokens=7, **ragged)
    assert measured["steps"] == 5
    assert (measured["val_batches"], measured["sample_tokens"]) == (2, 7)
    assert min(measured[f"{name}_ms"] for name in ("step", "val_batch", "token")) > 0


def test_no_more_is_measured_than_the_run_does(native: Native, ragged: Flags) -> None:
    _, measured = rehearsed(native, val_every=0, sample_every=0, **ragged)
    for name in ("val_batches", "val_batch_ms", "sample_tokens", "token_ms"):
        assert measured[name] == 0
    _, measured = rehearsed(native, val_batches=1000, sample_tokens=1000, **ragged)
    assert measured["val_batches"] == 399 // (3 * 37)  # all there are
    assert measured["sample_tokens"] == RAGGED.context


def test_a_person_reads_it_too(native: Native, ragged: Flags) -> None:
    env = {"LLMC_MEMORY": "34560000"}
    said = succeeded(native("train", dry_run=1, env=env, **ragged)).stdout
    assert "\navailable: 34.6 MB\n" in said
    assert re.search(
        r"\na step takes \d+\.\d{3} ms \(median of 5\)\n"
        r"a validation batch takes \d+\.\d{3} ms\n"
        r"a sampled token takes \d+\.\d{3} ms\n"
        r"nothing was written\n$",
        said,
    ), said


def test_the_rehearsal_is_of_the_real_thing(native: Native, ragged: Flags, tmp_path: Path) -> None:
    """What would stop the run stops its rehearsal."""
    tensors = some_tensors(RAGGED)
    tensors["lnfw"][0] = np.nan
    flags = {**ragged, "model": save_model(tmp_path / "nan.bin", RAGGED, tensors)}
    assert "step 0; no weights were saved" in refused(native("train", dry_run=1, **flags), 5)


def test_the_engine_writes_nothing(native: Native, ragged: Flags, tmp_path: Path) -> None:
    rehearsed(native, out=tmp_path / "new", save_every=1, **ragged)
    assert list(tmp_path.iterdir()) == []
    log = tmp_path / "metrics.jsonl"
    log.write_text("an older run's\n")
    rehearsed(native, out=tmp_path, save_every=1, **ragged)
    assert list(tmp_path.iterdir()) == [log]
    assert log.read_text() == "an older run's\n"


# ---- runs that do not fit ------------------------------------------------------------------------


def test_memory_that_just_suffices_suffices(native: Native, small: Flags) -> None:
    needed = rehearsed(native, batch_size=8, **small)[0]["memory"]
    env = {"LLMC_MEMORY": str(needed)}
    succeeded(native("train", env=env, batch_size=8, steps=1, **small))
    env = {"LLMC_MEMORY": str(needed - 1)}
    assert "--batch-size" in refused(native("train", env=env, batch_size=8, steps=1, **small), 2)


def limits(native: Native, **flags: Any) -> Iterator[int]:
    """Yield what runs of a few sizes need, and a byte less and more."""
    for B in (1, 2, 5, 9, 14):
        memory = planned(native, 1 << 40, batch_size=B, **flags)[0]["memory"]
        yield from (memory - 1, memory, memory + 1)


def test_the_batch_size_advised_fits_and_the_next_does_not(native: Native, small: Flags) -> None:
    """With 8bit, so that this is not advised as well."""
    advised = set()
    small = {**small, "optimizer_state": "8bit"}
    for limit in limits(native, **small):
        start, error = planned(native, limit, batch_size=64, **small)
        found = re.search(r"; use (?:--recompute, or )?--batch-size (\d+)( or less)?$", error)
        if found is None:
            assert planned(native, limit, batch_size=1, **small)[1]
            continue
        B = int(found[1])
        assert bool(found[2]) == (B > 1)
        assert start["memory"] > limit == start["memory_available"]
        assert planned(native, limit, batch_size=B, **small)[0]["memory"] <= limit
        assert not planned(native, limit, batch_size=B, **small)[1]
        assert f"--batch-size {B}" in planned(native, limit, batch_size=B + 1, **small)[1]
        advised.add(B)
    assert len(advised) >= 4


@pytest.mark.parametrize(("B", "words"), [(1, "use "), (7, "use --batch-size 1 and ")])
def test_where_no_batch_fits_a_shorter_row_is_advised(
    B: int, words: str, native: Native, small: Flags, tmp_path: Path
) -> None:
    """With recompute and 8bit, so that these are not advised as well; long rows, that count."""
    config = replace(SMALL, layers=4, context=1024)
    long = {**small, "model": save_model(tmp_path / "long.bin", config), "seq_len": 1024}
    long |= {"recompute": 1, "optimizer_state": "8bit"}
    one = {**long, "batch_size": 1}
    limit = planned(native, 1 << 40, **one)[0]["memory"] - 1
    error = planned(native, limit, **{**long, "batch_size": B})[1]
    found = re.search(rf"; {words}--seq-len (\d+) or less$", error)
    assert found is not None, error
    T = int(found[1])
    assert not planned(native, limit, **{**one, "seq_len": T})[1]
    assert f"use --seq-len {T} or less" in planned(native, limit, **{**one, "seq_len": T + 1})[1]


def ways(error: str) -> list[Flags]:
    """Return the ways out that an error names, each with all of its flags."""
    advice = error.rsplit("; use ", 1)[1].replace(" or less", "")
    several = ", or " in advice
    parts = re.split(", or |, ", advice) if several else [advice]
    found = []
    for part in parts:
        flags = re.findall(r"--([a-z-]+)(?: (\w+))?", part.replace(" and", ""))
        found.append({name.replace("-", "_"): value or 1 for name, value in flags})
    return found


@pytest.mark.parametrize(
    "more", [{}, {"total_batch_size": 8 * 64}, {"total_batch_size": 48 * 64, "batch_size": 48}]
)
def test_every_way_out_that_is_advised_is_one(
    more: Flags, native: Native, small: Flags, tmp_path: Path
) -> None:
    """Of a batch that one (B, T) makes up, a smaller one keeps all gradients, and divides it."""
    config = replace(SMALL, layers=6)
    flags = {**small, "model": save_model(tmp_path / "six.bin", config), "batch_size": 8, **more}

    def planned_only(limit: int, **flags: Any) -> tuple[Event, str]:
        """Return the plan and the error; a run of no steps measures nothing."""
        env = {"LLMC_MEMORY": str(limit)}
        done = native("train", steps=0, events="json", env=env, **flags, val_every=0)
        return json_lines(done.stdout)[0], refused(done, 2) if done.returncode else ""

    whole = planned_only(1 << 40, **flags)[0]["memory"]
    seen = set()
    for share in [*range(99, 30, -3), *range(30, 2, -2)]:
        limit = whole * share // 100
        error = planned_only(limit, **flags)[1]
        if "use a smaller --model" in error:
            continue
        for way in ways(error):
            seen.add(tuple(way))
            start, still = planned_only(limit, **{**flags, **way})
            assert not still and start["memory"] <= limit, (error, way)
    assert {("recompute",), ("batch_size",)} <= seen
    assert any(way[:2] == ("recompute", "optimizer_state") for way in seen)
    assert any("optimizer_state" in way and "batch_size" in way for way in seen)


def test_where_no_row_fits_a_smaller_model_is_advised(native: Native, small: Flags) -> None:
    start, error = planned(native, 100_000, batch_size=4, **small)
    needed = -(-start["memory"] // 10_000) / 100
    assert error == (
        f"error: the run needs {needed:.2f} MB of memory, but only 0.10 MB are available; "
        "use a smaller --model, such as 'llmc export-weights random:PRESET' makes: "
        "docs/guide/recipes.md says what each preset takes"
    )
    assert "use a smaller --model" in planned(native, 0, batch_size=4, **small)[1]


@pytest.mark.parametrize("limit", ["8g", "-1", "1e9", " 5", "lots"])
def test_a_limit_that_is_no_number_is_refused(limit: str, native: Native, small: Flags) -> None:
    error = refused(native("train", env={"LLMC_MEMORY": limit}, steps=0, **small), 2)
    assert "LLMC_MEMORY is the number of bytes that a run may take, such as 80000" in error
    assert f"not '{limit}'" in error


def test_a_run_that_is_refused_takes_nothing_and_leaves_nothing(
    native: Native, small: Flags, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = native("train", env={"LLMC_MEMORY": "1000"}, out=out, events="json", **small)
    refused(done, 2)
    assert json_lines(done.stdout)[0]["memory_available"] == 1000
    assert not out.exists()


# ---- the command ---------------------------------------------------------------------------------


def files(llmc: Llmc) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in llmc.workspace.rglob("*"):
        about = path.stat()
        found[path] = (about.st_size, about.st_mtime_ns)
    return found


def test_the_command_tells_all_and_writes_nothing(llmc: Llmc) -> None:
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
    assert re.fullmatch(r"batches +6 +\d+\.\d +00:00", rows["validation"])
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
    assert counts == {"steps": 40, "validation_batches": 10, "sampled_tokens": 128}
    total = sum(work["count"] * work["ms"] / 1e3 for work in result["work"].values())
    assert result["seconds"] == pytest.approx(total)
    assert runs(llmc) == []


def sizes(folder: Path) -> int:
    """Return the bytes of all files of a folder, each counted once however many names it has."""
    about = [path.stat() for path in folder.rglob("*.bin")]
    return sum({one.st_ino: one.st_size for one in about}.values())


def test_the_disk_is_told_and_no_more_is_taken(llmc: Llmc) -> None:
    flags = ("train", "--keep", "2", "--save-every", "1", "--steps", "4", "--val-every", "2")
    told = json.loads(ok(llmc(*flags, "--dry-run", "--json")).stdout)
    assert told["disk_free"] > told["disk_bytes"] > 0
    ok(llmc(*flags, "--run", "a", "--quiet"))
    run = llmc.workspace / "runs" / "a"
    one = sizes(run / "checkpoints") // 2
    best = (run / "best.bin").stat().st_size
    assert told["disk_bytes"] == 3 * one + best
    assert sizes(run) <= told["disk_bytes"]
    said = ok(llmc(*flags, "--dry-run")).stdout.splitlines()
    assert said[-2].startswith(f"disk: up to {told['disk_bytes']:,} bytes (")


def test_a_run_is_told_that_the_disk_is_short(
    llmc: Llmc, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(llmc.workspace)
    monkeypatch.setenv("LLMC_CACHE_DIR", str(llmc.cache))
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
    app(args=["train", "--steps", "1", "--run", "tight"], standalone_mode=False)
    said = capfd.readouterr().err
    assert said.count("of the disk, but only 0.0 MB are free: free some before it saves\n") == 1
    # What the run has stored is room that it has.
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=200_000))
    app(args=["train", "--resume", "--steps", "2"], standalone_mode=False)
    assert "of the disk" not in capfd.readouterr().err


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


@pytest.mark.parametrize("steps", [0, 1, 5, 6])
@pytest.mark.parametrize(("val_every", "sample_every"), [(1, 1), (3, 2), (7, 5), (0, 0)])
def test_the_estimate_counts_what_the_run_does(
    steps: int, val_every: int, sample_every: int, native: Native, ragged: Flags
) -> None:
    flags: Flags = {"steps": steps, "val_every": val_every, "sample_every": sample_every}
    done = native("train", val_batches=2, sample_tokens=3, events="json", **flags, **ragged)
    events = json_lines(succeeded(done).stdout)
    validations = sum("val_loss" in event for event in events)
    tokens = sum(len(event["tokens"]) for event in events if event.get("event") == "sample")
    _, measured = rehearsed(native, val_batches=2, sample_tokens=3, **flags, **ragged)
    works = planned_work(TrainConfig(**flags), steps, measured)
    assert [work.count for work in works] == [steps, 2 * validations, tokens]
