"""``llmc sample``: write text with a trained model."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llmc.cli.choosing import ModelChoice, with_model
from llmc.cli.context import Context
from llmc.cli.options import in_group, with_settings
from llmc.cli.views.sampling import TerminalView, View, choose_view, legend, prompt_note, summary
from llmc.config import SAMPLE_SETTINGS, SampleConfig
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator
from llmc.engine.protocol import NO_TOKEN, Request
from llmc.errors import BadData, Usage
from llmc.sample.model import SampleModel
from llmc.sample.streaming import KEPT
from llmc.sample.text import Sample, SampledToken
from llmc.setting import overridden
from llmc.text.documents import unescaped

MOST_SAMPLES = 1024
TOGETHER = 16  # texts that are written at the same time; each has a KV cache of its own

of_text = in_group("Text")
of_output = in_group("Output")

Prompt = Annotated[
    str | None,
    of_text(
        "Text to continue; -: read it from stdin, without its last newline. "
        "Default: a new document.",
        "TEXT",
    ),
]
PromptFile = Annotated[
    Path | None, of_text("File with the prompt, without its last newline.", "FILE")
]
Special = Annotated[
    bool, of_text("<|endoftext|> and the like in the prompt are tokens.", names=("--special",))
]
Stop = Annotated[
    list[str] | None,
    of_text("End before this text, in which \\n is a newline. Can be repeated.", "TEXT"),
]
IgnoreEot = Annotated[
    bool, of_text("Continue after an end-of-text token.", names=("--ignore-eot",))
]
NumSamples = Annotated[
    int,
    of_text(
        "Texts to write, with seed, seed + 1, …; end-of-text separates them (1).",
        "N",
        1,
        max=MOST_SAMPLES,
    ),
]
Decode = Annotated[bool, of_output("Print text instead of token ids.", names=("--decode",))]
ShowProbs = Annotated[
    bool,
    of_output("--decode, coloured by probability in a terminal.", names=("--show-probs",)),
]
Interactive = Annotated[
    bool,
    of_output("Ask for prompts, keeping the model loaded.", names=("--interactive", "-i")),
]


@dataclass(frozen=True)
class _Job:
    """What to write."""

    model: SampleModel
    settings: SampleConfig
    ids: Sequence[int]  # the prompt
    eot: int  # the token that ends a text
    stops: Sequence[str]  # strings that end a text
    count: int  # how many texts


@with_settings(SAMPLE_SETTINGS)
@with_model
def sample(
    context: typer.Context,
    *,
    chosen: ModelChoice,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    special: Special = False,
    stop: Stop = None,
    ignore_eot: IgnoreEot = False,
    num_samples: NumSamples = 1,
    decode: Decode = False,
    show_probs: ShowProbs = False,
    interactive: Interactive = False,
    **settings: Any,
) -> None:
    """Generate text with a trained model.

    It prints the prompt and its continuation as token ids, one per line, or as text. A text longer
    than the context continues from its newer half. Other settings come from the run's config.
    """
    ctx: Context = context.obj
    if interactive:
        _check_interactive(ctx, num_samples, prompt, prompt_file)
    decode = decode or show_probs
    given = read_prompt(prompt, prompt_file)
    _check_texts(stop, special=special, has_prompt=interactive or given is not None)
    needs_text = decode or interactive or bool(stop) or given is not None
    model = chosen.find(ctx, needs_tokenizer=needs_text)
    job = _Job(
        model,
        overridden(model.settings, {**settings, "dtype": chosen.dtype}),
        _prompt_ids(ctx, model, given or "", special=special),
        NO_TOKEN if ignore_eot else model.end,
        [*map(unescaped, stop or [])],
        num_samples,
    )
    with Generator(_argv(ctx, job, chosen.threads, interactive=interactive)) as generator:
        if interactive:
            _talk(ctx, generator, job, given, special=special, colours=show_probs)
            return
        if (warning := prompt_note(len(job.ids), model.config.context)) is not None:
            ctx.ui.note(warning)
        _write(ctx, generator, job, choose_view(decode=decode, show_probs=show_probs))
    if model.tokenizer is not None and model.tokenizer.template is not None:
        ctx.ui.next(shlex.join(["llmc", "chat", *chosen.words()]))
    elif model.tokenizer is not None:
        again = "-i" if decode else "--decode"
        ctx.ui.next(shlex.join(["llmc", "sample", again, *chosen.words(options=True)]))


def _check_texts(stop: list[str] | None, *, special: bool, has_prompt: bool) -> None:
    if not all(stop or []):
        raise Usage("--stop needs at least one character")
    if special and not has_prompt:
        raise Usage("--special is about the prompt: give one, or leave it out")


def _talk(
    ctx: Context,
    generator: Generator,
    job: _Job,
    first: str | None,
    *,
    special: bool,
    colours: bool,
) -> None:
    """Ask for prompts until the person ends the session."""
    from llmc.cli.conversation import Conversation, Session

    session = Session(ctx.ui, generator, job.model, job.settings, job.stops)
    talk = Conversation(session, eot=job.eot, special=special)
    talk.view.colours = colours
    talk.run(first)


def _prompt_ids(ctx: Context, model: SampleModel, prompt: str, *, special: bool) -> list[int]:
    """Return the ids of a prompt; say what is not taken as it stands."""
    if not prompt or model.tokenizer is None:
        return []
    written = [text for text in model.tokenizer.special_tokens if text in prompt]
    if written and not special:
        ctx.ui.note(f"{written[0]} in the prompt is taken as text; with --special it is a token")
    if model.unix and "\r" in prompt:
        ctx.ui.note("line ends CR LF and CR in the prompt became LF, as in texts to train on")
    return model.ids(prompt, special=special)


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


def _write(ctx: Context, generator: Generator, job: _Job, view: View) -> None:
    """Write all texts, and the statistics."""
    model, ui, started = job.model, ctx.ui, time.monotonic()
    ids, prompt = job.ids or [model.eot], model.text(job.ids) or ""
    settings = [replace(job.settings, seed=job.settings.seed + n) for n in range(job.count)]
    requests = [Request(ids, each, job.eot) for each in settings]
    samples = [Sample(generator, model.tokenizer, each, job.stops) for each in requests]
    for index, each in enumerate(samples):
        if ui.json:
            ui.result(_fields(job, index, each))
            continue
        if job.count > 1:
            separator = SampledToken(model.eot, model.text([model.eot]) or "")
            heading = f"{index + 1} of {job.count}, seed {each.seed}"
            view.separate(separator, heading, first=index == 0)
        with view:
            view.prompt(job.ids, prompt)
            for token in each:
                view.show(token)
    seconds = time.monotonic() - started
    if not (ui.quiet or ui.json):
        if not view.at_line_start and _same_output():
            sys.stderr.write("\n")
        if isinstance(view, TerminalView) and view.colours:
            ui.console.print(legend())
    ui.note(summary(samples, seconds))


def _same_output() -> bool:
    """Return whether stdout and stderr go to the same file, pipe or terminal."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (OSError, ValueError):  # a stream without a file
        return False


