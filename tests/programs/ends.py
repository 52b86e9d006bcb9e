"""More ends of a run, for ``make torture MODE=…``: each ends by resuming and comparing the bytes.

``signals``
    ``llmc train`` and its engine, both or one of them, get some signals at random instants.
``hangups``
    the terminal that ``llmc train`` works in closes at a random instant.
``faults``
    one system call of the engine fails, or a few in a row (``strace -e inject``).
``disks``
    the disk is too small for the run: a tmpfs where mounting is allowed, else a limit of the size
    of files. It grows while the run waits, or after the run was ended.
``ranks``
    a random one of several ranks is killed: :mod:`tests.programs.torn_ranks`.

Trial ``i`` of a seed always does the same: ``--seed S --first i --count 1`` repeats it.
"""

from __future__ import annotations

import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.helpers.engine import Flags, Native, environment, succeeded
from tests.helpers.workspace import prepared_workspace
from tests.programs.torture import Ending, ending, settings

Trial = Callable[[random.Random], str]  # returns what happened, in a word or two
WISHES = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGXCPU)
CODES = (0, 1, 2, 3, 70, 130, 137)
SECONDS = 180  # the longest that a run may take
ERRORS = {
    "write": ("ENOSPC", "EIO", "EDQUOT", "EINTR", "EAGAIN"),
    "fsync": ("EIO", "ENOSPC", "EINTR"),
    "rename": ("ENOSPC", "EIO", "EACCES"),
    "link": ("EPERM", "EMLINK", "ENOSPC"),
    "unlink": ("EIO", "EACCES"),
    "mkdir": ("ENOSPC", "EACCES"),
    "rmdir": ("EIO",),
    "openat": ("ENOSPC", "EMFILE", "EACCES", "EIO"),
    "close": ("EIO",),
    "ftruncate": ("EIO",),
    "pread64": ("EIO", "EINTR"),
    "flock": ("ENOLCK", "EINTR"),
    "fstat": ("EIO",),
    "newfstatat": ("EIO",),
    "statfs": ("EIO", "ENOSYS"),
    "mmap": ("ENOMEM",),
    "clone3": ("EAGAIN",),
}


def assert_whole(out: Path) -> None:
    """Hold what has its final name to being whole: after any end.

    Raises:
        AssertionError: half a checkpoint.
    """
    folders = out / "checkpoints"
    for folder in folders.iterdir() if folders.exists() else ():
        if not folder.name.startswith("."):
            names = {path.name for path in folder.iterdir()}
            assert names == {"model.bin", "state.bin"}, (folder, names)


# ---- llmc and its engine -----------------------------------------------------------------------


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


