"""Whether a learning-rate schedule reaches its end before ``--max-time`` ends the run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from llmc.config import TrainConfig
from llmc.train.metrics import Event, Progress
from llmc.units import seconds_of

LOOK = 20  # steps to time before anything is said
TRIAL_SECONDS = 5.0  # in which the engine has found its number of threads
SURE = 0.9  # a part of the schedule; what is nearer may be chance


def late(settings: TrainConfig, steps: int | None, fits: float) -> str | None:
    """Return what to say of a schedule that ``--max-time`` cuts off, or None.

    Args:
        settings: the run's.
        steps: the steps that the schedule was made for; None: only the time ends the run.
        fits: the steps for which there is time.
    """
    if not seconds_of(settings.max_time):
        return None
    ends = f"--max-time {settings.max_time} ends the run at about step {fits:,.0f}"
    if fits < settings.warmup:
        return f"{ends}, within the {settings.warmup:,} steps of --warmup: use a smaller --warmup"
    # A wsd schedule ends when the time does.
    if settings.schedule in ("constant", "wsd") or steps is None or fits >= SURE * steps:
        return None
    power = 10 ** max(len(str(int(fits))) - 2, 0)
    return (
        f"{ends} of {steps:,}, before the rate of --schedule {settings.schedule} has reached its "
        f"end: use --steps {max(int(fits) // power * power, 1)}, or a longer --max-time"
    )


@dataclass
class Watch:
    """Times the first steps of a run, or of a resumed one."""

    settings: TrainConfig
    wait: float = 0.0  # seconds of training before it says anything: the engine tries threads
    spent: float = 0.0  # seconds of training
    last_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LOOK))
    looked: bool = False

    def take(self, event: Event, progress: Progress) -> str | None:
        """Take in an event; return what to say of the schedule: that it is cut off, or its plan."""
        if event.get("event") == "planned":
            return (
                f"--max-time {self.settings.max_time} is enough for {event['steps']:,} steps: the "
                f"learning rate decays from step {event['step']:,} on. --steps {event['steps']} "
                "--max-time 0 repeats the run"
            )
        if "train_loss" not in event or self.looked:
            return None
        self.last_ms.append(event["step_ms"])
        self.spent += event["step_ms"] / 1e3
        if len(self.last_ms) < LOOK or self.spent < self.wait:
            return None
        self.looked = True
        left = seconds_of(self.settings.max_time) - progress.seconds_before - self.spent
        fits = progress.done + max(left, 0) * 1e3 / max(median(self.last_ms), 1e-6)
        return late(self.settings, progress.steps, fits)
