"""Ends of the engine alone: a system call that fails, a disk that is too small."""

from __future__ import annotations

import random
import re
import resource
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.helpers.engine import Flags, Native, environment, succeeded
from tests.programs.torture import Ending, ending, settings
from tests.programs.trials import CODES, SECONDS, Trial, assert_whole

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
