"""Options made from the table of settings, and the types of their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import typer

from llmc.config import DATA, LENGTH, MACHINE, MEMORY, OPTIMIZER, SAMPLING, SAVING
from llmc.errors import Usage
from llmc.setting import Setting
from llmc.units import count_of, number_of

GROUPS = (DATA, LENGTH, OPTIMIZER, MEMORY, SAVING, SAMPLING, MACHINE)


def count(value: str | int) -> int:
    """Parse a whole number such as ``65k`` or ``4G``; for ``typer.Option(parser=count)``.

    Raises:
        BadParameter: it is not a whole number.
    """
    try:
        return count_of(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def number(value: str | float) -> float:
    """Parse a number such as ``3e-4``, ``0.1`` or ``65k``; for ``typer.Option(parser=number)``.

    Raises:
        BadParameter: it is not a number.
    """
    try:
        return number_of(str(value))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def with_settings(table: Mapping[str, Setting]) -> Callable[[Callable[..., None]], Any]:
    """Give a command an option for each setting of a table.

    The command takes them in ``**settings``; a setting that was not typed is None there. All of the
    command's options are put in the order of their groups.
    """

    def decorate(command: Callable[..., None]) -> Any:
        def run(*args: Any, **options: Any) -> None:
            command(*args, **options)

        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        made = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option_of(setting)
            )
            for name, setting in table.items()
        ]
        parameters = sorted([*own, *made], key=lambda parameter: (parameter.kind, _rank(parameter)))
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, __name__
        run.__annotations__ = {item.name: item.annotation for item in parameters}
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def option_of(setting: Setting) -> Any:
    """Return a setting's option as the annotation of a parameter."""
    default = setting.shown_default
    shown: dict[str, Any] = {"rich_help_panel": setting.group}
    names: tuple[str, ...] = ()
    kind: Any = type(setting.default)
    if isinstance(setting.default, bool):
        no = f"--no-{setting.flag[2:]}"
        default = setting.flag if setting.default else no
        names = (f"{setting.flag}/{no}",)
    elif setting.choices:
        kind = Literal[setting.choices]
        shown["metavar"] = setting.metavar
    else:
        shown |= {"metavar": setting.metavar, "parser": _parser(setting)}
    text = f"{setting.help}: {', '.join(setting.choices)}" if setting.choices else setting.help
    known = default == "0" and "(0: " in setting.help
    text = f"{text}." if known else f"{text} ({default})."
    return Annotated[kind | None, typer.Option(*names, help=text, **shown)]


def _parser(setting: Setting) -> Callable[[str], Any]:
    kinds: dict[type, Callable[[str], Any]] = {int: count, float: number, str: str}

    def parse(text: str) -> Any:
        value = kinds[type(setting.default)](text)
        try:
            setting.check(value)
        except Usage as error:
            raise typer.BadParameter(str(error).removeprefix(f"{setting.name}: ")) from error
        return value

    return parse


def _rank(parameter: inspect.Parameter) -> int:
    """Return the place of a parameter's group; the context comes first."""
    for item in getattr(parameter.annotation, "__metadata__", ()):
        group = getattr(item, "rich_help_panel", None)
        if group in GROUPS:
            return GROUPS.index(group)
    return 0
