"""Texts mixed by weight, as ``--data A --data B:0.3`` names them, and what share of a run is each.

Which text gives a row is the engine's rule: ``native/files/mixture.h``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

from llmc.config import MOST_STEPS, TrainConfig
from llmc.errors import BadData, Usage
from llmc.paths import Workspace, expanded
from llmc.tokens.files import has_mask, read_tokens
from llmc.tokens.manifest import FILENAME as MANIFEST
from llmc.tokens.manifest import Manifest
from llmc.tokens.windows import count_windows
from llmc.units import number_of

MOST_WEIGHT = 2**32 - 1  # the sum of the engine's weights


@dataclass(frozen=True)
class Named:
    """A text as a person names it: a dataset's folder, a token file or a pattern; its weight."""

    path: Path
    weight: Fraction = Fraction(1)


@dataclass(frozen=True)
class Portion:
    """A text of a mixture, or the only one: a token file or pattern, its weight and its dataset."""

    path: Path
    weight: Fraction = Fraction(1)
    name: str = ""
    manifest: Manifest | None = None

    @cached_property
    def tokens(self) -> int:
        """The tokens of all files."""
        return sum(len(read_tokens(file)) for file in expanded(self.path))

    @cached_property
    def masked(self) -> bool:
        """Whether masks say where its windows begin."""
        return any(map(has_mask, expanded(self.path)))

    def windows(self, settings: TrainConfig) -> int:
        """Return the windows that make an epoch, as the engine counts them.

        Raises:
            Usage: they are aligned, and it is not known where documents begin.
        """
        eot = None
        if settings.windows == "aligned" and not self.masked:
            if self.manifest is None:
                raise Usage(
                    f"{self.path} belongs to no dataset, so it is not known where its documents "
                    "begin: leave out --windows aligned, or name a dataset's folder"
                )
            eot = self.manifest.tokenizer.eot
        return count_windows(expanded(self.path), self.tokens, settings.seq_len, eot)

    @property
    def folder(self) -> Path:
        """The folder in which the token files lie."""
        if self.manifest is not None:
            return self.manifest.folder
        return (expanded(self.path) or [self.path])[0].parent


Wanted = Path | Sequence[Named] | None
Spec = str | Path | Named


def named(workspace: Workspace, specs: Spec | Sequence[Spec] | None) -> tuple[Named, ...] | None:
    """Return the texts that ``A`` or ``A:WEIGHT`` each name; None for none.

    What exists under the whole name is that, so that a name may hold a colon.

    Raises:
        Usage: a weight is not a positive number.
    """
    each = (specs,) if isinstance(specs, str | Path | Named) else tuple(specs or ())
    return tuple(_named(workspace, spec) for spec in each) or None


def _named(workspace: Workspace, spec: Spec) -> Named:
    if isinstance(spec, Named):
        return Named(located(workspace, spec.path) or spec.path, weight_of(spec.weight, spec.path))
    if (found := located(workspace, Path(spec))) is not None:
        return Named(found)
    path, colon, last = str(spec).rpartition(":")
    found = located(workspace, Path(path)) if path else None
    try:
        weight = number_of(last) if colon and path else None
    except ValueError:
        weight = math.nan if found is not None else None  # of C:\data, say
    if weight is None:
        return Named(Path(spec))
    return Named(found or Path(path), weight_of(weight, spec, last))


def weight_of(weight: float | Fraction, name: Spec, typed: str | None = None) -> Fraction:
    """Return a weight exactly as it was typed: 0.3 is 3/10.

    Raises:
        Usage: it is not a positive number.
    """
    is_number = isinstance(weight, Real) and not isinstance(weight, bool)
    if not (is_number and 0 < weight < math.inf):
        shown = weight if typed is None else typed
        raise Usage(f"{name}: the weight of a text must be a positive number, not '{shown}'")
    return weight if isinstance(weight, Fraction) else Fraction(str(weight))


def located(workspace: Workspace, path: Path) -> Path | None:
    """Return the path if it exists or is a pattern of what does, or the dataset of that name."""
    if expanded(path):
        return path
    dataset = workspace.data / path
    return dataset if not path.is_absolute() and (dataset / MANIFEST).is_file() else None


