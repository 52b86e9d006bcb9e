"""Ends of ``llmc train`` and its engine: signals to both or one of them, a terminal that closes."""

from __future__ import annotations

import os
import pty
import random
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.helpers.workspace import prepared_workspace
from tests.programs.torture import ending
from tests.programs.trials import (
    CODES,
    SECONDS,
    WISHES,
    Trial,
    assert_whole,
    engines,
    steps_told,
    wait_for_engine,
    wait_for_steps,
)


class Line:
    """A workspace, and a run in it that was never disturbed."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.llmc = prepared_workspace(folder / "workspace", cache)
        self.calm = self.run_of("calm")
        with self.started("calm") as process:
            assert process.wait(SECONDS) == 0
        self.ending = ending(self.calm)

    def run_of(self, name: str) -> Path:
        return self.llmc.workspace / "runs" / name

    def argv(self, name: str, *, resume: bool) -> list[str]:
        words = [*self.llmc.command, "train", "--run", name]
        if resume:
            return [*words, "--resume"]
        words += ["--config", "tiny.toml", "--steps", "300", "--save-every", "4", "--threads", "1"]
        return [*words, "--val-every", "3", "--sample-every", "7", "--batch-size", "4"]

    @contextmanager
    def started(self, name: str, *, resume: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        """Start the run, in a session of its own."""
        with subprocess.Popen(
            self.argv(name, resume=resume),
            cwd=self.llmc.workspace,
            env=self.llmc.env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def finish(self, name: str) -> None:
        """Wait for the engine, resume until the run has ended, compare, delete the run.

        Raises:
            AssertionError: it does not end like the undisturbed one.
        """
        out = self.run_of(name)
        wait_for_engine(out)
        assert_whole(out)
        begun = (out / "run.json").exists() and (out / "checkpoints").exists()
        if not begun:
            shutil.rmtree(out, ignore_errors=True)
        with self.started(name, resume=begun) as process:
            assert process.wait(SECONDS) in (0, 2)  # 2: it was at its end
        assert ending(out) == self.ending
        shutil.rmtree(out)


def signals(folder: Path, cache: Path) -> Trial:
    """Return trials that send signals to any of the two processes at random instants."""
    line = Line(folder, cache)

    def trial(chance: random.Random) -> str:
        out = line.run_of("torn")
        sent = []
        with line.started("torn") as process:
            if chance.random() < 0.8:
                wait_for_steps(out, chance.randint(1, 200), process)
            else:
                time.sleep(chance.random() * 1.5)  # while it starts
            for _ in range(chance.choice((1, 1, 2, 3, 5))):
                number = chance.choice((*WISHES, *WISHES, signal.SIGKILL, signal.SIGQUIT))
                to = [process.pid, *engines(out)]
                for pid in chance.sample(to, chance.randint(1, len(to))):
                    sent.append(number.name)
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(chance.random() * chance.choice((0, 0.001, 0.02)))
            stop = chance.random() < 0.2
            if stop:
                for pid in engines(out):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                        time.sleep(0.03)
                        os.kill(pid, signal.SIGCONT)
            code = process.wait(SECONDS)
        assert code in CODES or -code in (signal.SIGKILL, signal.SIGQUIT, *WISHES), code
        line.finish("torn")
        return "/".join(sorted(set(sent)))

    return trial


def hangups(folder: Path, cache: Path) -> Trial:
    """Return trials in which the terminal closes: nothing that was told of is lost."""
    line = Line(folder, cache)

    def trial(chance: random.Random) -> str:
        out = line.run_of("torn")
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(line.llmc.workspace)
            argv = line.argv("torn", resume=False)
            shell = chance.random() < 0.5
            words = ["sh", "-c", '"$@"; exit $?', "sh", *argv] if shell else argv
            os.execvpe(words[0], words, {**line.llmc.env(), "TERM": "xterm"})
        steps, began = chance.randint(1, 200), time.monotonic()
        while steps_told(out) < steps and time.monotonic() < began + SECONDS:
            if select.select([terminal], [], [], 0.005)[0]:
                with suppress(OSError):  # it has ended
                    if os.read(terminal, 1 << 16):
                        continue
                break
        time.sleep(chance.random() * 0.02)
        os.close(terminal)
        os.waitpid(pid, 0)
        wait_for_engine(out)
        newest = max(path.name for path in (out / "checkpoints").iterdir())
        told = steps_told(out)
        assert int(newest.rstrip("i")) == told, f"saved at {newest}, told of {told} steps"
        line.finish("torn")
        return "hung up"

    return trial
