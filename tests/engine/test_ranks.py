"""Ranks: what they tell of each other, what carries their messages, what is refused, how they end.

The MPI libraries are the wheels of MPICH and Open MPI. What those do not do, such as return an
error, a library in C does that is compiled here.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmc.engine import toolchain
from tests.helpers.engine import Native, environment, refused, succeeded
from tests.helpers.mpi import NAMES, Launcher, library, needs

# Every launcher sets these for a rank, and this test may run under one.
LAUNCHERS = ("OMPI_", "PMI_", "PMIX_", "SLURM_", "HYDI_", "FAKE_", "LLMC_MPI", "LLMC_MEMORY")
# Two ranks of a launcher that is not there.
PMI = {"PMI_SIZE": "2", "PMI_RANK": "0"}


def variables(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in environment().items() if not k.startswith(LAUNCHERS)}
    return {**kept, **extra}


def run(
    native: Native, env: Mapping[str, str], *, before: tuple[str, ...] = (), **flags: Any
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *native.argv("ranks", **flags)],
        capture_output=True,
        text=True,
        check=False,
        env=variables(env),
        timeout=120,
    )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return our own sentences; launchers and their libraries add others."""
    return re.findall(r"^ ?error: (.*)", done.stderr, re.M)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for one process that makes up the other ranks."""
    source = Path(__file__).parents[1] / "helpers" / "fake_mpi.c"
    path = tmp_path_factory.mktemp("fake") / "libfake.so"
    zig = toolchain.zig()
    flags = ("-shared", "-fPIC", "-O1", "-Wall", "-Werror")
    subprocess.run([*zig.command, *flags, str(source), "-o", str(path), "-lm"], check=True)
    return path


# ---- under the launchers


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_ranks_report_themselves_and_exchange_floats(name: str, ranks: int, native: Native) -> None:
    """The program checks every float that arrives."""
    mpi = needs(name, ranks)
    flags = {"floats": 1_000_003, "repeats": 1, "events": "json"}
    done = succeeded(run(native, mpi.env, before=mpi.argv, **flags))
    (event,) = (json.loads(line) for line in done.stdout.splitlines())
    assert [each["rank"] for each in event["ranks"]] == list(range(ranks))
    assert len({each["process"] for each in event["ranks"]}) == ranks
    assert {each["machine"] for each in event["ranks"]} == {platform.node()}
    assert all(1 <= each["cores"] <= each["cores_there"] for each in event["ranks"])
    if ranks == 1:
        assert event["library"] is None and "gather_bytes_per_second" not in event
        return
    assert event["library"].startswith(name)
    assert str(Path(mpi.argv[0]).parents[1].resolve()) in event["library"]
    assert event["exchange_bytes_per_second"] > 0 and event["gather_bytes_per_second"] > 0


def test_llmc_mpi_names_the_library(native: Native) -> None:
    """MPICH has a second one, with the binary interface of the MPI standard."""
    mpi, path = needs("MPICH", 3), library("MPICH", "libmpi_abi.so.1")
    env = {**mpi.env, "LLMC_MPI": str(path)}
    done = succeeded(run(native, env, before=mpi.argv, floats=99_991, repeats=2))
    assert f"MPI: MPICH 5.0.2, {path}" in done.stdout
    assert re.search(r"gather of 0\.4 MB: each rank sends [\d.]+ GB/s", done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_what_all_ranks_meet_is_said_once(name: str, native: Native) -> None:
    mpi = needs(name, 3)
    done = run(native, mpi.env, before=mpi.argv, floats=0)
    assert done.returncode == 2
    assert len(errors(done)) == 1 and "--floats" in errors(done)[0]
    if name == "MPICH":
        refused(done, 2)


@pytest.mark.parametrize("name", NAMES)
def test_help_is_printed_once(name: str, native: Native) -> None:
    mpi = needs(name)
    argv = [*mpi.argv, str(native.binary), "ranks", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=variables(mpi.env))
    assert done.returncode == 0 and done.stdout.count("usage:") == 1


@pytest.mark.parametrize("name", NAMES)
def test_one_rank_that_fails_ends_all_and_names_itself(name: str, native: Native) -> None:
    """The others wait in MPI_Init meanwhile; rank 1 finds no library."""
    mpi = needs(name)
    script = (
        "import os, sys\n"
        "rank = os.environ.get('PMI_RANK') or os.environ.get('OMPI_COMM_WORLD_RANK')\n"
        "if rank == '1': os.environ['LLMC_MPI'] = '/nowhere.so'\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    started = time.monotonic()
    done = run(native, mpi.env, before=(*mpi.argv, sys.executable, "-c", script))
    assert done.returncode == 2 and time.monotonic() - started < 30
    assert len(errors(done)) == 1
    assert errors(done)[0].startswith(f"rank 1 on {platform.node()}: LLMC_MPI=/nowhere.so ")


def test_the_library_of_another_mpi_is_refused_by_one_rank(native: Native) -> None:
    mpi, path = needs("MPICH", 3), library("Open MPI", "libmpi.so.40")
    done = run(native, {**mpi.env, "LLMC_MPI": str(path)}, before=mpi.argv)
    assert done.returncode == 2
    (sentence,) = errors(done)
    assert "3 processes" in sentence and f"to {path} each of them is alone" in sentence


# ---- silence and death


@contextmanager
def busy(native: Native, mpi: Launcher, folder: Path, **flags: object) -> Iterator[Busy]:
    """Start ranks that exchange floats for ever, and wait until they do."""
    argv = [*mpi.argv, *native.argv("ranks", floats=1000, repeats=10**9, **flags)]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(argv, stdout=out, stderr=err, env=variables(mpi.env))
    ranks = Busy(process, folder)
    try:
        ranks.wait_for("out", "MPI: ")
        yield ranks
    finally:
        for pid in ranks.pids():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


class Busy:
    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r", process (\d+): ", self.text("out"))]

    def wait_for(self, name: str, words: str) -> None:
        until = time.monotonic() + 60
        while words not in self.text(name):
            assert time.monotonic() < until and self.process.poll() is None, self.text("err")
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs: it may be a zombie whose parent has not asked for it yet."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return done.stdout.strip()[:1] not in (b"", b"Z")


@pytest.mark.parametrize("name", NAMES)
def test_a_wait_is_reported_and_a_death_ends_all(name: str, native: Native, tmp_path: Path) -> None:
    mpi = needs(name)
    with busy(native, mpi, tmp_path, patience=0.5) as ranks:
        first, second = ranks.pids()
        os.kill(second, signal.SIGSTOP)
        said = "no answer from the other ranks for {} second"
        ranks.wait_for("err", said.format(1))
        ranks.wait_for("err", said.format(2))
        assert ranks.text("err").splitlines()[0].endswith("may be down; Ctrl-C ends all")
        os.kill(second, signal.SIGCONT)
        time.sleep(1)
        assert ranks.process.poll() is None and said.format(4) not in ranks.text("err")

        os.kill(second, signal.SIGKILL)
        assert ranks.process.wait(timeout=20) != 0
        until = time.monotonic() + 5
        while alive(first):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_wait_is_an_event_for_a_program(native: Native, fake: Path) -> None:
    """It is reported again each time it has doubled: after half a second, 1 and 2."""
    env = {**PMI, "FAKE_SIZE": "2", "LLMC_MPI": str(fake), "FAKE_SLEEPS": "3"}
    done = succeeded(run(native, env, repeats=0, patience=0.5, events="json"))
    *notes, last = (json.loads(line) for line in done.stdout.splitlines())
    assert last["event"] == "ranks" and done.stderr == ""
    assert {note["event"] for note in notes} == {"note"}
    waits = [re.findall(r"for (\d) seconds: a machine", note["text"]) for note in notes]
    assert waits == [["0"], ["1"], ["2"]]
    patient = run(native, {**env, "FAKE_SLEEPS": "1"}, repeats=0, patience=30)
    assert succeeded(patient).stderr == ""


# ---- by a library that is not MPI's


def test_the_environment_of_floats_survives_the_library(native: Native, fake: Path) -> None:
    """The C library prints by the direction of rounding that the program is in."""
    env = {"PMI_RANK": "0", "LLMC_MPI": str(fake), "LLMC_MEMORY": "2960000000"}
    done = succeeded(run(native, env))
    assert "3.0 GB of memory available" in done.stdout
    assert f"MPI: Fake MPI 1.0, {fake}" in done.stdout


def test_a_rank_bound_to_one_core_is_noted(native: Native, fake: Path) -> None:
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        pytest.skip("this machine has one core, or cannot bind a process to one")
    env = {**PMI, "FAKE_SIZE": "2", "LLMC_MPI": str(fake)}
    bound = "import os, sys; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
    before = (sys.executable, "-c", bound + "os.execv(sys.argv[1], sys.argv[1:])")
    note = f"note: each rank may use 1 of {os.cpu_count()} cores: mpirun bound it; --bind-to none"
    assert note in succeeded(run(native, env, before=before, repeats=0)).stdout
    assert note not in succeeded(run(native, env, repeats=0)).stdout


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (
            {"FAKE_SIZE": "1"},
            "mpirun or srun started 2 processes, but to {fake} each of them is alone",
        ),
        ({"FAKE_SIZE": "257"}, "257 ranks are too many: at most 256"),
        ({"FAKE_SIZE": "3", "FAKE_OTHER": "sources"}, "rank 1 on node7 runs another llmc-native"),
        (
            {"FAKE_SIZE": "2", "FAKE_OTHER": "family"},
            "rank 1 on node7 has a processor of the family abacus",
        ),
    ],
)
def test_the_others_may_not_fit(
    env: dict[str, str], words: str, native: Native, fake: Path
) -> None:
    done = run(native, {**PMI, "LLMC_MPI": str(fake), **env})
    assert words.format(fake=fake) in refused(done, 2)
    # Those who have joined leave by MPI_Abort, which ends the others with the same code.
    assert ("aborted with 2" in done.stdout) == (env["FAKE_SIZE"] != "1")


@pytest.mark.parametrize(
    ("function", "flags"),
    [
        ("Init_thread", {}),
        ("Allgather", {}),
        ("Bcast", {}),
        ("Alltoallv", {"floats": 8}),
    ],
)
def test_a_message_that_fails_ends_the_program(
    function: str, flags: dict[str, Any], native: Native, fake: Path
) -> None:
    env = {**PMI, "LLMC_MPI": str(fake), "FAKE_SIZE": "2", "FAKE_FAILS": function}
    assert f"MPI_{function} failed with code 13" in refused(run(native, env, **flags), 1)


def test_damaged_floats_are_noticed(native: Native, fake: Path) -> None:
    """Here those of rank 1 are rank 0's."""
    env = {**PMI, "LLMC_MPI": str(fake), "FAKE_SIZE": "2"}
    assert "float 0 of rank 1 arrived as 0" in refused(run(native, env, floats=8), 70)


