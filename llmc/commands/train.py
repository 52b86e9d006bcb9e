"""``llmc train``: run the engine on a dataset and show how it goes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmc.builder import ensure_native
from llmc.config import (
    MOST_STEPS,
    ModelConfig,
    Preset,
    TrainConfig,
    flags_of,
    load_preset,
    settings_of,
)
from llmc.context import Context
from llmc.endings import ending, further
from llmc.errors import Interrupted, LlmcError, Usage
from llmc.formats.checkpoint import read_header
from llmc.inputs import Data, check_match, find_data, find_model
from llmc.machine import available_cores
from llmc.measure import flops_per_token
from llmc.metrics import Metrics, read_metrics
from llmc.planning import PlanView
from llmc.process import Engine
from llmc.run_record import recorded_inputs, resumable, resumed_settings, write_record
from llmc.runs import CHECKPOINT, CONFIG, METRICS, discard_run, new_run, write_config
from llmc.tokenizers import record_tokenizer
from llmc.training_view import History, PlainView, choose_view, precision
from llmc.units import clock, count_of, megabytes, seconds_of

DEFAULT = TrainConfig()
SAMPLE_TOKENS = 64


def train(
    ctx: typer.Context,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Dataset folder, token file or glob pattern of several. Default: the dataset "
            "prepared last."
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
            help="Skip the update of a step whose loss lies more standard deviations above the "
            f"mean of the last 128; 0: none ({DEFAULT.skip_loss_z:g}).",
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
        typer.Option(min=0, help=f"Of the shuffle and the samples ({DEFAULT.seed})."),
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
            help="Steps between checkpoints; one is always saved at the end (0: only there).",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Checkpoints to keep, the newest; best.bin holds the weights of the one with the "
            f"lowest validation loss ({DEFAULT.keep}).",
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
            "--dry-run", help="Tell the memory and the time that the run will take; write nothing."
        ),
    ] = False,
) -> None:
    """Train a model. Ctrl-C finishes the step and saves.

    The defaults are llm.c's. The run's folder gets the resolved config, metrics.jsonl and the
    checkpoint. A run that needs more memory than there is, or than LLMC_MEMORY allows in bytes, is
    refused.
    """
    here: Context = ctx.obj
    given = {
        "steps": steps,
        "max_time": max_time,
        "max_tokens": _count(max_tokens),
        "epochs": epochs,
        "patience": patience,
        "min_delta": min_delta,
        "batch_size": batch_size,
        "seq_len": seq_len,
        "total_batch_size": total_batch_size,
        "lr": lr,
        "schedule": schedule,
        "warmup": warmup,
        "lr_final": lr_final,
        "decay": decay,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "weight_decay": weight_decay,
        "grad_clip": grad_clip,
        "skip_loss_z": skip_loss_z,
        "skip_grad_z": skip_grad_z,
        "seed": seed,
        "shuffle": shuffle,
        "dtype": dtype,
        "recompute": recompute,
        "val_every": val_every,
        "val_batches": val_batches,
        "sample_every": sample_every,
        "save_every": save_every,
        "keep": keep,
    }
    if resume:
        begun = _resumed(
            here, run, given, {"config": config, "model": model, "data": data, "val-data": val_data}
        )
    else:
        begun = _anew(here, run, given, config=config, model=model, data=(data, val_data))
    settings, dataset, start, folder = begun.settings, begun.data, begun.model, begun.folder
    header = read_header(start)
    check_match(here, dataset, start, header)
    if settings.seq_len > header.config.context:
        raise Usage(
            f"--seq-len {settings.seq_len} is more than the {header.config.context} positions of "
            f"{here.workspace.shown(start)}: use at most that"
        )
    threads = threads or available_cores()
    binary = ensure_native(here)
    where = here.workspace.shown
    here.ui.note(f"data: {where(dataset.train)}")
    here.ui.note(f"validation: {where(dataset.val) if dataset.val else 'none'}")
    here.ui.note(f"model: {where(start)}")
    here.ui.note(f"settings: {begun.preset.name}; threads: {threads}; run: {where(folder)}")

    argv = [str(binary), "train"]
    argv += engine_arguments(dataset, start, None if dry_run else folder, settings, threads)
    argv += ["--resume", "1"] if resume else []
    history = History(
        settings.steps,
        flops_per_token=flops_per_token(header.config, settings.seq_len),
        max_seconds=seconds_of(settings.max_time),
    )
    if dry_run:
        plan = PlanView(settings, silent=here.ui.quiet or here.ui.json)
        run_engine([*argv, "--dry-run", "1"], plan, history, dataset.decode)
        here.ui.result(plan.result())
        here.ui.next(typed_in_earnest(ctx))
        return
    _in_earnest(here, begun, header.config, argv, history, resume=resume)


def _in_earnest(
    here: Context,
    begun: _Beginning,
    shape: ModelConfig,
    argv: Sequence[str],
    history: History,
    *,
    resume: bool,
) -> None:
    """Train, and say how it ended.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    settings, dataset, folder = begun.settings, begun.data, begun.folder
    where = here.workspace.shown
    view = choose_view(silent=here.ui.quiet or here.ui.json, title=f"llmc train · {folder.name}")
    before = (folder / CONFIG).read_bytes() if resume else None
    try:
        write_config(folder, shape, settings, begun.preset.sample)
        if not resume:
            write_record(folder, here.workspace, dataset, begun.model)
        if dataset.tokenizer is not None:
            record_tokenizer(dataset.tokenizer, folder)
        told = folder / METRICS
        earlier = read_metrics(told) if resume and told.is_file() else Metrics()
        run_engine(argv, view, history, dataset.decode, earlier)
    except Interrupted as stop:
        report(here, folder, history, settings)
        saved = (
            f"saved {where(folder / CHECKPOINT)}" if history.saved_step is not None else "not saved"
        )
        done = f"{len(history.train):,}"
        done += f" of {history.steps:,}" if history.steps is not None else ""
        raise Interrupted(f"interrupted after {done} steps; {saved}") from stop
    except LlmcError:
        _take_back(folder, before, history)
        raise
    report(here, folder, history, settings)
    commands = ["llmc sample --decode"]
    flags = further(history.end, settings) if history.end else []
    if resume and flags and len(history.train) == history.before:
        here.ui.note(f"there was nothing to do: {ending(history.end, settings)}")
        commands.append(shlex.join(["llmc", "train", "--resume", "--run", folder.name, *flags]))
    else:
        commands.append(f"llmc sample --decode --run {folder.name} --temperature 0.8")
    here.ui.next(*commands)


