"""``llmc sample``: let a trained model write."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from llmc.builder import ensure_native
from llmc.config import SampleConfig, flags_of, load_preset, overridden
from llmc.context import Context
from llmc.errors import BadData, MissingOutput, Usage
from llmc.lookup import tokenizer_of
from llmc.machine import available_cores
from llmc.process import Engine
from llmc.runs import CHECKPOINT, CONFIG, find_run
from llmc.tokenizers import Tokenizer, recorded_tokenizer

DEFAULT = SampleConfig()


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
        typer.Option(metavar="TEXT", help="What to go on from. Default: a new document."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=0, help=f"Tokens to write after the prompt ({DEFAULT.tokens})."),
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
    seed: Annotated[
        int | None,
        typer.Option(min=0, help=f"The same seed writes the same text ({DEFAULT.seed})."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads. Default: one per core. Same text for any.")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Print text, not token ids, as it is made.")
    ] = False,
) -> None:
    """Write with a trained model: token ids on stdout, one a line, or text with --decode.

    The prompt is part of what is printed. A text longer than the model's context goes on from its
    newer half. What no flag says, the run's config does.
    """
    here: Context = ctx.obj
    if run is not None and model is not None:
        raise Usage("--run and --model exclude each other: give one")
    chosen = find_weights(here, run, model, needs_tokenizer=decode or prompt is not None)
    binary = ensure_native(here)
    ids = chosen.tokenizer.encode(prompt) if prompt and chosen.tokenizer is not None else []
    settings = overridden(
        chosen.settings,
        {
            "tokens": tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        },
    )
    begin = ids or chosen.first
    argv = [
        *(str(binary), "sample", "--model", str(chosen.checkpoint)),
        *flags_of(settings),
        *("--threads", str(threads or available_cores())),
        *(["--prompt", ",".join(map(str, begin))] if begin else []),
    ]
    written = []
    with Engine(argv) as engine:
        for token in chain(ids, map(int, engine)):
            written.append(token)
            if not here.ui.json:
                _print(token, chosen.tokenizer if decode else None)
    if decode and not here.ui.json and not here.ui.quiet and sys.stdout.isatty():
        sys.stderr.write("\n")
    here.ui.result(
        {
            "model": str(chosen.checkpoint),
            "prompt_tokens": len(ids),
            "ids": written,
            "text": chosen.text(written),
        }
    )
    here.ui.next(
        "llmc sample --decode --temperature 0.7 --seed 1" if decode else "llmc sample --decode"
    )


@dataclass(frozen=True)
class Weights:
    """A checkpoint, where it is known the tokenizer it was trained with, and how to sample."""

    checkpoint: Path
    tokenizer: Tokenizer | None
    settings: SampleConfig

    @property
    def first(self) -> list[int]:
        """What to begin with where there is no prompt; empty: the vocabulary's last token."""
        known = self.tokenizer
        return [known.eot] if known is not None and known.eot != known.vocab_size - 1 else []

    def text(self, ids: list[int]) -> str | None:
        """Return the text of ``ids``, None where the tokenizer is not known."""
        if self.tokenizer is None:
            return None
        return self.tokenizer.decode_bytes(ids).decode(errors="replace")


def find_weights(
    here: Context, run: str | None, model: Path | None, *, needs_tokenizer: bool
) -> Weights:
    """Return what to sample from: the file or run named, or the newest run.

    Raises:
        MissingOutput: there is none.
        BadData: it is damaged, or a tokenizer is needed and none is known for it.
    """
    if model is not None:
        if not model.is_file():
            raise MissingOutput(f"there is no file {model}: make one with 'llmc export-weights'")
        checkpoint = model
        tokenizer = tokenizer_of(here.workspace, checkpoint)
        settings = DEFAULT
    else:
        folder = find_run(here.workspace, run)
        if run is None:
            here.ui.note(f"run: {here.workspace.shown(folder)} (the newest)")
        checkpoint = folder / CHECKPOINT
        tokenizer = recorded_tokenizer(folder) or tokenizer_of(here.workspace, checkpoint)
        config = folder / CONFIG
        settings = load_preset(str(config)).sample if config.is_file() else DEFAULT
    if needs_tokenizer and tokenizer is None:
        raise BadData(
            f"nothing in the workspace tells the tokenizer of {here.workspace.shown(checkpoint)}: "
            "leave out --prompt and --decode, and name it with 'llmc decode --tokenizer'"
        )
    return Weights(checkpoint, tokenizer, settings)


def _print(token: int, tokenizer: Tokenizer | None) -> None:
    """Write one token to stdout at once: its bytes, perhaps half a character, or its id."""
    data = tokenizer.decode_bytes([token]) if tokenizer is not None else b"%d\n" % token
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