def _check_interactive(
    ctx: Context, num_samples: int, prompt: str | None, prompt_file: Path | None
) -> None:
    """Refuse flags that do not fit an interactive session."""
    if ctx.ui.json or num_samples > 1:
        raise Usage("-i writes one text at a time, as text: leave out --json and --num-samples")
    if "-" in (prompt, str(prompt_file)) or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Usage("-i needs a terminal: in a pipe use --decode --prompt -")


def read_prompt(prompt: str | None, file: Path | None) -> str | None:
    """Return the prompt from a flag, a file or stdin; None if there is none.

    The last newline of a file or of stdin is dropped, and a byte order mark at the start.

    Raises:
        Usage: both flags are given.
        BadData: the file cannot be read, or is not UTF-8.
    """
    if prompt is not None and file is not None:
        raise Usage("--prompt and --prompt-file exclude each other: give one")
    if prompt != "-" and file is None:
        return prompt.removeprefix("\ufeff") if prompt is not None else None
    name = "stdin" if file is None or str(file) == "-" else str(file)
    try:
        data = sys.stdin.buffer.read() if name == "stdin" else Path(name).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise BadData(f"cannot read the prompt from {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadData(
            f"the prompt from {name} is not UTF-8 text (byte {error.start:,}): convert it"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def _fields(job: _Job, index: int, sample: Sample) -> dict[str, Any]:
    """Return the fields of ``--json`` for a text, once it has ended."""
    end = sample.finished().end
    assert end is not None
    prompt = job.model.text(job.ids)
    whole = None if prompt is None else (prompt + sample.text).encode(errors=KEPT)
    return {
        "model": str(job.model.checkpoint),
        "dtype": job.settings.dtype,
        "sample": index,
        "seed": sample.seed,
        "prompt_tokens": len(job.ids),
        "ids": [*job.ids, *sample.ids],
        "text": None if whole is None else whole.decode(errors="replace"),
        "logprobs": sample.logprobs,
        "reason": sample.reason,
        "prompt_ms": end.prompt_ms,
        "ms": end.ms,
    }
