"""``llmc sample``: let a trained model write."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmc.cli.context import Context
from llmc.cli.views.sampling import TerminalView, View, choose_view, legend, prompt_note, summary
from llmc.config import SAMPLE_LIMITS, SampleConfig, overridden
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator
from llmc.engine.protocol import NO_TOKEN, Request
from llmc.errors import BadData, Usage
from llmc.sample.model import SampleModel, find_model
from llmc.sample.streaming import KEPT
from llmc.sample.text import Sample, SampledToken

DEFAULT = SampleConfig()
MOST_SAMPLES = 1024
TOGETHER = 16  # texts that are written at the same time: each has a cache of its own
LOW_PENALTY, HIGH_PENALTY = SAMPLE_LIMITS["repetition_penalty"]


def sample(
    context: typer.Context,
    *,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run to sample from. Default: the newest.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checkpoint to sample from, instead.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What to go on from; -: what stdin says, without its last newline. "
            "Default: a new document.",
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file with the prompt, without its last newline."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=0, help=f"Tokens to write after the prompt, at most ({DEFAULT.tokens})."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            help=f"Below 1 likelier words, 0 always the likeliest ({DEFAULT.temperature:g}).",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help=f"Draw from the K likeliest, 0: from all ({DEFAULT.top_k})."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help=f"Draw from the likeliest that together reach P ({DEFAULT.top_p:g})."
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Draw from those at least P times as likely as the likeliest, 0: from all "
            f"({DEFAULT.min_p:g}).",
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            min=LOW_PENALTY,
            max=HIGH_PENALTY,
            help="Above 1 tokens that the text holds become less likely "
            f"({DEFAULT.repetition_penalty:g}: none).",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help=f"The same seed writes the same text ({DEFAULT.seed})."),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="End before this text comes. May be repeated."),
    ] = None,
    ignore_eot: Annotated[
        bool,
        typer.Option(
            "--ignore-eot", help="Go on past an end-of-text token. Default: end before it."
        ),
    ] = False,
    num_samples: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_SAMPLES,
            metavar="N",
            help="Texts to write together, with seed, seed + 1 …; end-of-text is between them (1).",
        ),
    ] = 1,
    dtype: Annotated[
        Literal["fp32", "bf16", "int8"] | None,
        typer.Option(help=f"What weights are kept as: smaller is faster ({DEFAULT.dtype})."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads; the same text for any. Default: one per core, at most one for every 4 "
            "million parameters.",
        ),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Print text, not token ids, as it is made.")
    ] = False,
    show_probs: Annotated[
        bool,
        typer.Option(
            "--show-probs", help="In a terminal colour tokens by their probability; --decode too."
        ),
    ] = False,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive",
            "-i",
            help="Ask for prompts until Ctrl-D, the model staying loaded; /help there tells more.",
        ),
    ] = False,
) -> None:
    """Write with a trained model: token ids on stdout, one per line, or text with --decode.

    The output begins with the prompt. A text longer than the model's context continues from its
    newer half. Settings that are not given as flags come from the run's config.
    """
    ctx: Context = context.obj
    if run is not None and model is not None:
        raise Usage("--run and --model exclude each other: give one")
    decode = decode or show_probs
    stops = stop or []
    if not all(stops):
        raise Usage("--stop needs at least one character")
    if interactive:
        _check_interactive(ctx, num_samples, prompt, prompt_file)
    given = read_prompt(prompt, prompt_file)
    chosen = find_model(
        ctx.workspace,
        run,
        model,
        needs_tokenizer=decode or interactive or bool(stops) or given is not None,
        report=ctx.ui,
    )
    settings = overridden(
        chosen.settings,
        {
            "tokens": tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "dtype": dtype,
        },
    )
    ids = chosen.tokenizer.encode(given) if given and chosen.tokenizer is not None else []
    length = chosen.config.context
    argv = chosen.argv(
        ensure_native(report=ctx.ui),
        slots=min(num_samples, TOGETHER),
        positions=length if interactive else min(length, (len(ids) or 1) + settings.tokens),
        dtype=settings.dtype,
        threads=threads,
    )
    eot = NO_TOKEN if ignore_eot else chosen.eot
    with Generator(argv) as generator:
        if interactive:
            from llmc.cli.conversation import Conversation

            talk = Conversation(ctx.ui, generator, chosen, settings, eot=eot, stops=stops)
            talk.view.colours = show_probs
            talk.run(given)
            return
        if (warning := prompt_note(len(ids), length)) is not None:
            ctx.ui.note(warning)
        view = choose_view(decode=decode, show_probs=show_probs)
        started = time.monotonic()
        samples = [
            Sample(
                generator,
                chosen.tokenizer,
                Request(ids or [chosen.eot], replace(settings, seed=settings.seed + index), eot),
                stops,
            )
            for index in range(num_samples)
        ]
        for index, sample_ in enumerate(samples):
            if ctx.ui.json:
                first = {"model": str(chosen.checkpoint), "dtype": settings.dtype, "sample": index}
                ctx.ui.result(first | _fields(chosen, ids, sample_))
                continue
            if num_samples > 1:
                eot_token = SampledToken(chosen.eot, chosen.text([chosen.eot]) or "")
                heading = f"{index + 1} of {num_samples}, seed {sample_.seed}"
                view.separate(eot_token, heading, first=index == 0)
            _show(view, chosen, ids, sample_)
        seconds = time.monotonic() - started
    if show_probs and isinstance(view, TerminalView) and not (ctx.ui.json or ctx.ui.quiet):
        ctx.ui.console.print(legend())
    ctx.ui.note(summary(samples, seconds))
    ctx.ui.next("llmc sample -i" if decode else "llmc sample --decode")


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
