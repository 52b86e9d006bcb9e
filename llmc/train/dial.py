"""The dial: from a text and a time to a recipe, for ``llmc train --for TIME``.

The shape of a new model, and how it is trained, follow from the number of tokens that this machine
can train on in the time, which is measured, and from how many of them are different. What was
chosen is an ordinary preset. The rule itself is :mod:`llmc.train.recipe`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from llmc.config import DEFAULT_BUDGET, SampleConfig, TrainConfig
from llmc.engine.build import ensure_native
from llmc.engine.launcher import ALONE, Launch
from llmc.engine.machine import available_cpus, other_load
from llmc.errors import Usage
from llmc.model import DIMENSIONS, ModelConfig, flops_per_token, parameter_count
from llmc.paths import Workspace, expanded
from llmc.preset import Preset
from llmc.report import SILENT, Report
from llmc.setting import overridden
from llmc.tokens.files import has_mask
from llmc.tokens.prepared import awaits_model, prepared_model
from llmc.tokens.windows import count_windows
from llmc.train import recipe
from llmc.train.dry_run import dry_run
from llmc.train.mixture import named
from llmc.train.plan import Inputs
from llmc.train.ranks import counted
from llmc.train.start import Data, find_data
from llmc.units import duration, seconds_of, short
from llmc.weights.checkpoint import is_trained, read_header
from llmc.weights.export import write_random

ENDS = ("steps", "max_time", "max_tokens", "epochs")
# Operations a second of one thread, until the machine's own are measured.
NOMINAL_RATE = 3e10
# A small model writes better where it is surer.
SAMPLE = SampleConfig(tokens=200, temperature=0.7, top_k=40)
SPARE = 0.5  # where the usual passes take less of the time, there is time to spare
USED = 0.95  # of the time; the rest is for loading, and for a speed that was measured too high
CLOSE = 0.02  # nats by which a smaller model may be worse, and still be the choice
MOST_MEASURED = 6  # shapes that are measured, at about two seconds each
FASTER = 1.1  # by which bf16 has to be faster than fp32 to be chosen


@dataclass(frozen=True)
class Candidate:
    """A shape that the time allows to train."""

    shape: ModelConfig
    tokens: float  # that it is trained on in the time
    passes: float  # over the text
    loss: float  # expected: recipe.expected_loss
    rate: float  # tokens a second
    measured: bool  # the rate is, on this machine; else it follows from the operations

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return parameter_count(self.shape)


@dataclass(frozen=True)
class Choice:
    """What the dial chose, and what it did not."""

    inputs: Inputs  # with the preset and the weights to start from
    budget: str  # the time, as it was given
    chosen: Candidate | None = None  # None: the weights or the preset were given
    others: tuple[Candidate, ...] = ()  # all that were compared, the smallest first
    doubled: Candidate | None = None  # the best in twice the time


def budget_of(workspace: Workspace, inputs: Inputs, given: Mapping[str, Any]) -> str | None:
    """Return the time for data that was prepared without a model; None: nothing is to be chosen.

    Raises:
        BadData: what it was prepared with cannot be read.
    """
    if inputs.model is not None or inputs.config is not None:
        return None
    texts = named(workspace, inputs.data)
    folders = [text.path for text in texts] if texts else [workspace.newest_dataset()]
    if not all(folder.is_dir() and awaits_model(folder) for folder in folders):
        return None
    return None if any(given.get(end) is not None for end in ENDS) else DEFAULT_BUDGET


def choose(
    workspace: Workspace,
    budget: str,
    given: Mapping[str, Any],
    inputs: Inputs,
    *,
    models: Path | None = None,
    threads: int | None = None,
    launch: Launch = ALONE,
    report: Report = SILENT,
) -> Choice:
    """Choose a recipe for a text and a time; a random model of its shape is written.

    Args:
        workspace: where data and models are.
        budget: the time, such as ``30m``.
        given: training settings by name, which win over what is chosen.
        inputs: the data; a model or a preset, if the shape is not to be chosen.
        models: the folder for the random model. Default: the workspace's.
        threads: as of :func:`llmc.train.loop.train`.
        launch: likewise; every trial starts all ranks.
        report: takes what was chosen, and why.

    Raises:
        Usage: the time is none, or a setting ends the run otherwise.
        LlmcError: the data is missing or damaged, or the engine failed.
    """
    if seconds_of(budget) <= 0:
        raise Usage("--for takes a time above 0, such as 30m")
    for end in ENDS:
        if given.get(end) is not None:
            raise Usage(f"--for and --{end.replace('_', '-')} both say when the run ends: give one")
    if inputs.config is not None:
        return Choice(replace(inputs, config=_timed(inputs.preset, budget)), budget)
    data = find_data(workspace, named(workspace, inputs.data), named(workspace, inputs.val_data))
    ranks = counted(partial(ensure_native, report=report), launch)
    trial = _Trial(workspace, data, given, inputs, budget, threads, launch, ranks)
    found = trial.best()
    preset = Preset(
        recipe.NAME,
        names_seq_len=True,
        named_shape=DIMENSIONS,
        model=found.shape,
        train=trial.settings(found),
        sample=SAMPLE,
    )
    model = trial.fixed
    if model is None:
        shape = found.shape  # all of it names the file: an earlier run may start from another
        name = f"{data.name}-{shape.layers}x{shape.channels}-context{shape.context}.bin"
        model = (models or workspace.models) / name
        write_random(workspace, shape, model, fingerprint=data.fingerprint)
    for line in _said(budget, found, overridden(preset.train, given), trial):
        report.note(line)
    chosen = replace(inputs, config=preset, model=model)
    others = tuple(trial.candidates())
    return Choice(chosen, budget, found, others, trial.doubled())


def _timed(preset: Preset, budget: str) -> Preset:
    """Return a preset that ends with the time, its rate sinking before that."""
    settings = overridden(preset.train, {"max_time": budget, "schedule": "wsd"})
    return replace(preset, names_steps=False, train=settings)


@dataclass
class _Trial:
    """Finds the shape for a text and a time; measures how fast some are."""

    workspace: Workspace
    data: Data
    given: Mapping[str, Any]
    inputs: Inputs
    budget: str
    threads: int | None
    launch: Launch
    ranks: int

    def __post_init__(self) -> None:
        self.seconds = seconds_of(self.budget)
        self.load = other_load()  # before the trials, which are load too
        self.unique = sum(text.tokens for text in self.data.train)
        self.rates: dict[ModelConfig, float] = {}  # tokens a second, as measured
        self.dtype = self.given.get("dtype") or "fp32"
        self.gain: float | None = None  # of bf16 over fp32, where it was chosen
        self.fixed = self._fixed()
        self.trained = self.fixed is not None and is_trained(self.fixed)
        self.optimizer = self.given.get("optimizer") or recipe.optimizer_for(trained=self.trained)

    def _fixed(self) -> Path | None:
        """Return the weights that give the shape: those that are named, or trained ones."""
        if self.inputs.model is not None:
            return self.inputs.model
        for text in self.data.train:
            model = prepared_model(self.workspace, text.folder)
            if model is not None and is_trained(model):
                return model
        return None

    def shapes(self) -> list[ModelConfig]:
        """Return the shapes to choose from, the smallest first."""
        if self.fixed is not None:
            return [read_header(self.fixed).config]
        tokenizer = self.data.tokenizer
        if tokenizer is None:
            raise Usage("the tokenizer of these tokens is not known: name a --model to start from")
        return [
            recipe.shape_of(size, tokenizer.vocab_size, recipe.MOST_CONTEXT)
            for size in recipe.SIZES
        ]

    def candidate(self, shape: ModelConfig) -> Candidate:
        """Return what the time is enough for with a shape."""
        rate = self.rates.get(shape) or self._by_operations(shape)
        most, time = self.passes(shape, rate), USED * rate * self.seconds
        T = self.given.get("seq_len") or recipe.context_of(min(time, most * self.unique))
        read = self.read_in_pass(self.given.get("seq_len") or shape.context if self.fixed else T)
        tokens = min(time, most * read)
        loss = recipe.expected_loss(shape, tokens, self.unique, optimizer=self.optimizer, T=T)
        sized = replace(shape, context=shape.context if self.fixed is not None else T)
        return Candidate(sized, tokens, tokens / read, loss, rate, shape in self.rates)

    def read_in_pass(self, T: int) -> int:
        """Return the tokens that a pass over the text reads: windows of conversations overlap."""
        return sum(
            count_windows(files, text.tokens, T) * T if any(map(has_mask, files)) else text.tokens
            for text in self.data.train
            for files in [expanded(text.path)]
        )

    def candidates(self) -> list[Candidate]:
        """Return what the time is enough for with every shape."""
        return [self.candidate(shape) for shape in self.shapes()]

    def doubled(self) -> Candidate:
        """Return the candidate with the lowest expected loss in twice the time, measured or not."""
        trial = copy(self)
        trial.seconds *= 2
        return min(trial.candidates(), key=lambda each: each.loss)

    def best(self) -> Candidate:
        """Return the candidate with the lowest expected loss or close to it, its speed measured.

        Its neighbours are measured too: small models keep fewer threads busy than large ones.
        """
        shapes = self.shapes()
        for _ in range(MOST_MEASURED):
            losses = [self.candidate(shape).loss for shape in shapes]
            at = losses.index(min(losses))
            near = (*shapes[at : at + 2], *shapes[max(at - 1, 0) : at])
            unknown = [shape for shape in near if shape not in self.rates]
            if not unknown:
                break
            self._measure(unknown[0])
        measured = sorted(map(self.candidate, self.rates), key=lambda each: each.parameters)
        least = min(each.loss for each in measured)
        return next(each for each in measured if each.loss <= least + CLOSE)

    def settings(self, found: Candidate) -> TrainConfig:
        """Return all training settings of a candidate."""
        chosen = recipe.settings_for(
            found.shape,
            found.tokens,
            trained=self.trained,
            optimizer=self.optimizer,
            spare=self.has_spare(found.shape, found.rate),
            dropout=self.dropout(found.shape, found.rate),
        )
        chosen |= recipe.over_ranks(chosen, self.ranks)
        if not self.data.val:
            chosen |= {"val_every": 0, "val_tokens": 0, "patience": 0}
        epochs = self.passes(found.shape, found.rate)
        return TrainConfig(max_time=self.budget, epochs=epochs, dtype=self.dtype, **chosen)

    def passes(self, shape: ModelConfig, rate: float) -> int:
        """Return after how many passes more make a model of a shape worse."""
        bears_more = not self.trained and self.dropout(shape, rate) > 0
        return self._most(shape) * (recipe.DROPOUT_PASSES if bears_more else 1)

    def dropout(self, shape: ModelConfig, rate: float) -> float:
        """Return the dropout for a shape: some, where the text and the time allow more passes."""
        if (given := self.given.get("dropout")) is not None:
            return float(given)
        return recipe.dropout_for(self.unique) if self.has_spare(shape, rate) else 0.0

    def has_spare(self, shape: ModelConfig, rate: float) -> bool:
        """Return whether the usual passes leave much of the time."""
        usual = self._most(shape) * self.unique
        return not self.trained and usual < SPARE * rate * self.seconds

    def _most(self, shape: ModelConfig) -> int:
        return recipe.most_passes(
            shape, self.unique, trained=self.trained, optimizer=self.optimizer
        )

    def expected(self, found: Candidate) -> str | None:
        """Return the loss to expect of a new model; None: the size of a token is not known."""
        size = self.data.val_bytes_per_token
        if size is None:
            return None
        nat = size * math.log(2)  # of a token, in bits per byte
        most = math.log(found.shape.vocab_size) / nat  # before it has learnt anything
        bits = [min(each, most) for each in recipe.expected_bits_per_byte(found.loss)]
        low, high = (each * nat for each in bits)
        return (
            f"expected at the end, on English or code: a validation loss of {low:.1f} to "
            f"{high:.1f}, {bits[0]:.1f} to {bits[1]:.1f} bits per byte"
        )

    def _by_operations(self, shape: ModelConfig) -> float:
        """Return the tokens a second by the operations, and by the nearest shape measured."""
        flops = flops_per_token(shape, shape.context)
        if not self.rates:
            return NOMINAL_RATE * self.ranks * (self.threads or available_cpus()) / flops
        near = min(
            self.rates,
            key=lambda each: abs(math.log(flops_per_token(each, each.context) / flops)),
        )
        return self.rates[near] * flops_per_token(near, near.context) / flops

    def _measure(self, shape: ModelConfig) -> None:
        """Measure the speed of a shape; that of the first in bf16 too, which is taken if faster."""
        rate = self.rates[shape] = self._measured(shape)
        if len(self.rates) > 1 or self.given.get("dtype") is not None:
            return
        in_bf16 = copy(self)
        in_bf16.dtype = "bf16"
        gain = in_bf16._measured(shape) / rate
        if gain >= FASTER:
            self.dtype, self.gain, self.rates[shape] = "bf16", gain, gain * rate

    def _measured(self, shape: ModelConfig) -> float:
        """Return the tokens a second of a few real steps, validations and samples included."""
        found = self.candidate(shape)
        settings = self.settings(found)
        preset = Preset(recipe.NAME, names_seq_len=True, model=found.shape, train=settings)
        self.workspace.models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.workspace.models, prefix=".") as folder:
            model = self.fixed
            if model is None:
                model = Path(folder) / "model.bin"
                fingerprint = self.data.fingerprint
                write_random(self.workspace, found.shape, model, fingerprint=fingerprint)
            trial = replace(self.inputs, model=model, config=preset)
            how: dict[str, Any] = {"threads": self.threads, "launch": self.launch}
            estimate = dry_run(self.workspace, self.given, trial, **how)
        if not (steps := estimate.work[0].count):  # one takes longer than there is time
            return estimate.tokens_per_second
        return steps * estimate.settings.tokens_per_step / estimate.seconds


def _said(budget: str, found: Candidate, settings: TrainConfig, trial: _Trial) -> Iterator[str]:
    """Yield what was chosen, and why."""
    parts = "finetuning" if trial.trained else "a model"
    yield (
        f"--for {budget} on {trial.unique:,} tokens: {parts} of {short(found.parameters)} "
        f"parameters ({found.shape.shown})"
    )
    who = "this machine trains" if trial.ranks == 1 else f"{trial.ranks} ranks train"
    how = f" with --dtype bf16 ({trial.gain:.1f} times as fast as fp32)" if trial.gain else ""
    yield (
        f"{who} it on about {found.rate:,.0f} tokens a second{how}: "
        f"{short(found.tokens)} tokens, {found.passes:.2g} passes over the text"
    )
    if trial.load is not None:
        yield (
            f"other programs slow this machine down (a load of {trial.load:.1f}): the choice is "
            "for the speed it has now"
        )
    dropout = f"; --dropout {settings.dropout:g}" if settings.dropout else ""
    yield (
        f"updates of {settings.tokens_per_step:,} tokens at --lr {settings.lr:g}, which decays in "
        f"the last {settings.decay:.0%}; windows of {settings.seq_len} tokens{dropout}"
    )
    if not trial.trained and (loss := trial.expected(found)) is not None:
        yield loss
    if found.passes >= 0.99 * settings.epochs:
        yield (
            f"it ends after {settings.epochs} passes, in about "
            f"{duration(found.tokens / found.rate)}: more would only learn the text by heart"
        )
