"""Train on several "machines" on this one: ``make test-hosts``; it needs root.

A machine is a network namespace with an address and a host name of its own. A bridge joins them,
and each sends one gigabit a second at most (``tc``'s token bucket filter). ``mpirun`` reaches them
by a program that it takes for ssh. What a run over them ends with must be what one process ends
with: as it is; after its cable was pulled for some seconds, or for so long that it was given up
and resumed; after one rank was stopped (SIGSTOP) for a while; with a full disk at rank 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.helpers.engine import Flags, Native, build, environment, succeeded
from tests.helpers.mpi import NAMES, Launcher, launcher
from tests.programs.engine_ends import small_disk
from tests.programs.torture import ending, settings
from tests.programs.trials import engines, steps_told, wait_for_steps

BRIDGE, HOST, LINK = "llmcbridge", "llmc-h", "llmcv"  # names that nobody else has
NETWORK = "10.77.0"
SECONDS = 240
INSIDE = """\
#!/bin/sh
# HOST COMMAND…: the command on that machine
host=$1; shift
exec ip netns exec "$host" unshare --uts sh -c 'hostname "$0"; exec "$@"' "$host" "$@"
"""
SSH = """\
#!/bin/sh
# what mpirun takes for ssh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1; shift
exec INSIDE "$host" sh -c "$*"
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Hosts:
    """Machines, while they are there: their names, and how to start a program on one."""

    def __init__(self, folder: Path, count: int) -> None:
        self.names = [f"{HOST}{number}" for number in range(1, count + 1)]
        self.inside, self.ssh = folder / "inside", folder / "ssh"
        self.inside.write_text(INSIDE)
        self.ssh.write_text(SSH.replace("INSIDE", str(self.inside)))
        for program in (self.inside, self.ssh):
            program.chmod(0o755)

    def up(self, rate: str) -> None:
        """Make the machines and the network."""
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("link", "set", BRIDGE, "up")
        table = "".join(f"{NETWORK}.{n} {name}\n" for n, name in enumerate(self.names, 1))
        for n, name in enumerate(self.names, 1):
            ip("netns", "add", name)
            ip(*f"link add {LINK}{n} type veth peer name eth0 netns {name}".split())
            ip("link", "set", f"{LINK}{n}", "master", BRIDGE, "up")
            ip("-n", name, "addr", "add", f"{NETWORK}.{n}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                ip("-n", name, "link", "set", device, "up")
            shape = f"tc qdisc add dev eth0 root tbf rate {rate} burst 1mb latency 50ms"
            ip("netns", "exec", name, *shape.split())
            own = Path("/etc/netns") / name
            own.mkdir(parents=True)
            (own / "hosts").write_text(f"127.0.0.1 localhost\n{table}")

    def down(self) -> None:
        """Take away whatever is there of them."""
        links = [f"{LINK}{number}" for number in range(1, len(self.names) + 1)]
        for link in (*links, BRIDGE):
            subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)
        with suppress(OSError):
            for name in self.names:
                self.end_all(name)
                subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
                shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
            Path("/etc/netns").rmdir()

    def end_all(self, name: str) -> None:
        """Kill what works on a machine."""
        argv = ["ip", "netns", "pids", name]
        found = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        for pid in found.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def cable(self, number: int, state: str) -> None:
        """Pull the cable of a machine ("down"), or put it back ("up")."""
        ip("link", "set", f"{LINK}{number}", state)

    def launch(self, front: Launcher, count: int) -> list[str]:
        """Return what starts a rank on each of the first ``count`` machines."""
        hosts = ",".join(self.names[:count])
        words = ["-launcher-exec", str(self.ssh), "-hosts", hosts, "-ppn", "1"]
        if front.name != "MPICH":
            words = ["--prtemca", "plm_ssh_agent", str(self.ssh), "--host", hosts]
        mpirun, *options = front.argv
        return [str(self.inside), self.names[0], mpirun, *words, *options]


@contextmanager
def hosts_up(count: int, rate: str) -> Iterator[Hosts]:
    with tempfile.TemporaryDirectory() as name:
        hosts = Hosts(Path(name), count)
        hosts.down()
        try:
            hosts.up(rate)
            yield hosts
        finally:
            hosts.down()


