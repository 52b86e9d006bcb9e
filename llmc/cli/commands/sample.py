"""``llmc sample``: write text with a trained model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llmc.cli.context import Context
from llmc.cli.model_options import (
    DtypeOption,
    ModelOption,
    RunOption,
    ThreadsOption,
    flag,
    option,
    with_sample_settings,
)
from llmc.cli.views.sampling import TerminalView, View, choose_view, legend, prompt_note, summary
from llmc.config import SampleConfig, overridden
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator
from llmc.engine.protocol import NO_TOKEN, Request
from llmc.errors import BadData, Usage
from llmc.sample.model import SampleModel, find_model
from llmc.sample.streaming import KEPT
from llmc.sample.text import Sample, SampledToken

MOST_SAMPLES = 1024
TOGETHER = 16  # texts that are written at the same time; each has a KV cache of its own

PromptOption = Annotated[
    str | None,
    option(
        "Text to continue; -: read it from stdin, without its last newline. "
        "Default: a new document.",
        "TEXT",
    ),
]
NumSamplesOption = Annotated[
    int,
    option(
        "Texts to write, with seed, seed + 1, …; end-of-text separates them (1).",
        "N",
        1,
        max=MOST_SAMPLES,
    ),
]


@dataclass(frozen=True)
class _Job:
    """What to write.

    Attributes:
        model: the model.
        settings: the sampling settings.
        ids: the prompt.
        eot: the token that ends a text.
        stops: strings that end a text.
        count: how many texts.
    """

    model: SampleModel
    settings: SampleConfig
    ids: Sequence[int]
    eot: int
    stops: Sequence[str]
    count: int


@with_sample_settings
def sample(
    context: typer.Context,
    *,
    run: RunOption = None,
    model: ModelOption = None,
    prompt: PromptOption = None,
    prompt_file: Annotated[
        Path | None, option("File with the prompt, without its last newline.", "FILE")
    ] = None,
    stop: Annotated[
        list[str] | None, option("End before this text. Can be repeated.", "TEXT")
    ] = None,
    ignore_eot: Annotated[
        bool, flag("--ignore-eot", "Continue after an end-of-text token.")
    ] = False,
    num_samples: NumSamplesOption = 1,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    decode: Annotated[bool, flag("--decode", "Print text instead of token ids.")] = False,
    show_probs: Annotated[
        bool, flag("--show-probs", "--decode, coloured by probability in a terminal.")
    ] = False,
    interactive: Annotated[
        bool,
        typer.Option("--interactive", "-i", help="Ask for prompts, keeping the model loaded."),
    ] = False,
    **settings: Any,
) -> None:
    """Generate text with a trained model.

    It prints the prompt and its continuation as token ids, one per line, or as text. A text longer
    than the context continues from its newer half. Other settings come from the run's config.
    """
    ctx: Context = context.obj
    if run is not None and model is not None:
        raise Usage("--run and --model exclude each other: give one")
    if not all(stop or []):
        raise Usage("--stop needs at least one character")
    if interactive:
        _check_interactive(ctx, num_samples, prompt, prompt_file)
    decode = decode or show_probs
    given = read_prompt(prompt, prompt_file)
    needs_text = decode or interactive or bool(stop) or given is not None
    chosen = find_model(ctx.workspace, run, model, needs_tokenizer=needs_text, report=ctx.ui)
    job = _Job(
        chosen,
        overridden(chosen.settings, {**settings, "dtype": dtype}),
        chosen.tokenizer.encode(given) if given and chosen.tokenizer is not None else [],
        NO_TOKEN if ignore_eot else chosen.eot,
        stop or [],
        num_samples,
    )
    with Generator(_argv(ctx, job, threads, interactive=interactive)) as generator:
        if interactive:
            _converse(ctx, generator, job, given, show_probs=show_probs)
            return
        if (warning := prompt_note(len(job.ids), chosen.config.context)) is not None:
            ctx.ui.note(warning)
        _write(ctx, generator, job, choose_view(decode=decode, show_probs=show_probs))
    ctx.ui.next("llmc sample -i" if decode else "llmc sample --decode")


def _argv(ctx: Context, job: _Job, threads: int | None, *, interactive: bool) -> list[str]:
    """Return the engine's command line, with a cache no longer than the text will be."""
    length = job.model.config.context
    needed = (len(job.ids) or 1) + job.settings.tokens
    return job.model.argv(
        ensure_native(report=ctx.ui),
        slots=min(job.count, TOGETHER),
        positions=length if interactive else min(length, needed),
        dtype=job.settings.dtype,
        threads=threads,
    )


