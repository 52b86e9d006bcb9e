"""The numbers of a run in progress, collected from the engine's events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmc.train.metrics import Event, Metrics


@dataclass
class Progress:
    """The numbers of a run so far.

    Attributes:
        steps: the number to make; None if only time or patience ends the run.
        run: the run's name.
        tokens_per_step: tokens in one update.
        flops_per_token: floating-point operations that training takes for a token; 0: unknown.
        max_seconds: the limit of the training time, over all resumes; 0: none.
        train: (step, training loss) pairs.
        val: (step, validation loss) pairs.
        start: the engine's first event: parameters, isa, threads, memory in bytes.
        last: the newest event about a training step.
        seconds: training time: the sum of all steps, without validation, samples and saving.
        sample: the newest sample, as text.
        saved_step: the step of the newest checkpoint, if any.
        before: training steps made before the run was resumed.
        skipped: steps whose update was skipped as an outlier.
        end: the engine's last event: why the run ended.
    """

    steps: int | None
    run: str = ""
    tokens_per_step: int = 0
    flops_per_token: float = 0.0
    max_seconds: float = 0.0
    train: list[tuple[float, float]] = field(default_factory=list)
    val: list[tuple[float, float]] = field(default_factory=list)
    start: Event = field(default_factory=dict)
    last: Event = field(default_factory=dict)
    seconds: float = 0.0
    sample: str = ""
    saved_step: int | None = None
    before: int = 0
    skipped: int = 0
    end: Event = field(default_factory=dict)

    def resume(self, earlier: Metrics, step: int) -> None:
        """Take in what a run recorded before ``step``, from which it is resumed."""
        for event in [*earlier.train, *earlier.skipped, *earlier.val]:
            # A step's validation comes before its checkpoint, its training after it.
            if event["step"] < step + ("val_loss" in event):
                self.add(event, lambda _ids: "")
        self.before = len(self.train)

    def add(self, event: Event, detokenize: Callable[[Sequence[int]], str]) -> None:
        """Take in one event; ``detokenize`` turns the ids of a sample into text."""
        if "train_loss" in event:
            self.train.append((event["step"], event["train_loss"]))
            self.last = event
            self.seconds += event["step_ms"] / 1e3
        elif "val_loss" in event:
            self.val.append((event["step"], event["val_loss"]))
        elif event["event"] == "start":
            self.start = event
            self.steps = event["steps"]
        elif event["event"] == "sample":
            self.sample = detokenize(event["tokens"])
        elif event["event"] == "saved":
            self.saved_step = event["step"]
        elif event["event"] == "skipped":
            self.skipped += 1
        elif event["event"] == "end":
            self.end = event

    @property
    def done(self) -> int:
        """The number of updates made, those before a resume included."""
        return int(self.last["step"]) + 1 if self.last else 0

    @property
    def seconds_before(self) -> float:
        """The time counted towards ``max_seconds`` before the run was resumed, in seconds."""
        return float(self.start.get("seconds", 0))

    @property
    def tokens_per_second(self) -> float:
        """Tokens trained on over the training time; 0 before the first step."""
        tokens = len(self.train) * self.tokens_per_step
        return tokens / self.seconds if self.seconds else 0.0
