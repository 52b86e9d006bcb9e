"""Which flag a wrong one probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

# What other programs call a flag of ours, in the order of preference where several may be meant.
SYNONYMS = {
    "batch": ("batch-size",),
    "block-size": ("seq-len",),
    "checkpoint": ("model",),
    "clip": ("grad-clip",),
    "compute-dtype": ("dtype",),
    "context": ("seq-len",),
    "context-length": ("seq-len",),
    "continue": ("resume",),
    "dataset": ("data",),
    "epoch": ("epochs",),
    "eval-every": ("val-every",),
    "eval-interval": ("val-every",),
    "format": ("to",),
    "gradient-checkpointing": ("recompute",),
    "gradient-clipping": ("grad-clip",),
    "iterations": ("steps",),
    "iters": ("steps",),
    "jobs": ("workers", "threads"),
    "learning-rate": ("lr",),
    "length": ("tokens", "seq-len"),
    "lr-schedule": ("schedule",),
    "lr-scheduler": ("schedule",),
    "max-grad-norm": ("grad-clip",),
    "max-iters": ("steps",),
    "max-new-tokens": ("tokens",),
    "max-steps": ("steps",),
    "max-tokens": ("tokens",),
    "min-lr": ("lr-final",),
    "n": ("num-samples",),
    "name": ("run",),
    "num-epochs": ("epochs",),
    "num-steps": ("steps",),
    "num-threads": ("threads",),
    "num-workers": ("workers", "threads"),
    "optimizer-dtype": ("optimizer-state",),
    "output": ("out",),
    "precision": ("dtype",),
    "preset": ("config",),
    "sequence-length": ("seq-len",),
    "temp": ("temperature",),
    "text": ("prompt", "decode"),
    "time": ("max-time",),
    "warmup-steps": ("warmup",),
    "wd": ("weight-decay",),
}


def nearest_flag(typed: str, flags: Collection[str]) -> str | None:
    """Return the flag that ``typed`` probably meant: a synonym, the same beginning, or near."""
    for name in SYNONYMS.get(typed.strip("-").replace("_", "-"), ()):
        if f"--{name}" in flags:
            return f"--{name}"
    begun = [flag for flag in flags if len(typed) > 3 and flag.startswith(typed)]
    return next(iter(begun or difflib.get_close_matches(typed, flags, n=1)), None)
