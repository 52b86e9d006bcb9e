"""``llmc train``: run the engine on a dataset and show how it goes."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmc.check.trial import instruction_sets
from llmc.cli.context import Context
from llmc.cli.views.training import History
from llmc.config import MOST_STEPS, TrainConfig
from llmc.engine.build import ensure_native
from llmc.engine.machine import available_cores
from llmc.errors import Usage
from llmc.model import flops_per_token
from llmc.train.dry_run import PlanView
from llmc.train.loop import (
    begin_anew,
    begin_resumed,
    engine_arguments,
    run_engine,
    say_choices,
    train_in_earnest,
)
from llmc.train.record import Setup
from llmc.train.start import check_match
from llmc.train.storage import Storage
from llmc.units import count_of, seconds_of
from llmc.weights.checkpoint import read_header

DEFAULT = TrainConfig()


def train(
    ctx: typer.Context,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Dataset folder, token file or glob pattern of several; with --resume, where the "
            "run's own was moved to. Default: the dataset prepared last."
        ),
    ] = None,
    val_data: Annotated[
        Path | None,
        typer.Option(help="Token file or pattern to validate on. Default: the dataset's."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to start from. Default: the one prepared with the data."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="TOML", help="Preset by name (python-stdlib) or file; flags win."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_STEPS,
            help=f"Updates to make ({DEFAULT.steps}, but any where only time, tokens or epochs are "
            "given).",
        ),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Time to train, such as 2h, 1h30m, 90m or 45s, that of resumed parts included; 0: "
            f"any ({DEFAULT.max_time}).",
        ),
    ] = None,
    max_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS",
            help=f"Tokens to train on, such as 250000, 1e6 or 10M; 0: any ({DEFAULT.max_tokens}).",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_STEPS,
            help=f"Visits to every window of T tokens; 0: any ({DEFAULT.epochs}).",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Validations in a row without a new best that end the run; 0: it goes on "
            f"({DEFAULT.patience}).",
        ),
    ] = None,
    min_delta: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="By more than this loss a new best must be lower than the one before "
            f"({DEFAULT.min_delta:g}).",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"B, rows in a batch ({DEFAULT.batch_size}).")
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(min=1, help=f"T, tokens in a row ({DEFAULT.seq_len}).")
    ] = None,
    total_batch_size: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="TOKENS",
            help="Tokens in an update: a multiple of B x T; gradients are added up (0: B x T).",
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(min=0, help=f"Learning rate, the highest ({DEFAULT.lr:g}).")
    ] = None,
    schedule: Annotated[
        Literal["constant", "cosine", "linear", "wsd"] | None,
        typer.Option(help=f"How the learning rate sinks after the warmup ({DEFAULT.schedule})."),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, help=f"Steps in which the learning rate rises ({DEFAULT.warmup})."),
    ] = None,
    lr_final: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help=f"Part of the learning rate left at the end ({DEFAULT.lr_final:g})."
        ),
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help=f"Part of all steps in which wsd sinks ({DEFAULT.decay:g})."
        ),
    ] = None,
    beta1: Annotated[
        float | None, typer.Option(min=0, help=f"AdamW's decay of the mean ({DEFAULT.beta1:g}).")
    ] = None,
    beta2: Annotated[
        float | None, typer.Option(min=0, help=f"AdamW's decay of the square ({DEFAULT.beta2:g}).")
    ] = None,
    eps: Annotated[
        float | None, typer.Option(min=0, help=f"AdamW's epsilon ({DEFAULT.eps:g}).")
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(min=0, help=f"AdamW's decay, of matrices only ({DEFAULT.weight_decay:g})."),
    ] = None,
    grad_clip: Annotated[
        float | None,
        typer.Option(
            min=0, help=f"Largest global norm of the gradient, 0: any ({DEFAULT.grad_clip:g})."
        ),
    ] = None,
    skip_loss_z: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Skip the update of a step whose loss is above the mean of the last 128 by more "
            f"than so many of their standard deviations; 0: none ({DEFAULT.skip_loss_z:g}).",
        ),
    ] = None,
    skip_grad_z: Annotated[
        float | None,
        typer.Option(
            min=0, help=f"The same of the gradient's norm; 0: none ({DEFAULT.skip_grad_z:g})."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads. Default: one per core. Same bits for any.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help=f"Of the shuffle, the samples and rounding ({DEFAULT.seed})."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Folder in runs/. Default: DATASET-NUMBER.")
    ] = None,
    shuffle: Annotated[
        bool | None,
        typer.Option(
            "--shuffle/--no-shuffle",
            help="Visit windows of T tokens in random order, each once an epoch, or in order "
            "(--shuffle).",
        ),
    ] = None,
    dtype: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(
            help="What linear layers multiply; bf16 halves the activations, the weights stay fp32 "
            f"({DEFAULT.dtype})."
        ),
    ] = None,
    recompute: Annotated[
        bool | None,
        typer.Option(
            "--recompute/--no-recompute",
            help="Keep one layer's activations and compute the others again: less memory, same "
            "numbers, a sixth more time (--no-recompute).",
        ),
    ] = None,
    optimizer_state: Annotated[
        Literal["fp32", "bf16", "8bit"] | None,
        typer.Option(
            help="How AdamW's two running means are stored: 8, 4 or about 2 bytes a parameter "
            f"({DEFAULT.optimizer_state})."
        ),
    ] = None,
    val_every: Annotated[
        int | None,
        typer.Option(min=0, help=f"Steps between validations, 0: never ({DEFAULT.val_every})."),
    ] = None,
    val_batches: Annotated[
        int | None,
        typer.Option(min=1, help=f"Batches in a validation, at most ({DEFAULT.val_batches})."),
    ] = None,
    sample_every: Annotated[
        int | None,
        typer.Option(min=0, help=f"Steps between samples, 0: never ({DEFAULT.sample_every})."),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Steps between checkpoints (0: one at the end). With it, or with --patience, each "
            "new lowest validation loss is saved too.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Checkpoints to keep, the newest; best.bin holds the weights with the lowest "
            f"validation loss ({DEFAULT.keep}).",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run from its newest checkpoint, bit for bit: the newest run, or "
            "the one that --run names.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Tell the memory, the time and the disk that the run will take; write nothing.",
        ),
    ] = False,
) -> None:
    """Train a model. Ctrl-C finishes the step and saves.

    The defaults are llm.c's. The run's folder gets the resolved config, metrics.jsonl and the
    checkpoint. A run that needs more memory than there is, or than LLMC_MEMORY allows in bytes, is
    refused.
    """
    here: Context = ctx.obj
    if resume and dry_run:
        raise Usage(
            "--dry-run tells what a new run will take, and --resume goes on with one that has "
            "begun: leave one of them out"
        )
    # The settings among the flags have the names that TrainConfig gives them.
    given = {item.name: ctx.params[item.name] for item in fields(TrainConfig)}
    given["max_tokens"] = _count(max_tokens)
    begin = begin_resumed if resume else begin_anew
    begun = begin(here, run, given, config=config, model=model, data=(data, val_data))
    settings, dataset, start = begun.settings, begun.data, begun.model
    header = read_header(start)
    check_match(here.workspace, dataset, start, header)
    if settings.seq_len > header.config.context:
        raise Usage(
            f"--seq-len {settings.seq_len} is more than the {header.config.context} positions of "
            f"{here.workspace.shown(start)}: use at most that"
        )
    threads = threads or available_cores()
    binary = ensure_native(report=here.ui)
    history = History(
        settings.steps,
        flops_per_token=flops_per_token(header.config, settings.seq_len),
        max_seconds=seconds_of(settings.max_time),
    )
    validates = dataset.val is not None and settings.val_every > 0
    storage = Storage.of(header.config, settings, begun.folder, validates=validates)
    if dry_run:
        say_choices(here, begun, threads)
        plan = PlanView(settings, silent=here.ui.quiet or here.ui.json, storage=storage)
        argv = engine_arguments(dataset, start, None, settings, threads)
        run_engine([str(binary), "train", *argv, "--dry-run", "1"], plan, history, dataset.decode)
        here.ui.result(plan.result())
        here.ui.next(typed_in_earnest(ctx))
        return
    if (warning := storage.warning()) is not None:
        here.ui.note(warning)
    *_, chosen = instruction_sets(binary)
    train_in_earnest(here, begun, Setup(binary, chosen["isa"], threads), history, run=run)


def _count(text: str | None) -> int | None:
    try:
        return count_of(text) if text is not None else None
    except ValueError as error:
        raise Usage(f"--max-tokens: {error}") from error


def typed_in_earnest(ctx: typer.Context) -> str:
    """Return the command as it was typed, without ``--dry-run``."""
    words = ["llmc", "train"]
    for name, value in ctx.params.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            given = name not in ("dry_run", "resume")  # the two that are never typed as --no-
            words += [f"--{flag}" if value else f"--no-{flag}"] if given else []
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)
