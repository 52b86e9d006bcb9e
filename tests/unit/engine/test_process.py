"""Children are read as they speak, stopped when asked, and never left behind."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from llmc.engine import process
from llmc.engine.endings import Ended, not_started, of_launcher
from llmc.engine.process import Engine, run_quietly
from llmc.errors import (
    BadData,
    ExitCode,
    Interrupted,
    LlmcError,
    LossNotFinite,
    MissingOutput,
    Usage,
)

# A child that says its process id first, then does what the test wants.
PRELUDE = "import os, signal, sys, time\nprint(os.getpid(), flush=True)\n"
FOREVER = "while True: time.sleep(0.01)\n"


def engine(script: str) -> Engine:
    return Engine([sys.executable, "-c", PRELUDE + script])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def failure(script: str) -> LlmcError:
    """Run a child to its end and return what it raised."""
    with pytest.raises(LlmcError) as caught, engine(script) as running:
        for _ in running:
            pass
    return caught.value


def test_lines_come_while_the_child_works() -> None:
    with engine("print('{\"step\": 0}', flush=True)\n" + FOREVER) as running:
        lines = iter(running)
        assert alive(int(next(lines)))
        assert next(lines) == '{"step": 0}'


def test_a_child_that_ends_well_raises_nothing() -> None:
    with engine("print('last')\nsys.stderr.write('memory: 2 GB\\n')\n") as running:
        assert list(running)[1:] == ["last"]
        assert list(running.stderr) == ["memory: 2 GB"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1, BadData), (2, Usage), (3, MissingOutput), (5, LossNotFinite), (130, Interrupted)],
)
def test_an_exit_code_becomes_its_exception(code: int, kind: type[LlmcError]) -> None:
    said = "warning: early\\nerror: first\\nerror: train.bin is truncated\\nafterwards\\n"
    error = failure(f"sys.stderr.write('{said}')\nsys.exit({code})\n")
    assert type(error) is kind
    assert str(error) == "train.bin is truncated"
    assert error.exit_code == code


@pytest.mark.parametrize("code", [70, 42])
def test_any_other_exit_code_is_internal(code: int) -> None:
    error = failure(f"sys.stderr.write('table not found\\n')\nsys.exit({code})\n")
    assert error.exit_code == ExitCode.INTERNAL
    assert f"code {code}" in str(error)
    assert "table not found" in str(error)


def test_a_child_that_fails_without_a_word_still_has_its_exit_code() -> None:
    error = failure("sys.exit(1)\n")
    assert type(error) is BadData
    assert "code 1" in str(error)


def test_a_killed_child_makes_one_think_of_memory() -> None:
    error = failure("os.kill(os.getpid(), signal.SIGKILL)\n")
    assert error.exit_code == ExitCode.KILLED
    assert "memory" in str(error)


def test_a_crash_names_its_signal_and_what_the_sanitizer_found() -> None:
    said = "thread 1 panic: signed integer overflow\\n" + "  at line\\n" * 5
    error = failure(f"sys.stderr.write('{said}')\nsys.stderr.flush()\nos.abort()\n")
    assert error.exit_code == ExitCode.INTERNAL
    assert "SIGABRT" in str(error)
    assert "signed integer overflow" in str(error)


def test_a_flood_on_stderr_blocks_nothing() -> None:
    with engine(
        "[sys.stderr.write('y' * 99 + '\\n') for _ in range(20000)]\nprint('done')\n"
    ) as running:
        assert list(running)[-1] == "done"
        assert len(running.stderr) == process.KEPT_LINES


def test_leaving_early_ends_the_child() -> None:
    with engine(FOREVER) as running:
        for line in running:
            pid = int(line)
            break
    assert not alive(pid)


def test_a_consumer_that_fails_ends_the_child() -> None:
    with pytest.raises(BrokenPipeError), engine(FOREVER) as running:
        pid = int(next(iter(running)))
        raise BrokenPipeError
    assert not alive(pid)


def test_a_child_that_blocks_on_its_output_is_ended() -> None:
    with engine("while True: print('x' * 1000)\n") as running:
        pid = int(next(iter(running)))
        time.sleep(0.1)  # it fills the pipe
    assert not alive(pid)


def test_a_stubborn_child_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)
    with engine(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + FOREVER
    ) as running:
        lines = iter(running)
        pid = int(next(lines))
        assert next(lines) == "deaf"
    assert not alive(pid)


SAVES = """
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
print(os.getpgrp(), flush=True)
while not stopped: time.sleep(0.01)
print('saved', flush=True)
sys.stderr.write('error: interrupted; saved in runs/first\\n')
sys.exit(130)
"""


def test_ctrl_c_lets_the_child_finish_and_is_told_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    heard = []
    with pytest.raises(Interrupted, match="saved in runs/first"), engine(SAVES) as running:
        for line in running:
            heard.append(line)
            if len(heard) == 2:
                os.kill(os.getpid(), signal.SIGINT)
    assert heard[2] == "saved"
    assert int(heard[1]) != os.getpgrp(), "a terminal's Ctrl-C must reach Python alone"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_end_asked_for_from_outside_ends_the_child(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name), engine(FOREVER) as running:
        for line in running:
            pid = int(line)
            os.kill(os.getpid(), number)
    assert not alive(pid)
    assert signal.getsignal(number) is before


def test_a_signal_reaches_the_child_s_own_children() -> None:
    """They hold its stdout open: were one left behind, reading would go on until it ends."""
    began = time.monotonic()
    script = "import subprocess\nsubprocess.Popen(['sleep', '60'])\nprint('', flush=True)\n"
    with pytest.raises(Interrupted), engine(script + FOREVER) as running:
        for line in running:
            if line == "":
                os.kill(os.getpid(), signal.SIGTERM)
    assert time.monotonic() - began < 50


def test_events_are_the_objects_that_lines_hold() -> None:
    script = [sys.executable, "-c", 'print(\'{"step": 0}\\n{"event": "end"}\')']
    with Engine(script) as running:
        assert list(running.events()) == [{"step": 0}, {"event": "end"}]
    for said in ("hello", "17", "[1]", '{"step": 0'):
        child = Engine([sys.executable, "-c", f"print({said!r})"], name="PyTorch")
        with (
            pytest.raises(LlmcError, match="PyTorch printed a line that is not an event"),
            child as running,
        ):
            list(running.events())


def test_a_child_is_called_by_its_name() -> None:
    argv = [sys.executable, "-c", "import os; os.abort()"]
    ended = pytest.raises(LlmcError, match="PyTorch ended with SIGABRT")
    with ended, Engine(argv, name="PyTorch") as running:
        list(running)


def test_an_engine_runs_in_any_thread() -> None:
    heard: list[str] = []

    def read() -> None:
        with engine("print('hello')\n") as running:
            heard.extend(running)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert heard[1:] == ["hello"]


def test_an_engine_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(LlmcError, match="llmc build --force"), Engine([str(tmp_path / "no")]):
        pass
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("number", "kind", "advice"),
    [
        (errno.EMFILE, Usage, "(ulimit -n)"),
        (errno.EAGAIN, Usage, "(ulimit -u)"),
        (errno.ENOMEM, Usage, "close other programs"),
        (errno.EACCES, BadData, "noexec"),
        (errno.ENOEXEC, BadData, "llmc build --force"),
    ],
)
def test_what_the_system_does_not_start_has_a_remedy(
    number: int, kind: type[LlmcError], advice: str
) -> None:
    error = not_started("/cache/llmc-native", OSError(number, os.strerror(number)), ())
    assert type(error) is kind
    assert os.strerror(number) in str(error) and advice in str(error)


def test_a_rank_that_crashed_does_not_make_one_think_of_memory() -> None:
    lines = [
        "prterun noticed that process rank 1 with PID 9582 on node vm exited on",
        "signal 11 (Segmentation fault).",
    ]
    error = of_launcher("mpirun", Ended(139, [], lines, LlmcError), "x", reason=None, asked=False)
    assert error.exit_code == ExitCode.INTERNAL
    assert "rank 1 on vm" in str(error) and "bug" in str(error) and "memory" not in str(error)


def test_a_launcher_that_fails_by_itself_is_no_bug_of_llmc() -> None:
    lines = ["ssh: Could not resolve hostname nohost: Name or service not known"]
    error = of_launcher("mpirun", Ended(255, [], lines, LlmcError), "x", reason=None, asked=False)
    assert type(error) is Usage and "Could not resolve" in str(error)


def test_run_quietly_returns_all_that_was_said() -> None:
    script = "import os, sys; print(os.environ['LLMC_TEST'], flush=True); sys.exit('oh no')"
    done = run_quietly([sys.executable, "-c", script], {"LLMC_TEST": "in the environment"})
    assert done.code == 1
    assert done.output.split("\n") == ["in the environment", "oh no", ""]


def test_run_quietly_says_what_it_cannot_start(tmp_path: Path) -> None:
    done = run_quietly([str(tmp_path / "no-such-compiler")])
    assert done.code == 127
    assert "no-such-compiler" in done.output