def _converse(
    ctx: Context, generator: Generator, job: _Job, first: str | None, *, show_probs: bool
) -> None:
    from llmc.cli.conversation import Conversation

    talk = Conversation(ctx.ui, generator, job.model, job.settings, eot=job.eot, stops=job.stops)
    talk.view.colours = show_probs
    talk.run(first)


def _write(ctx: Context, generator: Generator, job: _Job, view: View) -> None:
    """Write all texts, and the statistics."""
    model, settings = job.model, job.settings
    started = time.monotonic()
    samples = [
        Sample(
            generator,
            model.tokenizer,
            Request(job.ids or [model.eot], replace(settings, seed=settings.seed + index), job.eot),
            job.stops,
        )
        for index in range(job.count)
    ]
    for index, each in enumerate(samples):
        if ctx.ui.json:
            head = {"model": str(model.checkpoint), "dtype": settings.dtype, "sample": index}
            ctx.ui.result(head | _fields(model, job.ids, each))
            continue
        if job.count > 1:
            separator = SampledToken(model.eot, model.text([model.eot]) or "")
            heading = f"{index + 1} of {job.count}, seed {each.seed}"
            view.separate(separator, heading, first=index == 0)
        _show(view, model, job.ids, each)
    seconds = time.monotonic() - started
    if not (ctx.ui.quiet or ctx.ui.json or view.at_line_start) and _same_output():
        sys.stderr.write("\n")
    if isinstance(view, TerminalView) and view.colours and not (ctx.ui.json or ctx.ui.quiet):
        ctx.ui.console.print(legend())
    ctx.ui.note(summary(samples, seconds))


def _same_output() -> bool:
    """Return whether stdout and stderr go to the same file, pipe or terminal."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (OSError, ValueError):  # a stream without a file
        return False


def _check_interactive(
    ctx: Context, num_samples: int, prompt: str | None, prompt_file: Path | None
) -> None:
    """Refuse flags that do not fit an interactive session.

    Raises:
        Usage: there are some, or there is no terminal.
    """
    if ctx.ui.json or num_samples > 1:
        raise Usage("-i writes one text at a time, as text: leave out --json and --num-samples")
    if "-" in (prompt, str(prompt_file)) or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Usage("-i needs a terminal: in a pipe use --decode --prompt -")


def read_prompt(prompt: str | None, file: Path | None) -> str | None:
    """Return the prompt from a flag, a file or stdin; None if there is none.

    The last newline of a file or of stdin is dropped.

    Raises:
        Usage: both flags are given.
        BadData: the file cannot be read, or is not UTF-8.
    """
    if prompt is not None and file is not None:
        raise Usage("--prompt and --prompt-file exclude each other: give one")
    if prompt != "-" and file is None:
        return prompt
    name = "stdin" if file is None or str(file) == "-" else str(file)
    try:
        data = sys.stdin.buffer.read() if name == "stdin" else Path(name).read_bytes()
        text = data.decode()
    except OSError as error:
        raise BadData(f"cannot read the prompt from {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadData(
            f"the prompt from {name} is not UTF-8 text (byte {error.start:,}): convert it"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def _show(view: View, chosen: SampleModel, ids: Sequence[int], sample: Sample) -> None:
    """Print a text while it is written."""
    with view:
        view.prompt(ids, chosen.text(ids) or "")
        for token in sample:
            view.show(token)


def _fields(chosen: SampleModel, ids: Sequence[int], sample: Sample) -> dict[str, Any]:
    """Return the fields of ``--json`` for a text, once it has ended."""
    end = sample.finished().end
    assert end is not None
    prompt = chosen.text(ids)
    whole = None if prompt is None else (prompt + sample.text).encode(errors=KEPT)
    return {
        "seed": sample.seed,
        "prompt_tokens": len(ids),
        "ids": [*ids, *sample.ids],
        "text": None if whole is None else whole.decode(errors="replace"),
        "logprobs": sample.logprobs,
        "reason": sample.reason,
        "prompt_ms": end.prompt_ms,
        "ms": end.ms,
    }