def _count(text: str | None) -> int | None:
    try:
        return count_of(text) if text is not None else None
    except ValueError as error:
        raise Usage(f"--max-tokens: {error}") from error


@dataclass(frozen=True)
class _Beginning:
    """What a run begins with: all that the flags, a preset or the run's own record say."""

    folder: Path
    preset: Preset
    settings: TrainConfig
    data: Data
    model: Path


def _anew(
    here: Context,
    run: str | None,
    given: Mapping[str, Any],
    *,
    config: str | None,
    model: Path | None,
    data: tuple[Path | None, Path | None],
) -> _Beginning:
    """Begin a new run.

    Raises:
        LlmcError: data or model are missing or broken, or the run exists.
    """
    preset = load_preset(config) if config is not None else Preset()
    settings = settings_of(preset, given)
    dataset = find_data(here, *data)
    start = find_model(here, model, dataset)
    folder = new_run(here.workspace, run, dataset.name)
    return _Beginning(folder, preset, settings, dataset, start)


def _resumed(
    here: Context, run: str | None, given: Mapping[str, Any], inputs: Mapping[str, object]
) -> _Beginning:
    """Go on with a run.

    Raises:
        Usage: a flag would make it another run.
        LlmcError: there is none, or its data is not there any more.
    """
    for name, value in inputs.items():
        if value is not None:
            raise Usage(
                "--resume goes on with the run's own data, model and settings: leave out "
                f"--{name}, or start a new run from its weights with --model"
            )
    folder, preset, record = resumable(here.workspace, run)
    settings = resumed_settings(preset.train, given)
    return _Beginning(folder, preset, settings, *recorded_inputs(here, folder, record))


