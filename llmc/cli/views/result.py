"""The result of a training run, for ``llmc train --json``."""

from __future__ import annotations

from typing import Any

from llmc.train.loop import TrainResult
from llmc.train.metrics import Progress
from llmc.train.ranks import ranks_in


def rank_fields(progress: Progress) -> dict[str, Any]:
    """Return what is known of several ranks; nothing of one process."""
    ranks = ranks_in(progress.start)
    if not ranks:
        return {}
    start = progress.start
    return {
        "ranks": ranks,
        "mpi": start.get("mpi"),
        "shares": start.get("shares"),
        "share_of_messages": progress.share_of_messages,
    }


def result_fields(result: TrainResult) -> dict[str, Any]:
    """Return a run's result, for ``--json``."""
    progress, checkpoint = result.progress, result.checkpoint
    return {
        "run": result.folder.name,
        "folder": str(result.folder),
        "steps": result.steps,
        "ended": result.reason,
        "skipped_updates": progress.skipped,
        "seconds": progress.seconds,
        "train_loss": result.train_loss,
        "val_loss": result.val_loss,
        "val_error": result.val_error,
        "val_bpb": result.bits_per_byte,
        "val_bpb_error": result.bits_error,
        **({"val_parts": result.val_parts} if result.val_parts else {}),
        "tokens_per_second": progress.tokens_per_second,
        "memory_bytes": progress.start.get("memory"),
        **{name: progress.start.get(name) for name in ("isa", "dtype", "threads")},
        **rank_fields(progress),
        "checkpoint": str(checkpoint) if checkpoint is not None else None,
        "metrics": str(result.metrics),
        "offered": str(result.offered) if result.offered is not None else None,
        "offered_step": result.offered_step,
    }
