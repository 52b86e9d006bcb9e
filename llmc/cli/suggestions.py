"""Which flag a wrong one probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

# What other programs call a flag of ours; where a word may mean several, the first is preferred.
SYNONYMS = {
    "batch-size": "batch",
    "config": "preset",
    "data": "dataset",
    "dtype": "compute-dtype precision",
    "epochs": "epoch num-epochs",
    "grad-clip": "clip gradient-clipping max-grad-norm",
    "lr": "learning-rate",
    "lr-final": "min-lr",
    "max-time": "time",
    "model": "checkpoint",
    "num-samples": "n",
    "optimizer": "optim",
    "optimizer-state": "optimizer-dtype",
    "out": "output",
    "prompt": "text",
    "decode": "text",
    "recompute": "gradient-checkpointing",
    "resume": "continue",
    "run": "name",
    "schedule": "lr-schedule lr-scheduler",
    "steps": "iterations iters max-iters max-steps num-steps",
    "temperature": "temp",
    "to": "format",
    "tokens": "length max-new-tokens max-tokens",
    "seq-len": "block-size context context-length length sequence-length",
    "val-every": "eval-every eval-interval",
    "warmup": "warmup-steps",
    "weight-decay": "wd",
    "workers": "jobs num-workers",
    "threads": "jobs num-threads num-workers",
}


def nearest_flag(typed: str, flags: Collection[str]) -> str | None:
    """Return the flag that ``typed`` probably meant: a synonym, the same beginning, or near."""
    word = typed.strip("-").replace("_", "-")
    for name, others in SYNONYMS.items():
        if word in others.split() and f"--{name}" in flags:
            return f"--{name}"
    begun = [flag for flag in flags if len(typed) > 3 and flag.startswith(typed)]
    words = {flag.strip("-"): flag for flag in flags}  # the dashes of two flags are always near
    near = difflib.get_close_matches(word, words, n=1)
    return next(iter(begun or map(words.__getitem__, near)), None)
