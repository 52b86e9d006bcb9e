"""The ranks that train a run, as the engine's first event tells of them; one process has none."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmc.addresses import without_secrets
from llmc.config import TrainConfig
from llmc.engine.launcher import Launch, this_rank
from llmc.engine.process import Engine
from llmc.errors import Usage

Start = Mapping[str, Any]  # the engine's first event
TENTH = 0.1  # of a step


def ranks_in(start: Start) -> list[dict[str, Any]]:
    """Return what each rank said of itself, in their order; empty for one process."""
    return list(start.get("ranks") or ())


def machines_in(start: Start) -> dict[str, int]:
    """Return the machines in the order of their ranks, and how many ranks each has."""
    return dict(Counter(str(rank["machine"]) for rank in ranks_in(start)))


def threads_in(start: Start) -> int:
    """Return the threads of all ranks together."""
    return sum(int(rank["threads"]) for rank in ranks_in(start)) or int(start["threads"])


def shown_ranks(start: Start) -> str | None:
    """Return ``4 ranks on 2 machines``; None for one process."""
    count, machines = len(ranks_in(start)), len(machines_in(start))
    if not count:
        return None
    return f"{count:,} ranks on {f'{machines:,} machines' if machines > 1 else 'one machine'}"


def with_shares(settings: TrainConfig, start: Start) -> TrainConfig:
    """Return settings with the shares and the tokens of an update that the engine has found.

    One process that was given no shares keeps 0, which means as many as there are ranks.
    """
    shares, tokens = start.get("shares", 1), start.get("update_tokens", settings.tokens_per_step)
    found = replace(settings, shares=shares) if shares > 1 or settings.shares else settings
    return found if found.tokens_per_step == tokens else replace(found, total_batch_size=tokens)


def recorded_ranks(start: Start, launch: Launch) -> dict[str, Any]:
    """Return what a run's record holds of a start that the engine has made."""
    command = without_secrets(shlex.join(launch.command)) if launch.command else None
    ranks = len(ranks_in(start))
    return {
        "isa": start["isa"],
        "threads": threads_in(start),
        "processes": ranks or 1,
        "shares": start.get("shares", 1),
        "machines": machines_in(start),
        "mpi": start.get("mpi"),
        "launch": command if ranks else None,
    }


def counted(binary: Callable[[], Path], launch: Launch) -> int:
    """Return how many engines a launch starts; each prints a line.

    Raises:
        LlmcError: the launcher failed.
    """
    if launch.joins:
        rank = this_rank()
        return max(rank.of, 1) if rank is not None else 1
    if not launch.command:
        return 1
    with Engine([str(binary()), "memory"], launch=launch) as engine:
        found = sum(event is not None for event in engine.watched_events(1.0))
    if not found:
        raise Usage(f"{launch.name} started no engine: does it start a program by its path?")
    return found


def tokens_for_tenth(settings: TrainConfig, step_ms: float, exchange_ms: float) -> int:
    """Return the tokens in an update of which messages take a tenth of the time.

    Messages take as long for any number of batches in an update, and computing grows with it.
    """
    per_token = max(step_ms - exchange_ms, 1e-9) / settings.tokens_per_step
    batch = max(settings.shares, 1) * settings.batch_size * settings.seq_len
    needed = exchange_ms * (1 - TENTH) / TENTH / per_token
    return max(-(-int(needed) // batch), 1) * batch


def memory_of(start: Start) -> int:
    """Return the bytes that a run takes: of several ranks, those of the one that takes most."""
    return max(map(int, [start.get("memory", 0), *(rank["memory"] for rank in ranks_in(start))]))
