"""The engine predicts rows of tokens: its options, its events, and how fast it ran."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.engine.build import ensure_native
from llmc.engine.machine import default_threads
from llmc.engine.process import Engine
from llmc.errors import Usage
from llmc.report import Advance, Report


@dataclass(frozen=True)
class EngineOptions:
    """How the engine computes. None leaves the choice to the engine.

    Raises:
        Usage: a number is less than 1.
    """

    batch_size: int | None = None  # B, windows at a time; default: about 1,024 tokens, if they fit
    seq_len: int | None = None  # T, tokens in a window; default: the model's context
    dtype: str = "fp32"  # of the weights in linear layers: fp32, bf16 or int8
    threads: int | None = None  # default: one per physical core; the losses do not depend on it

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise Usage(f"{name} must be at least 1, not {value}")

    def flags(self, checkpoint: Path) -> list[str]:
        """Return the engine's flags for a checkpoint."""
        flags = ["--model", str(checkpoint), "--dtype", self.dtype, "--events", "json"]
        flags += ["--threads", str(self.threads or default_threads())]
        flags += ["--batch-size", str(self.batch_size)] if self.batch_size is not None else []
        return flags + (["--seq-len", str(self.seq_len)] if self.seq_len is not None else [])


@dataclass(frozen=True)
class EngineRun:
    """How the engine ran."""

    batch_size: int  # B, windows at a time
    seq_len: int  # T, tokens in a window
    dtype: str  # of the weights in linear layers
    isa: str  # the instruction set
    threads: int
    memory_bytes: int  # that were allocated
    as_floats: bool  # bf16 was multiplied as floats: the CPU has no bf16 instructions
    seconds: float  # elapsed
    tokens_per_second: float  # predicted tokens over elapsed time


class RowEngine:
    """Runs ``llmc-native eval`` on a checkpoint and counts the tokens it predicts."""

    def __init__(self, checkpoint: Path, options: EngineOptions, report: Report) -> None:
        self.done = 0  # tokens predicted so far
        self._program = [str(ensure_native(report=report)), "eval", *options.flags(checkpoint)]
        self._started = time.monotonic()
        self._start: dict[str, Any] = {}

    @property
    def seq_len(self) -> int:
        """T, as the engine chose it; known after the first row."""
        return int(self._start["seq_len"])

    def rows(self, *flags: str, advance: Advance) -> Iterator[dict[str, Any]]:
        """Run the engine with ``flags`` and yield its events about rows, in order.

        ``advance`` is called with the tokens of each row.

        Raises:
            LlmcError: the engine failed or was interrupted.
        """
        with Engine([*self._program, *flags]) as engine:
            for event in engine.events():
                if event["event"] == "start":
                    self._start = event
                    continue
                yield event
                self.done += len(event["losses"])
                advance(len(event["losses"]))

    def finished(self) -> EngineRun:
        """Return how the engine ran."""
        start, seconds = self._start, time.monotonic() - self._started
        same = ("batch_size", "seq_len", "dtype", "isa", "threads")
        return EngineRun(
            **{name: start[name] for name in same},
            memory_bytes=start["memory"],
            as_floats=start["dtype"] == "bf16" and not start["multiplies_bf16"],
            seconds=seconds,
            tokens_per_second=self.done / seconds,
        )