class Trials:
    """An undisturbed run of one process, and runs over machines that must end like it."""

    def __init__(self, native: Native, folder: Path, hosts: Hosts, mpi: str) -> None:
        self.native, self.folder, self.hosts, self.mpi = native, folder, hosts, mpi
        self.said = folder / "said"  # the last run's stderr
        self.flags: Flags = {**settings(folder, 160), "shares": 4, "threads": 1}
        succeeded(native("train", out=folder / "calm", **self.flags))
        self.calm = ending(folder / "calm")

    @contextmanager
    def started(self, out: Path, *, count: int = 2) -> Iterator[subprocess.Popen[bytes]]:
        """Start the run over machines, or go on with it."""
        front = launcher(self.mpi, count)
        if front is None:
            raise SystemExit(f"{self.mpi} is not here: 'make setup-dev' installs its wheel")
        argv = self.native.argv("train", out=out, resume=1, **self.flags)
        # Namespaces share memory; two machines do not.
        network = {"UCX_TLS": "tcp,self", "OMPI_MCA_btl": "tcp,self"}
        # Not a pipe: what is left on a machine that nobody reaches would keep it open.
        with (
            self.said.open("wb") as said,
            subprocess.Popen(
                [*self.hosts.launch(front, count), *argv],
                env=environment(env={**front.env, **network}),
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                for name in self.hosts.names:
                    self.hosts.end_all(name)

    def finished(self, process: subprocess.Popen[bytes], out: Path) -> str:
        """Wait for the end, compare, delete the run; return what was said.

        Raises:
            AssertionError: it failed, or does not end like the undisturbed one.
        """
        process.wait(SECONDS)
        said = self.said.read_text()
        assert process.returncode == 0, (process.returncode, said)
        assert ending(out) == self.calm
        shutil.rmtree(out)
        return said

    def same_bits(self, count: int) -> None:
        """Train over so many machines."""
        out = self.folder / "spread"
        with self.started(out, count=count) as process:
            self.finished(process, out)

    def short_cut(self) -> None:
        """Pull the cable for some seconds: TCP sends again what was lost."""
        out = self.folder / "cut"
        with self.started(out) as process:
            wait_for_steps(out, 20, None)
            self.hosts.cable(2, "down")
            time.sleep(1)
            told = steps_told(out)
            time.sleep(4)
            assert steps_told(out) <= told + 1, "it went on without a network"
            self.hosts.cable(2, "up")
            self.finished(process, out)

    def long_cut(self, patience: float) -> str:
        """Pull the cable for good; return what is said. End the run by Ctrl-C, and resume it."""
        out = self.folder / "cut"
        with self.started(out) as process:
            wait_for_steps(out, 20, None)
            self.hosts.cable(2, "down")
            time.sleep(patience)
            assert process.poll() is None
            wishes, began = 0, time.monotonic()
            while process.poll() is None and wishes < 3:
                process.send_signal(signal.SIGINT)
                wishes += 1
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
            seconds = time.monotonic() - began
            print(f"Ctrl-C {wishes} times: code {process.poll()} after {seconds:.1f} s", flush=True)
            time.sleep(5)
            print(f"5 s later {len(engines(out))} of 2 ranks are there", flush=True)
            self.hosts.cable(2, "up")
            time.sleep(30)
            print(f"30 s after the cable is back {len(engines(out))} are there", flush=True)
            said = self.said.read_text()
        with self.started(out) as process:
            self.finished(process, out)
        return said

    def stopped(self, patience: float) -> str:
        """Stop the second rank for a while; return what is said."""
        out = self.folder / "stopped"
        with self.started(out) as process:
            wait_for_steps(out, 20, None)
            one = max(engines(out))
            os.kill(one, signal.SIGSTOP)
            time.sleep(1)
            told = steps_told(out)
            time.sleep(patience)
            assert steps_told(out) <= told + 1, "it went on without a rank"
            os.kill(one, signal.SIGCONT)
            return self.finished(process, out)

    def full_disk(self) -> str:
        """Fill the disk of rank 0 for some seconds; return what is said."""
        place = self.folder / "disk"
        place.mkdir()
        with small_disk(place, 100 << 20):
            out, filler = place / "run", place / "filler"
            with self.started(out) as process:
                wait_for_steps(out, 20, None)
                with suppress(OSError):
                    filler.write_bytes(bytes(100 << 20))
                time.sleep(5)
                assert process.poll() is None
                filler.unlink()
                return self.finished(process, out)


def main() -> None:
    """Try everything, and say how it ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mpi", choices=NAMES, default=NAMES[0])
    parser.add_argument("--rate", default="1gbit", help="of each machine's network (1gbit)")
    parser.add_argument("--patience", type=float, default=70, help="seconds of a long silence")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("tc") is None:
        raise SystemExit("this needs root, and the programs ip and tc (iproute2)")
    began = time.monotonic()
    with hosts_up(3, options.rate) as hosts, tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        if "LLMC_TEST_ENGINES" in os.environ:
            cache.mkdir()
            (cache / "native").symlink_to(os.environ["LLMC_TEST_ENGINES"])
        trials = Trials(build(cache), Path(name), hosts, options.mpi)
        for count in (2, 3):
            trials.same_bits(count)
            print(f"{count} machines: the same bits as one process", flush=True)
        trials.short_cut()
        print("a cable pulled for 5 seconds: the same bits", flush=True)
        trials.stopped(5)
        print("a rank stopped for 5 seconds: the same bits", flush=True)
        said = trials.stopped(options.patience)
        print(f"a rank stopped for {options.patience:g} seconds: the same bits\n{said}", flush=True)
        said = trials.long_cut(options.patience)
        print(f"a cable pulled for good: the same bits once resumed\n{said}", flush=True)
        print(f"a full disk at rank 0: the same bits\n{trials.full_disk()}", flush=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
