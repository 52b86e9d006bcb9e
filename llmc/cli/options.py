"""How commands declare their options; options that are made from the tables of settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import typer

from llmc.config import DATA, LENGTH, MACHINE, MEMORY, OPTIMIZER, SAMPLING, SAVING
from llmc.errors import Usage
from llmc.setting import STEPS_OR_TIME, Setting, every_seconds
from llmc.units import count_of, number_of, seconds_of

MODEL = "Model"  # the heading of what chooses one
LAST_HELP = "Use the run's last weights, not those with the lowest validation loss."
GROUPS = (MODEL, DATA, LENGTH, OPTIMIZER, MEMORY, SAVING, SAMPLING, MACHINE)


def option(
    help: str,
    metavar: str | None = None,
    low: int | None = None,
    *,
    group: str | None = None,
    names: tuple[str, ...] = (),
    **more: Any,
) -> Any:
    """Return an option, listed under the heading ``group``; ``low`` is a number's least value."""
    more |= {"help": help, "metavar": metavar, "min": low, "rich_help_panel": group}
    return typer.Option(*names, **more)


def in_group(heading: str) -> Callable[..., Any]:
    """Return :func:`option` for the options that are listed under a heading."""
    return partial(option, group=heading)


def flag(name: str, help: str) -> Any:
    """Return a switch that is off by default, without a ``--no-`` form."""
    return option(help, names=(name,))


def argument(metavar: str | None, help: str) -> Any:
    """Return a positional argument."""
    return typer.Argument(metavar=metavar, help=help)


SourceOption = Annotated[
    str | None,
    option("A local copy (file, folder or archive), or a mirror's address.", "PATH|URL"),
]


def parsed(kind: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Return a parser for ``option(parser=…)``; a ValueError or Usage becomes a wrong option."""

    def parse(value: Any) -> Any:
        try:
            return kind(str(value))
        except (ValueError, Usage) as error:
            raise typer.BadParameter(str(error)) from error

    return parse


def _positive(text: str) -> int:
    if (number := count_of(text)) < 1:
        raise ValueError(f"'{text}' is less than 1")
    return number


def _time(text: str) -> str:
    seconds_of(text)
    return text


time_text = parsed(_time)  # 1h30m, kept as it was typed
count = parsed(count_of)  # 65k, 4G
positive = parsed(_positive)


def with_settings(table: Mapping[str, Setting]) -> Callable[[Callable[..., None]], Any]:
    """Give a command an option for each setting of a table.

    The command takes them in ``**settings``; a setting that was not typed is None there.
    """
    return partial(
        with_options, options={name: (option_of(each), None) for name, each in table.items()}
    )


def with_lists(table: Mapping[str, Setting]) -> Callable[[Callable[..., None]], Any]:
    """Give a command options as :func:`with_settings` does, each of which takes several values.

    The command takes them in ``**settings`` as tuples; ``max_time`` has an option of its own.
    """
    options = {name: (list_option_of(each), None) for name, each in table.items()}
    options.pop("max_time", None)
    return partial(with_options, options=options)


def with_options(
    command: Any, options: Mapping[str, tuple[Any, Any]], *, instead_of: str | None = None
) -> Any:
    """Give a command options, each with its annotation and its default.

    An option that the command declares itself is kept, but for the one that they stand
    ``instead_of``. All are put in the order of their groups.
    """
    signature = inspect.signature(command, eval_str=True)
    found = {p.name: p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD}
    found.pop(instead_of or "", None)
    for name, (kind, default) in options.items():
        made = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        found.setdefault(name, made.replace(annotation=kind))
    parameters = sorted(found.values(), key=lambda each: (each.kind, _rank(each)))
    command.__signature__ = signature.replace(parameters=parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def option_of(setting: Setting) -> Any:
    """Return a setting's option as the annotation of a parameter."""
    default = setting.shown_default
    kind: Any = type(setting.default)
    shown: dict[str, Any] = {"group": setting.group, "metavar": setting.metavar}
    if kind is bool:
        switch = (setting.flag, f"--no-{setting.flag[2:]}")
        default = switch[not setting.default]
        shown |= {"metavar": None, "names": ("/".join(switch),)}
    elif setting.choices:
        kind = Literal[setting.choices]
    else:
        shown["parser"] = parser_of(setting)
    text = f"{setting.help}: {', '.join(setting.choices)}" if setting.choices else setting.help
    text = f"{text}." if f"({default}: " in setting.help else f"{text} ({default})."
    return Annotated[kind | None, option(text, **shown)]


def list_option_of(setting: Setting) -> Any:
    """Return the option of a setting that takes several values, with commas between them."""
    one = parser_of(setting)

    def parse(text: Any) -> tuple[Any, ...]:
        return tuple(one(each) for each in str(text).split(","))

    choices = f": {', '.join(setting.choices)}" if setting.choices else ""
    metavar = "on|off" if isinstance(setting.default, bool) else setting.metavar
    shown: dict[str, Any] = {"group": setting.group, "parser": parse}
    return Annotated[Any, option(f"{setting.help}{choices}.", f"{metavar},…", **shown)]


def parser_of(setting: Setting) -> Callable[[Any], Any]:
    """Return what reads a setting that a person typed."""
    kinds: dict[type, Callable[[str], Any]] = {
        int: count_of,
        float: number_of,
        str: str,
        bool: _switch,
    }

    def read(text: str) -> Any:
        kind = kinds[type(setting.default)]
        if setting.metavar == STEPS_OR_TIME and every_seconds(text) == 0:
            kind = count_of
        value = kind(text)
        try:
            setting.check(value)
        except Usage as error:
            raise ValueError(str(error).removeprefix(f"{setting.name}: ")) from error
        return value

    return parsed(read)


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"'{text}' is neither on nor off")
    return text == "on"


def _rank(parameter: inspect.Parameter) -> int:
    """Return the place of a parameter's group; a group of the command's own is among the first."""
    for item in getattr(parameter.annotation, "__metadata__", ()):
        group = getattr(item, "rich_help_panel", None)
        if group in GROUPS:
            return GROUPS.index(group)
    return GROUPS.index(DATA)
