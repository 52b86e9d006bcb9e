"""Options that the commands with a trained model share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmc.config import SAMPLE_LIMITS, SampleConfig
from llmc.sample.settings import SAMPLE_SETTINGS

RunOption = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="Run to use. Default: the newest.")
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", metavar="FILE", help="Checkpoint to use, not a run's.")
]
DtypeOption = Annotated[
    Literal["fp32", "bf16", "int8"] | None,
    typer.Option(
        "--dtype", help="Type of the weights in memory; smaller is faster. Default: the run's."
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="Threads. Default: one per 4 million parameters, at most one per core. "
        "The text does not depend on it.",
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
        option = typer.Option(
            min=type(default)(low),
            max=type(default)(high) if high <= 1 else None,
            metavar=setting.metavar,
            help=f"{setting.help} ({default:g}).",
            rich_help_panel="Sampling",
        )
        kind: Any = type(default) | None
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind, option],
            )
        )
    annotated: Any = command
    annotated.__signature__ = signature.replace(parameters=parameters)
    annotated.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