def test_a_library_that_is_no_mpi_library_is_refused(native: Native, tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.so", "cannot open"), (tmp_path, "")):
        sentence = refused(run(native, {**PMI, "LLMC_MPI": str(path)}), 2)
        assert sentence.startswith(f"error: LLMC_MPI={path} cannot be used: ")
        assert words in sentence


def test_a_launcher_without_its_library_is_refused(native: Native, tmp_path: Path) -> None:
    # A user's PATH need not have the folder of ldconfig; macOS has none.
    ldconfig = shutil.which("ldconfig", path=f"{os.environ['PATH']}:/sbin:/usr/sbin") or "true"
    known = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
    if re.search(r"libmpi(ch|_abi)?\.(so\.)?1", known):
        pytest.skip("the system has an MPI library of its own")
    folder = tmp_path / "mpi"
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "bin" / "mpirun").touch()
    (folder / "lib" / "libmpi.so.12").write_bytes(b"no library")
    sentence = refused(run(native, {**PMI, "PATH": f"/nowhere:{folder / 'bin'}"}), 2)
    assert f"cannot be opened ({folder / 'lib' / 'libmpi.so.12'}: " in sentence
    assert sentence.endswith("name it: LLMC_MPI=/path/to/libmpi.so.12")


@pytest.mark.parametrize(("rank", "lines"), [(0, 1), (1, 0)])
def test_srun_without_mpi_is_refused_by_one_task(rank: int, lines: int, native: Native) -> None:
    done = run(native, {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": str(rank)})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == lines
    assert ("srun started 4 tasks without MPI" in done.stderr) == (rank == 0)


@pytest.mark.parametrize(
    "env",
    [{}, {"PMI_SIZE": "1", "PMI_RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "4"}],
)
def test_nothing_is_opened_for_a_process_alone(env: dict[str, str], native: Native) -> None:
    done = succeeded(run(native, {"LLMC_MPI": "/nowhere.so", **env}))
    assert "rank 0 of 1" in done.stdout and "alone: no launcher" in done.stdout


def test_more_ranks_than_can_be_are_refused_before_they_join(native: Native) -> None:
    env = {"PMI_SIZE": "300", "PMI_RANK": "0", "LLMC_MPI": "/nowhere.so"}
    assert "300 ranks are too many: at most 256" in refused(run(native, env), 2)
