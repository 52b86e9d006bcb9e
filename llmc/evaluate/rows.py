"""The engine predicts rows of tokens: its options, its events, and how fast it ran."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.engine.machine import available_cores
from llmc.engine.process import Engine
from llmc.report import Advance


@dataclass(frozen=True)
class EngineOptions:
    """How the engine computes. None leaves the choice to the engine.

    Attributes:
        batch_size: B, windows at a time. Default: about 1,024 tokens, if they fit.
        seq_len: T, tokens in a window. Default: the model's context.
        dtype: the type of the weights in linear layers: fp32, bf16 or int8.
        threads: threads. Default: one per core. The losses do not depend on it.
    """

    batch_size: int | None = None
    seq_len: int | None = None
    dtype: str = "fp32"
    threads: int | None = None

    def flags(self, checkpoint: Path) -> list[str]:
        """Return the engine's flags for a checkpoint."""
        flags = ["--model", str(checkpoint), "--dtype", self.dtype, "--events", "json"]
        flags += ["--threads", str(self.threads or available_cores())]
        flags += ["--batch-size", str(self.batch_size)] if self.batch_size is not None else []
        return flags + (["--seq-len", str(self.seq_len)] if self.seq_len is not None else [])


@dataclass(frozen=True)
class EngineRun:
    """How the engine ran.

    Attributes:
        batch_size: B, windows at a time.
        seq_len: T, tokens in a window.
        dtype: the type of the weights in linear layers.
        isa: the instruction set.
        threads: threads.
        memory_bytes: memory that was allocated.
        as_floats: True if bf16 was multiplied as floats, because the CPU has no bf16 instructions.
        seconds: elapsed time.
        tokens_per_second: predicted tokens over elapsed time.
    """

    batch_size: int
    seq_len: int
    dtype: str
    isa: str
    threads: int
    memory_bytes: int
    as_floats: bool
    seconds: float
    tokens_per_second: float


class RowEngine:
    """Runs the engine and counts the tokens it predicts.

    Attributes:
        total: tokens to predict.
        done: tokens predicted so far.
    """

    def __init__(self, total: int, advance: Advance) -> None:
        """Start the clock; ``advance`` is called with the tokens of each row."""
        self.total = total
        self.done = 0
        self._advance = advance
        self._started = time.monotonic()
        self._start: dict[str, Any] = {}

    @property
    def seq_len(self) -> int:
        """T, as the engine chose it; known after the first row."""
        return int(self._start["seq_len"])

    def rows(self, argv: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Run ``argv`` and yield its events about rows, in order.

        Raises:
            LlmcError: the engine failed or was interrupted.
        """
        with Engine(argv) as engine:
            for event in engine.events():
                if event["event"] == "start":
                    self._start = event
                    continue
                yield event
                self.done += len(event["losses"])
                self._advance(len(event["losses"]))

    def finished(self) -> EngineRun:
        """Return how the engine ran."""
        start, seconds = self._start, time.monotonic() - self._started
        return EngineRun(
            batch_size=start["batch_size"],
            seq_len=start["seq_len"],
            dtype=start["dtype"],
            isa=start["isa"],
            threads=start["threads"],
            memory_bytes=start["memory"],
            as_floats=start["dtype"] == "bf16" and not start["multiplies_bf16"],
            seconds=seconds,
            tokens_per_second=self.done / seconds,
        )
