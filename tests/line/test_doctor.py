"""``llmc doctor``: quiet about what is well, clear about what is not, and its exit code says so."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc.check import doctor
from llmc.check.doctor import CHECKS, Exam, Finding, State
from llmc.check.known_answers import known_answers
from llmc.check.trial import Trial
from llmc.cli.commands import doctor as command
from llmc.cli.context import Context
from llmc.engine.build import Built
from llmc.errors import ExitCode, Interrupted
from llmc.paths import Workspace
from tests.conftest import Llmc
from tests.helpers.doctor import OF_THE_ENGINE, report, states
from tests.helpers.engine import Native, succeeded
from tests.helpers.events import json_lines
from tests.helpers.isas import chosen_for_floats


def test_a_healthy_machine(llmc: Llmc, native: Native, isas: list[str], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = llmc("doctor", env={"TMPDIR": str(scratch)})
    assert done.returncode == 0, done.stdout + done.stderr
    marks = states(done.stdout)
    assert list(marks) == list(CHECKS)
    assert {name: marks[name] for name in OF_THE_ENGINE} == dict.fromkeys(OF_THE_ENGINE, "ok")
    assert set(marks.values()) <= {"ok", "warn"}
    assert f"already built: {native.binary}" in done.stdout
    assert re.search(rf"parity fp32  {', '.join(isas)}: \de-0[67] off PyTorch after a", done.stdout)
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(rf"^{len(CHECKS)} checks in [\d.]+ s: none failed", done.stderr)
    assert "next: llmc prepare stdlib" in done.stderr
    assert not list(llmc.workspace.iterdir()), "something was left in the workspace"
    assert not list(scratch.iterdir()), "something was left in the temporary folder"


def test_json_and_quiet(llmc: Llmc, native: Native) -> None:
    done = llmc("doctor", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["ok"] is True
    assert 0 < result["seconds"] < 60
    assert [check["name"] for check in result["checks"]] == list(CHECKS)
    for check in result["checks"]:
        assert set(check) == {"name", "state", "found", "advice"}
        assert check["state"] in ("ok", "warning")
        assert check["found"]
        assert (check["advice"] != "") == (check["state"] == "warning")


def test_it_builds_the_engine_first_and_needs_no_pytorch(
    llmc: Llmc, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise AssertionError('PyTorch was imported')\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "zig").symlink_to(cache / "zig")  # what zig compiled before
    env = {"LLMC_CACHE_DIR": str(tmp_path / "new"), "LLMC_CPU": "native", "PYTHONPATH": path}
    done = llmc("doctor", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ok +engine +built in [\d.]+ s: \S+/llmc-native$", done.stdout, re.MULTILINE)
    assert "building the engine" in done.stderr


def test_the_engine_knows_its_tables(native: Native, isas: list[str]) -> None:
    *tables, chosen = json_lines(succeeded(native("isa")).stdout)
    assert [table["isa"] for table in tables if table["runnable"]] == isas
    assert chosen["event"] == "chosen"
    assert chosen["isa"] in chosen_for_floats(isas)
    rated = json_lines(succeeded(native("isa", rates=1, dtype="bf16")).stdout)[:-1]
    for table in rated:
        assert ("bf16_flops" in table) == table["runnable"]
        assert not table["runnable"] or min(table["fp32_flops"], table["bf16_flops"]) > 1e6
    for isa in isas:
        assert json_lines(succeeded(native("isa", isa=isa)).stdout)[-1]["isa"] == isa
    assert native("isa", steps=3).returncode == ExitCode.USAGE


def test_an_unknown_isa_is_named_and_the_rest_is_tried(llmc: Llmc, native: Native) -> None:
    done = llmc("doctor", env={"LLMC_ISA": "abacus"})
    assert done.returncode == ExitCode.USAGE
    marks = states(done.stdout)
    assert [name for name, mark in marks.items() if mark == "FAIL"] == ["isa"]
    assert [marks[name] for name in OF_THE_ENGINE] == ["ok", "FAIL", "ok", "ok", "ok", "ok"]
    assert "LLMC_ISA=abacus: no such instruction set; this build has: plain" in done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: 1 of {len(CHECKS)} checks failed (isa): the report says what to do"]
    assert "next:" not in done.stderr


def told_by(events: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> Finding:
    """Return what the check of the instruction set finds where the engine has these events."""
    monkeypatch.setattr(doctor, "instruction_sets", lambda _, dtype="fp32", **__: events[dtype])
    return CHECKS["isa"](Exam(Workspace(Path()), binary=Path("llmc-native")))


def test_what_bf16_takes_and_an_amx_that_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an Intel CPU where vectors of bf16 are slower than those of floats."""
    rates = {"avx512": (150e9, 150e9), "avx512bf16": (150e9, 80e9)}
    tables: list[dict[str, Any]] = [
        {"event": "table", "isa": isa, "runnable": True, "fp32_flops": fp32, "bf16_flops": bf16}
        for isa, (fp32, bf16) in rates.items()
    ]
    chosen = {"fp32": "avx512bf16", "bf16": "avx512"}
    events = {dtype: [*tables, {"event": "chosen", "isa": isa}] for dtype, isa in chosen.items()}
    for has, hidden, state in (
        (False, False, State.OK),
        (True, False, State.WARNING),
        (False, True, State.WARNING),
    ):
        monkeypatch.setattr("llmc.engine.machine.has_amx", lambda has=has: has)
        monkeypatch.setattr("llmc.engine.machine.hidden_amx", lambda hidden=hidden: hidden)
        finding = told_by(events, monkeypatch)
        assert "150 GF/s a thread in fp32 and 150 in bf16 by avx512;" in finding.found
        assert finding.state is state and ("AMX" in finding.found) == (has or hidden)
        assert ("LLMC_CPU" in finding.advice) == has
    amx = {**tables[0], "isa": "amx"}
    monkeypatch.setattr("llmc.engine.machine.has_amx", lambda: True)
    events = {dtype: [amx, *told] for dtype, told in events.items()}
    monkeypatch.setattr("llmc.engine.machine.hidden_amx", lambda: False)
    assert told_by(events, monkeypatch).state is State.OK


