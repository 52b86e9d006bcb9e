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
from llmc.engine.generator import Generator, generate_argv
from llmc.engine.protocol import NO_TOKEN, Request
from llmc.errors import BadData, Usage
from llmc.sample.text import KEPT, Text, Weights, Written, find_weights, writing_threads

DEFAULT = SampleConfig()
MOST_SAMPLES = 1024
TOGETHER = 16  # texts that are written at the same time: each has a cache of its own
LOW_PENALTY, HIGH_PENALTY = SAMPLE_LIMITS["repetition_penalty"]


def sample(
    ctx: typer.Context,
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
    """Generate text with a trained model.

    The prompt is part of what is printed. A text longer than the model's context goes on from its
    newer half. What no flag says, the run's config does.
    """
    here: Context = ctx.obj
    if run is not None and model is not None:
        raise Usage("--run and --model exclude each other: give one")
    decode = decode or show_probs
    stops = stop or []
    if not all(stops):
        raise Usage("--stop needs at least one character")
    if interactive:
        _check_interactive(here, num_samples, prompt, prompt_file)
    given = read_prompt(prompt, prompt_file)
    chosen = find_weights(
        here,
        run,
        model,
        needs_tokenizer=decode or interactive or bool(stops) or given is not None,
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
    binary = ensure_native(report=here.ui)
    ids = chosen.tokenizer.encode(given) if given and chosen.tokenizer is not None else []
    context = chosen.model.context
    argv = generate_argv(
        binary,
        chosen.checkpoint,
        slots=min(num_samples, TOGETHER),
        positions=context if interactive else min(context, (len(ids) or 1) + settings.tokens),
        dtype=settings.dtype,
        threads=threads or writing_threads(chosen.model),
    )
    eot = NO_TOKEN if ignore_eot else chosen.eot
    with Generator(argv) as generator:
        if interactive:
            from llmc.cli.conversation import Conversation

            talk = Conversation(here.ui, generator, chosen, settings, eot=eot, stops=stops)
            talk.view.colours = show_probs
            talk.run(given)
            return
        if (long := prompt_note(len(ids), context)) is not None:
            here.ui.note(long)
        view = choose_view(here.ui, decode=decode, show_probs=show_probs)
        began = time.monotonic()
        texts = [
            Text(
                generator,
                chosen,
                Request(ids or [chosen.eot], replace(settings, seed=settings.seed + index), eot),
                stops,
            )
            for index in range(num_samples)
        ]
        for index, text in enumerate(texts):
            if here.ui.json:
                told = {"model": str(chosen.checkpoint), "dtype": settings.dtype, "sample": index}
                here.ui.result(told | _fields(chosen, ids, text))
                continue
            if num_samples > 1:
                between = Written(chosen.eot, chosen.text([chosen.eot]) or "")
                heading = f"{index + 1} of {num_samples}, seed {text.seed}"
                view.separate(between, heading, first=index == 0)
            _show(view, chosen, ids, text)
        seconds = time.monotonic() - began
    if show_probs and isinstance(view, TerminalView) and not (here.ui.json or here.ui.quiet):
        here.ui.console.print(legend())
    here.ui.note(summary(texts, seconds))
    here.ui.next("llmc sample -i" if decode else "llmc sample --decode")


def _check_interactive(
    here: Context, num_samples: int, prompt: str | None, prompt_file: Path | None
) -> None:
    """Refuse flags that make no sense in a conversation.

    Raises:
        Usage: there are some, or there is no terminal to have one in.
    """
    if here.ui.json or num_samples > 1:
        raise Usage("-i writes one text at a time, as text: leave out --json and --num-samples")
    if "-" in (prompt, str(prompt_file)) or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Usage("-i needs a terminal: in a pipe use --decode --prompt -")


def read_prompt(prompt: str | None, file: Path | None) -> str | None:
    """Return the prompt: what a flag says, or a file, or stdin; None where there is none.

    A file's last newline is the editor's, not the text's, and is left out.

    Raises:
        Usage: both flags are given.
        BadData: the file cannot be read, or is no text.
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


def _show(view: View, chosen: Weights, ids: Sequence[int], text: Text) -> None:
    """Print a text as it is made."""
    with view:
        view.prompt(ids, chosen.text(ids) or "")
        for written in text:
            view.show(written)


def _fields(chosen: Weights, ids: Sequence[int], text: Text) -> dict[str, Any]:
    """Return what ``--json`` tells of a text, when it has ended."""
    for _ in text:
        pass
    assert text.end is not None
    before = chosen.text(ids)
    whole = None if before is None else (before + text.text).encode(errors=KEPT)
    return {
        "seed": text.seed,
        "prompt_tokens": len(ids),
        "ids": [*ids, *text.ids],
        "text": None if whole is None else whole.decode(errors="replace"),
        "logprobs": text.logprobs,
        "reason": text.reason,
        "prompt_ms": text.end.prompt_ms,
        "ms": text.end.ms,
    }