def engines(out: Path) -> list[int]:
    """Return the engines that train in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if words[1:2] == ["train"] and "--out" in words:
                folder = path.with_name("cwd").readlink() / words[words.index("--out") + 1]
                if folder == out:
                    found.append(int(path.parent.name))
    return found


def wait_for_engine(out: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while engines(out):
        assert time.monotonic() < deadline, "the engine does not end"
        time.sleep(0.02)


def steps_told(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("train_loss") if path.exists() else 0


def wait_for_steps(out: Path, steps: int, process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + SECONDS
    while steps_told(out) < steps and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, "the run does not begin"
        time.sleep(0.005)


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


# ---- the engine alone --------------------------------------------------------------------------


def undisturbed(native: Native, folder: Path, steps: int) -> tuple[Flags, Ending]:
    """Make a small model and its data and train; return the flags and the end."""
    flags: Flags = {**settings(folder, steps), "threads": 1, "optimizer_state": "8bit"}
    succeeded(native("train", out=folder / "calm", **flags))
    return flags, ending(folder / "calm")


def calls(log: Path) -> Counter[str]:
    """Count the system calls in a log of strace, by name."""
    return Counter(re.findall(r"^(?:\d+ +)?(\w+)\(", log.read_text(), re.M))


def faults(native: Native, folder: Path) -> Trial:
    """Return trials in which a system call fails."""
    flags, calm = undisturbed(native, folder, 8)
    log, out = folder / "strace", folder / "torn"

    def traced(*options: str) -> list[str]:
        words = native.argv("train", out=out, **flags)
        return ["strace", "-f", "-q", "-o", str(log), *options, *words]

    subprocess.run(traced(), capture_output=True, check=True, env=environment())
    shutil.rmtree(out)
    counts = calls(log)
    subprocess.run([*traced()[:5], str(native.binary)], capture_output=True, check=False)
    loader = calls(log)  # of the system's loader, before the engine begins
    names = sorted(name for name in ERRORS if counts[name] > loader[name])

    def trial(chance: random.Random) -> str:
        name = chance.choice(names)
        error = chance.choice(ERRORS[name])
        at = chance.randint(loader[name] + 1, counts[name])
        when = f"{at}" if chance.random() < 0.7 else f"{at}..{at + chance.randint(1, 4)}"
        inject = f"inject={name}:error={error}:when={when}"
        done = subprocess.run(
            traced("-e", f"trace={name}", "-e", inject),
            capture_output=True,
            env=environment(),
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode in CODES, (inject, done.returncode, done.stderr)
        assert_whole(out)
        if done.returncode != 0:
            succeeded(native("train", out=out, resume=1, **flags))
        found = ending(out)
        if b"tries again" in done.stderr:  # a checkpoint is lost, and it may have been the best one
            found = replace(found, files=[found.files[0], *calm.files[1:]])
        assert found == calm, (inject, done.returncode, done.stderr)
        left = [str(path) for path in out.rglob("*") if path.name.endswith((".part", ".old"))]
        assert done.returncode == 0 or not left, (inject, left)
        shutil.rmtree(out)
        return f"{name} {error}"

    return trial


def may_mount(folder: Path) -> bool:
    """Return whether a tmpfs can be mounted here."""
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    with suppress(OSError):
        if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
            return subprocess.run(["umount", str(folder)], check=False).returncode == 0
    return False


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], object]]:
    """Mount a disk of ``size`` bytes; yield a function that makes it large."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        grow = ["mount", "-o", "remount,size=200m", str(folder)]
        yield lambda: subprocess.run(grow, check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def disks(native: Native, folder: Path) -> Trial:
    """Return trials on disks that are too small for the run."""
    flags, calm = undisturbed(native, folder, 60)
    whole = sum(path.stat().st_size for path in (folder / "calm").rglob("*") if path.is_file())
    place = folder / "disk"
    place.mkdir()
    mounts = may_mount(place)
    unit = (folder / "calm/model.bin").stat().st_size

    def limited(size: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def lives(chance: random.Random, grow: Callable[[], object], limit: int | None) -> str:
        out = place / "run"
        argv = native.argv("train", out=out, **flags)
        prepare = None if limit is None else limited(limit)
        with subprocess.Popen(
            argv,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            preexec_fn=prepare,  # noqa: PLW1509 -- this program has no threads
        ) as process:
            patience = chance.uniform(0.5, 4)
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            waited = process.poll() is None
            grows = waited and limit is None and chance.random() < 0.5
            if grows:
                grow()
            elif waited:
                process.send_signal(chance.choice((signal.SIGTERM, signal.SIGKILL)))
            said = process.communicate(timeout=SECONDS)[1].decode()
            code = process.returncode
        assert code in (*CODES, -signal.SIGKILL, -signal.SIGTERM), (code, said)
        assert code in (0, 130, -signal.SIGKILL) or "error: " in said, (code, said)
        assert_whole(out)
        if code != 0:
            grow()
            resume: Flags = {"resume": 1} if out.exists() else {}
            succeeded(native("train", out=out, **resume, **flags))
        assert ending(out) == calm, (code, said)
        shutil.rmtree(out)
        return "grew while it waited" if grows else "ended, then grew" if code else "had room"

    def trial(chance: random.Random) -> str:
        size = int(chance.uniform(0.5 * unit, 1.2 * whole))
        if mounts:
            with small_disk(place, size) as grow:
                return lives(chance, grow, None)
        return lives(chance, lambda: None, int(chance.uniform(1000, 2 * unit)))

    return trial


MODES = ("signals", "hangups", "faults", "disks", "ranks")


def run_mode(
    mode: str, native: Native, cache: Path, *, count: int, seed: int, first: int = 0
) -> Counter[str]:
    """Run ``count`` trials of a mode from number ``first`` on; return how often what happened.

    Raises:
        AssertionError: one ended otherwise; what is printed repeats it.
    """
    from tests.programs.torn_ranks import TornRanks

    if mode == "faults" and shutil.which("strace") is None:
        raise SystemExit("faults need strace, which is not installed")
    happened: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        if mode in ("signals", "hangups"):
            trial = (signals if mode == "signals" else hangups)(Path(name), cache)
        elif mode == "ranks":
            trial = TornRanks(native, Path(name)).trial
        else:
            trial = (faults if mode == "faults" else disks)(native, Path(name))
        for number in range(first, first + count):
            try:
                happened[trial(random.Random(f"{mode} {seed} {number}"))] += 1
            except BaseException:
                repeat = f"--mode {mode} --seed {seed} --first {number} --count 1"
                print(f"to repeat it: python -m tests.programs.torture {repeat}", flush=True)
                raise
    return happened