def _take_back(folder: Path, before: bytes | None, history: History) -> None:
    """Leave the folder of a run that ended in failure before it began as it was.

    ``before`` is the config of a run that was to be resumed; None: the run is new.
    """
    if before is None:
        if not (history.train or history.val):
            discard_run(folder)
    elif not history.start:
        (folder / CONFIG).write_bytes(before)


def engine_arguments(
    data: Data, model: Path, folder: Path | None, settings: TrainConfig, threads: int
) -> list[str]:
    """Return what the engine's ``train`` is told: every setting under its own name."""
    argv = ["--data", str(data.train), "--model", str(model)]
    argv += ["--val-data", str(data.val)] if data.val is not None else []
    argv += ["--out", str(folder)] if folder is not None else []
    argv += ["--threads", str(threads), "--events", "json"]
    argv += ["--sample-tokens", str(SAMPLE_TOKENS)]
    if data.tokenizer is not None and data.tokenizer.eot != data.tokenizer.vocab_size - 1:
        argv += ["--eot", str(data.tokenizer.eot)]
    return argv + flags_of(settings)


def run_engine(
    argv: Sequence[str],
    view: PlainView,
    history: History,
    decode: Callable[[Sequence[int]], str],
    earlier: Metrics | None = None,
) -> None:
    """Run the engine to its end, showing each event as it comes.

    ``earlier`` is what a resumed run told before; what belongs to its steps so far counts.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    with Engine(argv) as engine, view:
        for line in engine:
            try:
                event = json.loads(line)
            except ValueError as error:
                raise LlmcError(f"the engine said what is no event: {line[:80]!r}") from error
            if event.get("event") == "start" and earlier is not None:
                history.resume(earlier, event["step"])
            history.add(event, decode)
            view.update(event, history)


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


def report(here: Context, folder: Path, history: History, settings: TrainConfig) -> None:
    """Say how the run ended: the curve, the numbers, where things are."""
    where = here.workspace.shown
    if len(history.train) > 1 and not here.ui.quiet:
        here.ui.note("\nloss over steps (● validation)")
        here.ui.note(history.curve() + "\n")
    seconds = sum(step_ms for step_ms in history.step_ms) / 1e3
    val = history.val[-1][1] if history.val else None
    train_loss = history.train[-1][1] if history.train else None
    losses = [f"train loss {train_loss:.4f}"] if train_loss is not None else []
    losses += [f"val loss {val:.4f}"] if val is not None else []
    speed = f"{history.tokens_per_second:,.0f} tokens/s"
    here.ui.note(
        f"{len(history.train):,} steps in {clock(seconds)}: "
        f"{', '.join([*losses, speed, megabytes(history.start.get('memory', 0))])}"
    )
    obvious = () if settings.bounded or settings.patience else ("steps",)
    if history.end and history.end["reason"] not in ("interrupted", *obvious):
        here.ui.note(f"ended: {ending(history.end, settings)}")
    if history.skipped:
        here.ui.note(f"updates skipped: {history.skipped:,}")
    if history.start.get("dtype") == "bf16":
        here.ui.note(precision(history.start))
    saved = history.saved_step is not None
    if saved:
        here.ui.note(f"saved {where(folder / CHECKPOINT)}; metrics in {where(folder / METRICS)}")
    here.ui.result(
        {
            "run": folder.name,
            "folder": str(folder),
            "steps": len(history.train),
            "ended": history.end.get("reason"),
            "skipped_updates": history.skipped,
            "seconds": history.end.get("seconds"),
            "train_loss": train_loss,
            "val_loss": val,
            "tokens_per_second": history.tokens_per_second,
            "memory_bytes": history.start.get("memory"),
            "isa": history.start.get("isa"),
            "dtype": history.start.get("dtype"),
            "threads": history.start.get("threads"),
            "checkpoint": str(folder / CHECKPOINT) if saved else None,
            "metrics": str(folder / METRICS),
        }
    )
