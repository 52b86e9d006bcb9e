"""Why a run ended, in words, and the flags with which it would continue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmc.config import MOST_STEPS, TrainConfig
from llmc.units import seconds_of, typed_time

# The engine's reasons (native/train/stopping.c), and how `llmc runs` shows them.
STATES = {
    "steps": "finished",
    "tokens": "finished",
    "epochs": "finished",
    "time": "finished",
    "early-stop": "stopped early",
    "interrupted": "interrupted",
    "not-finite": "not finite",
}


def ending(end: Mapping[str, Any], settings: TrainConfig) -> str:
    """Return why a run has ended, as half a sentence."""
    reasons = {
        "steps": f"it made its {end['step']:,} steps",
        "tokens": f"it trained on {settings.max_tokens:,} tokens (--max-tokens), "
        f"in {end['step']:,} steps",
        "epochs": f"it trained on all windows {_times(settings.epochs)} (--epochs), "
        f"in {end['step']:,} steps",
        "time": f"it trained for {settings.max_time} (--max-time), {end['step']:,} steps",
        "early-stop": f"{_validations(settings.patience)} without improvement (--patience), "
        f"after {end['step']:,} steps",
        "interrupted": f"it was interrupted after {end['step']:,} steps",
        "not-finite": f"its loss was not finite at step {end['step']:,}",
    }
    return reasons.get(end["reason"], f"for the reason '{end['reason']}'")


def further(end: Mapping[str, Any], settings: TrainConfig) -> list[str]:
    """Return the flags with which ``llmc train --resume`` would continue an ended run.

    Empty if no flag helps: after an interrupt none is needed, and a loss that is not finite would
    come again.
    """
    made = int(end["step"])
    if end["reason"] == "time":
        return ["--max-time", typed_time(2 * seconds_of(settings.max_time))]
    if end["reason"] == "early-stop":
        return ["--patience", str(2 * settings.patience)]
    if end["reason"] == "tokens":
        return ["--max-tokens", str(2 * settings.max_tokens)]
    if end["reason"] == "epochs":
        return ["--epochs", str(settings.epochs + 1)]
    if end["reason"] == "steps":
        return ["--steps", str(min(max(2 * made, 1), MOST_STEPS))]
    return []


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _validations(number: int) -> str:
    return "a validation" if number == 1 else f"{number:,} validations"
