"""Options that the commands with a trained model share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmc.config import SAMPLE_LIMITS, SampleConfig
from llmc.sample.settings import SAMPLE_SETTINGS


def option(text: str, metavar: str | None = None, low: int | None = None, **more: Any) -> Any:
    """Return an option with a help text, and for a number its least value."""
    return typer.Option(help=text, metavar=metavar, min=low, show_default=False, **more)


def flag(name: str, text: str) -> Any:
    """Return a switch that is off by default, without a ``--no-`` form."""
    return typer.Option(name, help=text)


RunOption = Annotated[str | None, option("Run to use. Default: the newest.", "NAME")]
ModelOption = Annotated[Path | None, option("Checkpoint to use, not a run's.", "FILE")]
DtypeOption = Annotated[
    Literal["fp32", "bf16", "int8"] | None,
    option("Type of the weights in memory; smaller is faster. Default: the run's."),
]
ThreadsOption = Annotated[
    int | None,
    option(
        "Threads. Default: one per 4 million parameters, at most one per core. "
        "The text does not depend on it.",
        "N",
        1,
    ),
]


def with_sample_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each sampling setting; the command receives them as ``**settings``."""
    signature = inspect.signature(command, eval_str=True)
    parameters = [
        each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD
    ]
    for name, setting in SAMPLE_SETTINGS.items():
        default, (low, high) = getattr(SampleConfig(), name), SAMPLE_LIMITS[name]
        added = option(
            f"{setting.help} ({default:g}).",
            setting.metavar,
            type(default)(low),
            max=type(default)(high) if high <= 1 else None,
            rich_help_panel="Sampling",
        )
        kind: Any = type(default) | None
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind, added],
            )
        )
    annotated: Any = command
    annotated.__signature__ = signature.replace(parameters=parameters)
    annotated.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
