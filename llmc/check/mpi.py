"""The check of the MPI on this machine, or of a cluster's: do ranks start and exchange messages?"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.engine.launcher import Launch
from llmc.engine.process import Engine
from llmc.errors import Interrupted, LlmcError, Usage
from llmc.units import megabytes

SECONDS, CLUSTER_SECONDS = 20.0, 120.0  # that two ranks here may take, and those of a cluster
TICK_SECONDS = 1.0
NAMES = ("mpirun", "mpiexec")


@dataclass(frozen=True)
class Answer:
    """What ranks told of themselves."""

    library: str  # the MPI library, and where it is
    ranks: list[dict[str, Any]]  # as ``llmc-native ranks --events json`` has them
    rate: float  # bytes a second that each sends

    @property
    def machines(self) -> list[str]:
        """Each machine in words: its ranks, the cores of each, what they are, their memory."""
        by_name: dict[str, list[Mapping[str, Any]]] = {}
        for rank in self.ranks:
            by_name.setdefault(rank["machine"], []).append(rank)
        return [_machine(name, found) for name, found in by_name.items()]

    @property
    def bound(self) -> int | None:
        """The cores of a machine on which each rank may use one, with others idle; None: none."""
        for rank in self.ranks:
            here = sum(each["machine"] == rank["machine"] for each in self.ranks)
            if rank["cores"] == 1 and rank["cores_there"] >= 2 * here:
                return int(rank["cores_there"])
        return None


def _machine(name: str, ranks: list[Mapping[str, Any]]) -> str:
    first = ranks[0]
    count = "1 rank" if len(ranks) == 1 else f"{len(ranks)} ranks"
    cores = f"{first['cores']} of {first['cores_there']} cores each"
    memory = f", {megabytes(first['memory'])} available" if first["memory"] is not None else ""
    return f"{name}: {count}, {cores}, {first['isa']}{memory}"


def local_launch() -> Launch | None:
    """Return how two ranks are started on this machine; None: there is no launcher."""
    found = next((path for name in NAMES if (path := shutil.which(name)) is not None), None)
    return Launch((found, "-n", "2")) if found is not None else None


def try_ranks(binary: Path, launch: Launch, seconds: float) -> Answer:
    """Start ranks, let them exchange messages, and return what they told.

    Raises:
        Interrupted: a signal ended it.
        LlmcError: they did not start, failed, or took more than so many seconds.
    """
    late = threading.Event()
    with Engine([str(binary), "ranks", "--events", "json"], launch=launch) as engine:

        def give_up() -> None:
            late.set()
            engine.stop(0)

        timer = threading.Timer(seconds, give_up)
        timer.start()
        try:
            events = [event for event in engine.watched_events(TICK_SECONDS) if event is not None]
        except Interrupted as error:
            if not late.is_set():
                raise
            said = f"; it said: {engine.stderr[-1]}" if engine.stderr else ""
            raise LlmcError(f"no answer from the ranks within {seconds:.0f} s{said}") from error
        finally:
            timer.cancel()
    found = [event for event in events if event.get("event") == "ranks" and event["library"]]
    if len(found) != 1:
        raise Usage(
            f"{launch.name} started {len(found) or 'no'} groups of ranks: it needs an MPI, and "
            "two ranks or more"
        )
    (told,) = found
    return Answer(told["library"], told["ranks"], told["exchange_bytes_per_second"])
