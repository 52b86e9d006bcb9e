"""A watch on several ranks: a launcher that starts none, a machine that no longer answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from llmc.train.metrics import Event
from llmc.units import duration

LEAST_SECONDS = 60.0
STEPS = 20  # median steps that may pass without a word
LATER = 30.0  # seconds that rank 0 has to say more exactly what it waits for
TICK_SECONDS = 5.0  # between two looks


@dataclass
class Silence:
    """Tells when the engine has said nothing for long, once for each silence."""

    launcher: str  # its name
    clock: Callable[[], float] = time.monotonic
    step: int | None = None  # the last one; None: training has not begun
    told: bool = False
    last_ms: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS))

    def __post_init__(self) -> None:
        self.since = self.clock()
        self.started = False

    def hear(self, event: Event) -> None:
        """Take in an event: the silence is over. After the engine's own note there is no second."""
        self.since, self.started = self.clock(), True
        self.told = event.get("event") == "note"
        if "train_loss" in event:
            self.step = event["step"]
            self.last_ms.append(event["step_ms"])

    def look(self) -> str | None:
        """Return what to say of the silence, or None."""
        most = LEAST_SECONDS
        if self.started:
            most = max(most, STEPS * median(self.last_ms or [0.0]) / 1e3) + LATER
        silent = self.clock() - self.since
        if self.told or silent < most:
            return None
        self.told = True
        if not self.started:
            return (
                f"{self.launcher} has started no engine for {duration(silent)}: it may wait for a "
                "machine, or for ssh to log in there; Ctrl-C ends it"
            )
        where = f" after step {self.step:,}" if self.step is not None else ""
        return (
            f"no word from the ranks for {duration(silent)}{where}: a machine or the network may "
            "be down. Ctrl-C twice ends all of them, and 'llmc train --resume' continues from the "
            "newest checkpoint"
        )
