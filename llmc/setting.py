"""One setting of training or sampling: its range, its help, its flag."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from llmc.errors import Usage
from llmc.units import seconds_of

MOST = 1e9  # the largest value of most settings
BELOW_1 = 1 - 2.0**-53


@dataclass(frozen=True)
class Setting:
    """One setting: the options, ``--help``, validation and docs/reference/settings.md come from it.

    Attributes:
        name: in a preset and in Python; the flag has dashes.
        default: the value without a preset; its type is the setting's.
        help: what it does, in one sentence.
        group: the heading it stands under in ``--help``.
        metavar: what ``--help`` shows for the value.
        unit: the value's unit, for the reference page.
        low: the least value of a number.
        high: the largest value of a number.
        choices: the values of a text.
        resume: a resumed run may change it.
    """

    name: str
    default: Any
    help: str
    group: str
    metavar: str = "N"
    unit: str = "–"
    low: float = 0
    high: float = MOST
    choices: tuple[str, ...] = ()
    resume: bool = False

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

    def check(self, value: Any) -> None:
        """Refuse a value outside the range or the choices.

        Raises:
            Usage: the message names the setting and what is allowed.
        """
        if self.choices:
            if value not in self.choices:
                raise Usage(f"{self.name} must be one of {', '.join(self.choices)}, not '{value}'")
        elif self.metavar == "TIME":
            try:
                seconds_of(value)
            except ValueError as error:
                raise Usage(f"{self.name}: {error}") from error
        elif isinstance(self.default, (int, float)) and not self.low <= value <= self.high:
            high = "below 1" if self.high == BELOW_1 else typed_number(self.high)
            raise Usage(
                f"{self.name} must be between {typed_number(self.low)} and {high}, "
                f"not {typed_number(value)}"
            )


def make_setting(default: Any, group: str, help: str, **more: Any) -> Any:
    """Return a dataclass field that carries a :class:`Setting`."""
    return field(default=default, metadata={"help": help, "group": group, **more})


def settings_table(kind: type) -> dict[str, Setting]:
    """Return the settings of a dataclass whose fields are made by :func:`make_setting`, by name."""
    return {item.name: Setting(item.name, item.default, **item.metadata) for item in fields(kind)}


def check_all(settings: Any) -> None:
    """Check every field of a settings dataclass.

    Raises:
        Usage: a value is outside its setting's range or choices.
    """
    for name, setting in settings_table(type(settings)).items():
        setting.check(getattr(settings, name))


def typed_number(number: float) -> str:
    """Return a number as it can be typed: whole ones with all of their digits."""
    whole = isinstance(number, int) or number.is_integer()
    return str(int(number)) if whole else f"{number:g}"


def typed_range(setting: Setting) -> str:
    """Return the values that a setting takes, for the reference page."""
    if setting.choices:
        return ", ".join(setting.choices)
    if isinstance(setting.default, bool):
        return "on, off"
    if isinstance(setting.default, str):
        return "a time"
    if setting.high == BELOW_1:
        return f"{typed_number(setting.low)} to below 1"
    least = typed_number(setting.low)
    return (
        f"{least} or more" if setting.high >= MOST else f"{least} to {typed_number(setting.high)}"
    )
