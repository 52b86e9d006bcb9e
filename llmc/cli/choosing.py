"""The options that choose a model, and how the engine holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from llmc.cli.context import Context
from llmc.cli.options import LAST_HELP, MODEL, in_group, with_options
from llmc.errors import Usage
from llmc.sample.model import SampleModel, find_model

of_model = in_group(MODEL)

RunOption = Annotated[str | None, of_model("Run to use. Default: the newest.", "NAME")]
ModelOption = Annotated[Path | None, of_model("Checkpoint to use, not a run's.", "FILE")]
LastOption = Annotated[bool, of_model(LAST_HELP, names=("--last",))]
DtypeOption = Annotated[
    Literal["fp32", "bf16", "int8"] | None,
    of_model("Type of the weights in memory; smaller is faster. Default: the run's."),
]
ThreadsOption = Annotated[
    int | None,
    of_model(
        "Threads. Default: one per 4 million parameters, at most one per core. "
        "The text does not depend on it.",
        "N",
        1,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model that a person chose. Each field is an option of :func:`with_model`."""

    run: RunOption = None
    model: ModelOption = None
    last: LastOption = False
    dtype: DtypeOption = None
    threads: ThreadsOption = None

    def check(self) -> None:
        """Refuse a run, or the choice of a run's weights, together with a checkpoint.

        Raises:
            Usage: both are given.
        """
        if self.model is not None and (self.run is not None or self.last):
            other = "--run" if self.run is not None else "--last"
            raise Usage(f"{other} and --model exclude each other: give one")

    def words(self, *, options: bool = False) -> list[str]:
        """Return the choice as an argument for llmc chat, or as ``options`` for llmc sample."""
        words = []
        for flag, value in (("--run", self.run), ("--model", self.model)):
            if value is not None:
                words += [flag, str(value)] if options else [str(value)]
        return [*words, "--last"] if self.last else words

    def find(self, ctx: Context, *, needs_tokenizer: bool) -> SampleModel:
        """Return the model, as :func:`llmc.sample.model.find_model` does, and raise what it raises.

        What was found by default is noted.
        """
        return find_model(
            ctx.workspace,
            self.run,
            self.model,
            last=self.last,
            needs_tokenizer=needs_tokenizer,
            report=ctx.ui,
        )


def with_model(command: Callable[..., None]) -> Any:
    """Give a command the options of :class:`ModelChoice`; it takes them, checked, as ``chosen``."""
    kinds = get_type_hints(ModelChoice, include_extras=True)
    options = {each.name: (kinds[each.name], each.default) for each in fields(ModelChoice)}

    @wraps(command)
    def with_choice(context: typer.Context, **given: Any) -> None:
        chosen = ModelChoice(**{name: given.pop(name) for name in options})
        chosen.check()
        command(context, chosen=chosen, **given)

    return with_options(with_choice, options, instead_of="chosen")