@pytest.mark.usefixtures("healthy")
def test_a_slower_isa_than_need_be(
    here: Context, isas: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMC_ISA", "reference")
    found = report(here, "memory", "files")
    assert found["isa"].state is State.WARNING
    assert found["isa"].advice == f"unset LLMC_ISA: {isas[-1]} is faster"
    assert {name for name, it in found.items() if it.state is not State.OK} == {"isa"}


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("table", "name", "said"),
    [
        ("gradients", "qkvw", "after one step 1 of 17 tensors differ from PyTorch's, qkvw by"),
        pytest.param(
            "parameters",
            "lnfb",
            "after 10 steps 1 of 17 tensors differ from PyTorch's, lnfb by",
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_number_that_differs(
    table: str, name: str, said: str, here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = known_answers()
    row: list[float] = getattr(wrong, table)[name]
    row[1] += 0.01 * row[0]
    monkeypatch.setattr(doctor, "known_answers", lambda: wrong)
    found = report(here, "parity fp32", "parity bf16")
    assert [n for n, it in found.items() if it.state is not State.OK] == ["parity fp32"]
    parity = found["parity fp32"]
    assert (parity.state, parity.code) == (State.FAILED, ExitCode.INTERNAL)
    assert f"plain: {said} 4e-03" in parity.found
    assert parity.advice.startswith("reinstall llmc"), "no instruction set is right"


FLIP = """
if {condition}:
    path = pathlib.Path(flags['--out']{file})
    data = bytearray(path.read_bytes())
    data[{at}] ^= 1
    path.write_bytes(data)
"""

LAST_BYTE = FLIP.replace("{file}", " + '/model.bin'").replace("{at}", "-1")
FIRST_TOKEN = FLIP.replace("{file}", "").replace("{at}", "1024")


@pytest.fixture
def wrapped(native: Native, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An engine that errs: a script around the real one, for tests to fill in."""
    script = tmp_path / "llmc-native"
    monkeypatch.setattr(doctor, "build_native", lambda **_: Built(script, compiled=False))
    yield script
    assert script.is_file()


def write_wrapper(script: Path, native: Native, before: str = "", after: str = "") -> None:
    script.write_text(
        f"#!{sys.executable}\nimport os, pathlib, subprocess, sys\n"
        "words = sys.argv[1:]\nisa = os.environ.get('LLMC_ISA')\n"
        "flags = dict(zip(words[1::2], words[2::2]))\n"
        f"{before}\n"
        f"argv = [{str(native.binary)!r}, words[0]]\n"
        "argv += [word for pair in flags.items() for word in pair]\n"
        "code = subprocess.run(argv).returncode\n"
        f"{after}\nsys.exit(code)\n"
    )
    script.chmod(0o755)


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    "fault",
    [
        "if words[0] == 'debug-state': flags['--seq-len'] = '36'",
        pytest.param(
            "if words[0] == 'train': flags['--weight-decay'] = '0'", marks=pytest.mark.full
        ),
        pytest.param("if words[0] == 'train': flags['--eps'] = '1e-6'", marks=pytest.mark.full),
    ],
)
def test_an_engine_that_computes_something_else(
    fault: str, wrapped: Path, native: Native, here: Context
) -> None:
    write_wrapper(wrapped, native, before=fault)
    found = report(here, "parity fp32")["parity fp32"]
    assert found.state is State.FAILED
    assert "report" in found.advice


@pytest.mark.usefixtures("healthy")
def test_one_instruction_set_that_crashes(
    wrapped: Path, native: Native, isas: list[str], here: Context
) -> None:
    best, next_best = isas[-1], isas[-2]
    crash = f"if isa == {best!r}: os.kill(os.getpid(), 4)"
    write_wrapper(wrapped, native, before=crash)
    found = report(here, "parity fp32", "threads", "files")
    parity = found["parity fp32"]
    assert parity.state is State.FAILED
    assert f"{best}: the engine ended with SIGILL" in parity.found
    assert f"{next_best}:" not in parity.found
    assert parity.advice.startswith(f"use LLMC_ISA={next_best} meanwhile")
    assert found["threads"].state is State.FAILED
    assert found["files"].state is State.OK


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("faults", "what"),
    [
        ({"before": "if flags.get('--threads') == '3': flags['--lr'] = '0.002'"}, "losses"),
        pytest.param(
            {"after": LAST_BYTE.format(condition="flags.get('--threads') == '3'")},
            "weights",
            marks=pytest.mark.full,
        ),
    ],
)
def test_threads_that_make_a_difference(
    faults: dict[str, str], what: str, wrapped: Path, native: Native, here: Context
) -> None:
    write_wrapper(wrapped, native, **faults)
    found = report(here, "parity fp32", "threads", "files")
    assert [name for name, it in found.items() if it.state is State.FAILED] == ["threads"]
    assert found["threads"].found.startswith(f"plain: 3 threads make other {what} than one;")
    assert found["threads"].code == ExitCode.INTERNAL


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (LAST_BYTE.format(condition="words[0] == 'train'"), ExitCode.BAD_DATA, "is damaged"),
        (
            FIRST_TOKEN.format(condition="words[0] == 'debug-state'"),
            ExitCode.INTERNAL,
            "a file of 16-bit tokens came back with other tokens",
        ),
    ],
)
def test_a_bit_that_is_lost_on_the_way(  # noqa: PLR0917 -- what pytest hands in
    fault: str, code: ExitCode, said: str, wrapped: Path, native: Native, here: Context
) -> None:
    write_wrapper(wrapped, native, after=fault)
    files = report(here, "files")["files"]
    assert (files.state, files.code) == (State.FAILED, code)
    assert said in files.found


@pytest.mark.usefixtures("healthy")
def test_weights_that_come_back_changed(wrapped: Path, native: Native, here: Context) -> None:
    changed = "if flags.get('--steps') == '0': flags['--steps'] = '1'"
    write_wrapper(wrapped, native, before=changed)
    found = report(here, "threads", "files")
    assert [name for name, it in found.items() if it.state is State.FAILED] == ["files"]
    assert "a checkpoint in fp32 came back with another wte;" in found["files"].found


@pytest.mark.usefixtures("healthy")
def test_an_interrupt_ends_it(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("interrupted")

    monkeypatch.setattr(Trial, "answers", stopped)
    with pytest.raises(Interrupted):
        report(here)


@pytest.mark.usefixtures("healthy")
def test_no_temporary_folder(
    here: Context, native: Native, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    found = report(here)
    failed = [name for name, it in found.items() if it.state is State.FAILED]
    assert failed == ["parity fp32", "parity bf16", "threads", "files"]
    assert all("set TMPDIR" in found[name].found for name in failed)
    assert all(found[name].code == ExitCode.BAD_DATA for name in failed)


def test_a_closed_pipe_is_no_failure(llmc: Llmc, native: Native) -> None:
    with llmc.start("doctor") as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_gets_lines_that_fit(width: int) -> None:
    from rich.console import Console

    console = Console(width=width, force_terminal=True, color_system=None)
    finding = Finding(State.FAILED, "a long way " * 20, "do " * 40, ExitCode.INTERNAL)
    lines = command._shown(console, "parity fp32", finding).splitlines()
    assert lines[0].startswith("FAIL  parity fp32  a long way")
    assert all(line.startswith(" " * 19) and line[19] != " " for line in lines[1:])
    assert all(len(line.rstrip()) <= width for line in lines)
    assert " ".join(" ".join(lines).split()).count("a long way") == 20
