"""A run read back from its folder: settings, numbers, how it ended, what is wrong with its files.

No file is trusted, and a damaged one does not stop the reading: it is listed among the problems.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from llmc.config import MOST_STEPS, update_tokens
from llmc.errors import LlmcError, MissingOutput
from llmc.model import ModelConfig, parameter_count
from llmc.paths import CHECKPOINT, CONFIG, METRICS, RECORD, Workspace
from llmc.preset import read_toml
from llmc.train.folder import (
    is_running,
    last_written,
    newest_run,
    read_record,
    recency,
    similar_run,
)
from llmc.train.metrics import STATES, Metrics, Point, count, lowest
from llmc.train.mixture import joined_name
from llmc.train.resume import val_since
from llmc.weights.checkpoint import read_header
from llmc.weights.sources import run_weights


@dataclass(kw_only=True)
class RunHistory(Metrics):
    """One run: its numbers, and what else its folder tells."""

    name: str  # its folder's
    folder: Path
    # Tables as in config.toml; where run.json has them too, its own.
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    dataset: str | None = None  # what it trained on, if known
    parameters: int | None = None  # how many the model has, if known
    saved_step: int | None = None  # the step its checkpoint was saved at; None without a checkpoint
    # The step of the weights that sample, serve, eval and export-weights use.
    offered_step: int | None = None
    val_since: int = -1  # the step at which its validation became another one; -1: never
    running: bool = False  # a trainer holds the run
    updated: float = 0.0  # when it was last written to, in seconds since 1970; 0 if never
    recency: int = 0  # higher, the later it was written to; clocks may have been set back
    started: float = 0.0  # the same of its settings alone
    # What is wrong with its files, one sentence each.
    problems: list[str] = field(default_factory=list)

    def _setting(self, name: str) -> int | None:
        return count(self.settings.get("train", {}).get(name))

    @property
    def planned(self) -> int | None:
        """The steps it was to make, if known: its end says so, else steps and tokens asked for."""
        if self.end is not None and (steps := count(self.end.get("steps"))) is not None:
            return steps
        steps, tokens = self._setting("steps"), self._setting("max_tokens")
        if tokens and self.tokens_per_step:
            by_tokens = -(-tokens // self.tokens_per_step)
            steps = by_tokens if steps is None else min(steps, by_tokens)
        return steps if steps is not None and steps < MOST_STEPS else None

    @property
    def tokens_per_step(self) -> int | None:
        """How many tokens make one update, if known."""
        B, T = self._setting("batch_size"), self._setting("seq_len")
        total, shares = self._setting("total_batch_size") or 0, self._setting("shares") or 0
        return update_tokens(B or 0, T or 0, total, shares) or None

    @property
    def tokens(self) -> int | None:
        """How many tokens it has seen, those seen again included, if known."""
        return self.done * self.tokens_per_step if self.tokens_per_step else None

    @property
    def seconds(self) -> float:
        """Training time: the sum of all steps, without validation, samples and saving."""
        return self._elapsed[-1]

    @cached_property
    def _elapsed(self) -> list[float]:
        """The seconds that training had taken before each step, and after the last."""
        finite = [ms if math.isfinite(ms) else 0.0 for ms in self.measured["step_ms"]]
        return list(accumulate((ms / 1e3 for ms in finite), initial=0.0))

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens trained on over the training time; None if either is unknown."""
        if self.tokens_per_step is None or not self.seconds:
            return None
        return len(self.steps) * self.tokens_per_step / self.seconds

    @property
    def train_loss(self) -> float | None:
        """The training loss of the last step."""
        return self.measured["train_loss"][-1] if self.steps else None

    @property
    def val_loss(self) -> float | None:
        """The last validation loss."""
        return self.val[-1][1] if self.val else None

    @property
    def recent(self) -> int:
        """How many steps ``recent_loss`` is the mean of: a twentieth of all, 1 to 100."""
        return max(1, min(100, len(self.steps) // 20))

    @property
    def recent_loss(self) -> float | None:
        """The mean training loss of the last steps: one step's loss says little."""
        return statistics.fmean(self.measured["train_loss"][-self.recent :]) if self.steps else None

    @property
    def best_val(self) -> tuple[int, float] | None:
        """The (step, loss) of the lowest validation loss of those that can be compared."""
        return lowest(self.val, self.val_since)

    @property
    def state(self) -> str:
        """``broken``, ``running``, ``never saved``, or how it ended: one of ``STATES``.

        A run that was killed has not said how it ended: it was interrupted unless all was saved.
        """
        if self.problems:
            return "broken"
        if self.running:
            return "running"
        ended = STATES.get(self.end["reason"]) if self.end is not None else None
        if self.saved_step is None:
            return ended if ended == STATES["not-finite"] else "never saved"
        saved_all = self.planned is not None and self.saved_step >= self.planned
        return ended or STATES["steps" if saved_all else "interrupted"]

    def points(self, name: str) -> list[Point]:
        """Return (step, number) pairs of what was measured, those that are finite."""
        pairs = zip(self.steps, self.measured[name], strict=True)
        return [(step, number) for step, number in pairs if math.isfinite(number)]

    def seconds_before(self, steps: Sequence[float]) -> list[float]:
        """Return how long training had taken when it came to each of ``steps``."""
        return [self._elapsed[bisect_left(self.steps, step)] for step in steps]


def read_run(folder: Path) -> RunHistory:
    """Read all that a run's folder tells; what cannot be read is among the problems."""
    run = RunHistory(name=folder.name, folder=folder)
    if not folder.is_dir():
        run.problems.append(f"{folder} is not a folder")
        return run
    run.running = is_running(folder)
    run.updated, run.recency = last_written(folder) / 1e9, recency(folder)
    if (folder / CONFIG).exists():
        _read_settings(run)
    else:
        run.problems.append(f"it has no {CONFIG}")
    try:
        run.read(folder / METRICS)
    except FileNotFoundError:
        if not run.running and not (folder / CONFIG).exists():
            run.problems.append(f"it has no {METRICS}")
    except OSError as error:
        run.problems.append(f"cannot read {METRICS}: {error.strerror}")
    if run.problem is not None:
        run.problems.append(run.problem)
    if (folder / CHECKPOINT).exists():
        try:
            header = read_header(folder / CHECKPOINT)
            run.saved_step = header.step
            run.parameters = parameter_count(header.config)
            run.offered_step = read_header(run_weights(folder)).step
        except LlmcError as error:
            run.problems.append(str(error))
    return run


def all_runs(workspace: Workspace) -> list[RunHistory]:
    """Return every run of a workspace, by name."""
    paths = sorted(workspace.runs.glob("[!.]*"))
    return [read_run(path) for path in paths if path.is_dir() or path.is_symlink()]


def find_history(workspace: Workspace, name: str | None) -> RunHistory:
    """Return a run: by its name in the workspace, by a path, or the newest.

    Raises:
        MissingOutput: there is no such run, or nothing was measured in it.
    """
    if name is None:
        return read_run(newest_run(workspace, METRICS))
    folder = workspace.runs / name
    if not folder.is_dir() and Path(name).is_dir():
        folder = Path(name).resolve()
    if not (folder / METRICS).is_file():
        raise MissingOutput(
            f"there is no {workspace.shown(folder / METRICS)}: 'llmc runs' lists the runs there are"
            + similar_run(workspace, name)
        )
    return read_run(folder)


def _read_settings(run: RunHistory) -> None:
    """Read config.toml, and from run.json what the run trained on."""
    try:
        run.started = (run.folder / CONFIG).stat().st_mtime
        tables = read_toml(run.folder / CONFIG)
    except (OSError, LlmcError) as error:
        run.problems.append(str(error))
        return
    run.settings = {name: table for name, table in tables.items() if isinstance(table, dict)}
    model = run.settings.get("model", {})
    names = [item.name for item in fields(ModelConfig)]
    shape = {name: size for name in names if (size := count(model.get(name))) is not None}
    if len(shape) == len(names):
        try:
            run.parameters = parameter_count(ModelConfig(**shape))
        except LlmcError as error:
            run.problems.append(f"{CONFIG}: {error}")
    try:
        record = read_record(run.folder)
        data, own = record.get("data"), record.get("settings")
        run.started = (run.folder / RECORD).stat().st_mtime
    except (FileNotFoundError, TypeError):
        return
    except (OSError, ValueError) as error:
        run.problems.append(f"cannot read {RECORD}: {' '.join(str(error).split())}")
        return
    with suppress(KeyError, TypeError, ValueError, AttributeError):  # broken: --resume says so
        run.val_since = val_since(record)
    if isinstance(own, dict):
        run.settings |= {name: table for name, table in own.items() if isinstance(table, dict)}
    places = [data] if isinstance(data, str) else data if isinstance(data, list) else []
    paths = [each.get("path") if isinstance(each, dict) else each for each in places]
    names = [_dataset(Path(path)) for path in paths if isinstance(path, str) and path]
    run.dataset = joined_name(names) if names else None


def _dataset(path: Path) -> str:
    return path.parent.name if path.stem in ("train", "val") else path.stem
