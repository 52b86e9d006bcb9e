"""One setting of training or sampling: its range, its help, its flag."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, TypeVar

from llmc.errors import Usage
from llmc.units import seconds_of

MOST = 1e9  # the largest value of most settings
STEPS_OR_TIME = "STEPS|TIME"  # a metavar: a number of steps, or a time with its unit
BELOW_1 = 1 - 2.0**-53
T = TypeVar("T")


class OnResume(Enum):
    """Whether a resumed run may change a setting; the value is shown in the documentation."""

    REFUSED = "no"  # the order of the data or the kind of the training state follows from it
    RECORDED = "yes, with other bits"  # the steps to come are not those of an undisturbed run
    FREE = "yes"  # no bit of a step follows from it


@dataclass(frozen=True)
class Setting:
    """One setting, of which options, ``--help``, checks and docs/reference/settings.md are made."""

    name: str  # in a preset and in Python; the flag has dashes
    default: Any  # the value without a preset; its type is the setting's
    help: str
    group: str  # the heading it stands under in ``--help``
    metavar: str  # what ``--help`` shows for the value
    unit: str
    low: float = 0  # the least value of a number, and ``high`` the largest
    high: float = MOST
    choices: tuple[str, ...] = ()  # the values of a text
    resume: OnResume = OnResume.REFUSED  # whether a resumed run may change it
    # The range of older versions; a run that they started keeps its value.
    older: tuple[float, float] | None = None

    @property
    def flag(self) -> str:
        """The option, as it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def shown_default(self) -> str:
        """The default, as it is typed."""
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def check(self, value: Any, *, older: bool = False) -> None:
        """Refuse a value outside the range or the choices; ``older``: outside that of any version.

        Raises:
            Usage: the message names the setting and what is allowed.
        """
        low, high = self.older if older and self.older is not None else (self.low, self.high)
        if isinstance(self.default, (int, float)) and not isinstance(value, (int, float)):
            raise Usage(f"{self.name} must be a number, not '{value}'")
        if self.choices:
            if value not in self.choices:
                raise Usage(f"{self.name} must be one of {', '.join(self.choices)}, not '{value}'")
        elif not isinstance(value, str) and self.metavar == "TIME":
            raise Usage(f"{self.name} must be a time such as '1h30m', not {value}")
        elif self.metavar == "TIME":
            try:
                seconds = seconds_of(value)
            except ValueError as error:
                raise Usage(f"{self.name}: {error}") from error
            if seconds > high:
                raise Usage(
                    f"{self.name} must be at most {typed_number(high)} seconds, not {value}"
                )
        elif self.metavar == STEPS_OR_TIME and isinstance(value, str):
            if not 0 < every_seconds(value) <= high:
                raise Usage(
                    f"{self.name} takes a number of steps, or a time such as 10m, not '{value}'"
                )
        elif isinstance(value, (int, float)) and not low <= value <= high:
            most = "below 1" if high == BELOW_1 else typed_number(high)
            raise Usage(
                f"{self.name} must be between {typed_number(low)} and {most}, "
                f"not {typed_number(value)}"
            )


def every_seconds(value: int | str) -> float:
    """Return the seconds of a setting that may be steps or a time; 0: steps, or no time."""
    try:
        return 0.0 if str(value)[-1:].isdigit() else seconds_of(str(value))
    except ValueError:
        return 0.0


def as_typed(settings: Any, name: str, value: object) -> Any:
    """Return a value as a field of a dataclass takes it, or None if it is of another type."""
    wanted = type(getattr(settings, name))
    either = any(
        each.name == name and each.metadata.get("metavar") == STEPS_OR_TIME
        for each in fields(settings)
    )
    if wanted is float and type(value) is int:
        return float(value)
    return value if type(value) is wanted or (either and type(value) in (int, str)) else None


# The unit that a metavar stands for.
UNITS = {
    STEPS_OR_TIME: "updates, or d, h, m, s",
    "STEPS": "updates",
    "TOKENS": "tokens",
    "ROWS": "rows",
    "TIME": "d, h, m, s",
    "LOSS": "nats",
    "NORM": "norm",
    "Z": "standard deviations",
}


def make_setting(
    group: str, default: Any, help: str, metavar: str = "N", unit: str | None = None, **more: Any
) -> Any:
    """Return a dataclass field that carries a :class:`Setting`; its metavar may imply the unit."""
    unit = unit or UNITS.get(metavar, "–")
    known = {"group": group, "help": help, "metavar": metavar, "unit": unit}
    return field(default=default, metadata=known | more)


def settings_table(kind: type) -> dict[str, Setting]:
    """Return the settings of a dataclass whose fields are made by :func:`make_setting`, by name."""
    return {item.name: Setting(item.name, item.default, **item.metadata) for item in fields(kind)}


class Checked:
    """The base of a settings dataclass, whose values are checked.

    A run of an older version may hold values that :meth:`check_new` refuses.

    Raises:
        Usage: a value is outside what any version allows; the message names the setting.
    """

    def __post_init__(self) -> None:
        for name, setting in settings_table(type(self)).items():
            setting.check(getattr(self, name), older=True)

    def check_new(self) -> None:
        """Check every field as those of something new.

        Raises:
            Usage: a value is outside its setting's range; the message names the setting.
        """
        for name, setting in settings_table(type(self)).items():
            setting.check(getattr(self, name))


def flags_of(settings: Checked) -> list[str]:
    """Return every setting as the engine takes it: ``--val-every``, ``10``."""
    words = []
    for name, value in vars(settings).items():
        shown = int(value) if isinstance(value, bool) else value
        words += [f"--{name.replace('_', '-')}", str(shown)]
    return words


def typed_number(number: float) -> str:
    """Return a number as it can be typed: whole ones with all of their digits."""
    whole = isinstance(number, int) or number.is_integer()
    return str(int(number)) if whole else f"{number:g}"


def overridden(settings: T, flags: Mapping[str, Any]) -> T:
    """Return ``settings`` with every flag that was given (is not None) put over it."""
    return replace(settings, **{k: v for k, v in flags.items() if v is not None})  # type: ignore[type-var]


def differing(old: T, new: T) -> dict[str, list[Any]]:
    """Return the settings that differ, by name: the old value, and the new one."""
    before, after = vars(old), vars(new)
    return {name: [before[name], after[name]] for name in before if before[name] != after[name]}


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or the list of words when none is near."""
    return did_you_mean(word, words) or f"; known: {', '.join(words)}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or nothing when none is near."""
    match = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean '{match[0]}'?" if match else ""