def whole_weights(texts: Sequence[Named | Portion]) -> list[int]:
    """Return the weights as the smallest whole numbers of the same ratio.

    If these add up to 2**32 or more, they are rounded.
    """
    scale = math.lcm(*(text.weight.denominator for text in texts))
    weights = _reduced([int(text.weight * scale) for text in texts])
    if (total := sum(weights)) > MOST_WEIGHT:
        room = MOST_WEIGHT - len(weights)
        weights = _reduced([max(weight * room // total, 1) for weight in weights])
    return weights


def _reduced(weights: list[int]) -> list[int]:
    divisor = math.gcd(*weights)
    return [weight // divisor for weight in weights]


def shares(portions: Sequence[Portion]) -> list[float]:
    """Return the part of all rows that each text gives; they add up to 1."""
    weights = whole_weights(portions)
    return [weight / sum(weights) for weight in weights]


def share_of_tokens(portions: Sequence[Portion], tokens: int) -> list[int]:
    """Return how many of so many tokens are measured on each text, as the engine rounds them."""
    weights = whole_weights(portions)
    return [-(-tokens * weight // sum(weights)) for weight in weights]


def check_windows(portions: Sequence[Portion], settings: TrainConfig) -> None:
    """Refuse ``--windows aligned`` where it changes nothing.

    Raises:
        Usage: every text has a mask, which says where windows begin.
    """
    if settings.windows == "aligned" and all(portion.masked for portion in portions):
        raise Usage(
            f"{portions[0].path} holds conversations, and its mask says where windows begin: leave "
            "out --windows aligned"
        )


def check_distinct(portions: Sequence[Portion]) -> None:
    """Refuse a token file that is in two texts of a mixture.

    Raises:
        Usage: the message names the file.
    """
    seen: dict[Path, Portion] = {}
    for portion in portions:
        for file in expanded(portion.path):
            if seen.setdefault(file.resolve(), portion) is not portion:
                raise Usage(
                    f"{file} is named twice: name each text once, its weight says how often it is "
                    "seen"
                )


def check_rows(portions: Sequence[Portion], seq_len: int) -> None:
    """Refuse a text of a mixture that is too small for a row.

    Raises:
        BadData: the message names it.
    """
    for portion in portions if len(portions) > 1 else ():
        if portion.tokens <= seq_len:
            raise BadData(
                f"{portion.path} holds {portion.tokens:,} tokens, less than a row of {seq_len:,} "
                "and the token after it: use a smaller --seq-len, or leave it out of the mixture"
            )


def named_apart(portions: Sequence[Portion]) -> tuple[Portion, ...]:
    """Return texts with names of which no two are the same."""
    taken: set[str] = set()
    apart = []
    for portion in portions:
        name, number = portion.name, 1
        while name in taken:
            number += 1
            name = f"{portion.name}-{number}"
        taken.add(name)
        apart.append(replace(portion, name=name))
    return tuple(apart)


def joined_name(names: Iterable[str]) -> str:
    """Return a name for a run on several texts."""
    every = list(names)
    name = "+".join(every)
    return name if len(name) <= 60 or len(every) == 1 else f"{every[0]}+{len(every) - 1}"


# ---- what a run will see


@dataclass(frozen=True)
class Seen:
    """What a run sees of a text."""

    portion: Portion
    share: float  # the part of all rows that it gives
    steps: float  # the updates in which all of it is seen once, on average
    epochs: float | None  # how often the run sees it; None if nothing says when the run ends

    @property
    def fields(self) -> dict[str, Any]:
        """The same for ``--json``."""
        return {
            "text": self.portion.name,
            "share": self.share,
            "tokens": self.portion.tokens,
            "epochs": self.epochs,
        }

    def shown(self, workspace: Workspace) -> str:
        """Return it as a line."""
        often = f"an epoch takes {self.steps:,.0f} steps"
        if self.epochs is not None:
            often = (
                f"{self.epochs:.3g} epochs" if self.epochs < 100 else f"{self.epochs:,.0f} epochs"
            )
        path, tokens = workspace.shown(self.portion.path), f"{self.portion.tokens:,} tokens"
        return f"{path}: {percent(self.share)} of the rows, {tokens}, {often}"


def planned_steps(portions: Sequence[Portion], settings: TrainConfig) -> int:
    """Return how many updates a run makes, unless time or patience end it.

    An epoch of a mixture ends when every text was passed once: mixture_epoch in the engine.
    """
    weights = whole_weights(portions)
    windows = [portion.windows(settings) for portion in portions]
    rows = [-(-n * sum(weights) // weight) for n, weight in zip(windows, weights, strict=True)]
    return settings.planned_steps(max(rows))


def seen(portions: Sequence[Portion], settings: TrainConfig) -> list[Seen]:
    """Return what a run sees of each text, early stopping aside."""
    end, found = planned_steps(portions, settings), []
    for portion, share in zip(portions, shares(portions), strict=True):
        steps = portion.windows(settings) / share / settings.rows_per_step
        found.append(Seen(portion, share, steps, end / steps if end < MOST_STEPS else None))
    return found


def percent(share: float) -> str:
    """Return a share as ``43.5 %``."""
    return f"{100 * share:.3g} %"


def said(workspace: Workspace, portions: Sequence[Portion], settings: TrainConfig) -> list[str]:
    """Return what a run trains on, a line for each text of a mixture."""
    if len(portions) == 1:
        return [f"data: {workspace.shown(portions[0].path)}"]
    lines = [each.shown(workspace) for each in seen(portions, settings)]
    return [f"data: {len(portions)} texts, mixed row by row", *lines]


def validation_said(
    workspace: Workspace, train: Sequence[Portion], val: Sequence[Portion]
) -> list[str]:
    """Return what a run validates on."""
    if len(val) < 2:
        lines = [f"validation: {workspace.shown(val[0].path) if val else 'none'}"]
    else:
        parts = zip(val, shares(val), strict=True)
        texts = ", ".join(
            f"{workspace.shown(part.path)} ({percent(share)})" for part, share in parts
        )
        lines = [f"validation: the mean loss, by these weights, of {texts}"]
    measured = {portion.manifest.folder for portion in val if portion.manifest is not None}
    own = any(part.manifest is not None and part.manifest.folder in measured for part in train)
    others = [p for p in train if p.manifest is None or p.manifest.folder not in measured]
    has_split = [p for p in others if p.manifest is not None and p.manifest.val.tokens]
    without = [workspace.shown(p.path) for p in others if p not in has_split]
    if len(train) > 1 and own and without:
        lines.append(f"not validated, having no validation split: {', '.join(without)}")
    if len(train) > 1 and own and has_split:
        names = ", ".join(workspace.shown(p.path) for p in has_split)
        lines.append(f"not validated, because --val-data does not name it: {names}")
    return lines


# ---- what run.json has of it


def place_of(workspace: Workspace, portions: Sequence[Portion]) -> Any:
    """Return texts as ``run.json`` names them: a path, a list of paths with weights, or null."""
    paths = [os.path.relpath(portion.path, workspace.root) for portion in portions]
    if len(paths) < 2:
        return paths[0] if paths else None
    weights = [_number(portion.weight) for portion in portions]
    return [{"path": path, "weight": weight} for path, weight in zip(paths, weights, strict=True)]


def recorded(workspace: Workspace, place: Any) -> tuple[Named, ...]:
    """Return the texts that ``run.json`` names.

    Raises:
        TypeError, KeyError, ValueError: it does not name them as llmc does.
    """
    if place is None:
        return ()
    if isinstance(place, str):
        return (Named(workspace.root / place),)
    return tuple(
        Named(workspace.root / each["path"], Fraction(str(each["weight"]))) for each in place
    )


def spelled(place: Any) -> str:
    """Return texts of ``run.json`` as a person would type them."""
    if isinstance(place, str) or place is None:
        return str(place)
    return " ".join(f"{each['path']}:{each['weight']}" for each in place)


def _number(weight: Fraction) -> float:
    return weight.numerator if weight.denominator == 1 else float(weight)
