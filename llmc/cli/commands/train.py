"""``llmc train``: run the engine on a dataset and show how it goes."""

from __future__ import annotations

import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from llmc.cli.context import Context
from llmc.cli.options import count, in_group, option, time_text, with_settings
from llmc.cli.views.dry_run import (
    choice_fields,
    estimate_fields,
    print_choice,
    print_estimate,
    print_memory,
)
from llmc.cli.views.result import result_fields
from llmc.cli.views.training import LiveView, choose_view, summary
from llmc.cli.views.watched import Watched
from llmc.config import DATA, LENGTH, MACHINE, SAVING, TRAIN_SETTINGS
from llmc.engine.launcher import Launch, launch_of
from llmc.errors import Interrupted, Usage
from llmc.tokens.recorded import recorded_tokenizer
from llmc.train.dial import Choice, budget_of, choose
from llmc.train.dry_run import dry_run as estimate
from llmc.train.engine_run import ignore
from llmc.train.folder import newest_step
from llmc.train.loop import TrainResult
from llmc.train.loop import train as run_train
from llmc.train.plan import Inputs
from llmc.train.resume import resume_command, typed

of_data = in_group(DATA)

Data = Annotated[
    list[str] | None,
    of_data(
        "Dataset, token file or glob pattern; given several times, texts to mix by weight (1). "
        "With --resume, where the run's own data was moved to, or other data. "
        "Default: the dataset prepared last.",
        "PATH[:WEIGHT]",
    ),
]
ValData = Annotated[
    list[str] | None,
    of_data(
        "Token file, pattern or dataset to validate on; several are mixed. Default: those of "
        "--data.",
        "PATH[:WEIGHT]",
    ),
]
Model = Annotated[
    Path | None,
    of_data("Checkpoint to start from. Default: the one prepared with the data.", "FILE"),
]
Config = Annotated[
    str | None,
    of_data("Preset by name (python-stdlib) or TOML file; options win over it.", "PRESET"),
]
Run = Annotated[
    str | None, of_data("Name of the run, a folder in runs/. Default: DATASET-NUMBER.", "NAME")
]
For = Annotated[
    str | None,
    in_group(LENGTH)(
        "Train as well as the text allows in this time, such as 30m: the model's shape and all "
        "settings are chosen; options win over the choice.",
        "TIME",
        names=("--for",),
        parser=time_text,
    ),
]
Resume = Annotated[
    bool,
    option(
        "Continue a run from its newest checkpoint, bit for bit: the newest run, or the "
        "one that --run names.",
        group=SAVING,
        names=("--resume",),
    ),
]
ResumeFrom = Annotated[
    str | None,
    option(
        "Continue a run from the checkpoint of this step, or from its best one; later ones are "
        "removed.",
        "STEP|best",
        group=SAVING,
    ),
]
LogEvery = Annotated[
    int,
    option(
        "Steps between lines on stdout when it is not a terminal (0: a line every 5 s).",
        "STEPS",
        group=SAVING,
        parser=count,
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    option(
        "Threads; the result does not depend on it. Default: one per physical core, fewer where "
        "the first steps are no slower with them. 0, the default of several ranks: each takes its "
        "share of the cores of its machine.",
        "N",
        0,
        group=MACHINE,
    ),
]
LaunchCommand = Annotated[
    str | None,
    option(
        "Command that starts several ranks, such as 'mpirun -n 4'; the engine's command is added "
        "to it.",
        "COMMAND",
        group=MACHINE,
        names=("--launch",),
        envvar="LLMC_LAUNCH",
    ),
]
DryRun = Annotated[
    bool,
    option(
        "Print the memory, time and disk space that the run will take; write nothing.",
        group=MACHINE,
        names=("--dry-run",),
    ),
]


@with_settings(TRAIN_SETTINGS)
def train(
    context: typer.Context,
    *,
    data: Data = None,
    val_data: ValData = None,
    model: Model = None,
    config: Config = None,
    run: Run = None,
    budget: For = None,
    resume: Resume = False,
    resume_from: ResumeFrom = None,
    log_every: LogEvery = 0,
    threads: Threads = None,
    launch: LaunchCommand = None,
    dry_run: DryRun = False,
    **settings: Any,
) -> None:
    """Train a model. Ctrl-C finishes the step and saves.

    --for TIME chooses the model and every setting. A dataset that was prepared without a model is
    trained with --for 10m. Otherwise the defaults are llm.c's, and the model is the one prepared
    with the data. The run's folder gets the resolved config, metrics.jsonl and the checkpoint. A
    run that needs more memory than there is, or than LLMC_MEMORY allows in bytes, is refused.
    """
    ctx: Context = context.obj
    ui = ctx.ui
    inputs = Inputs(run, config, data, val_data, model, resume_from)
    how = launch_of(launch)
    if resume or resume_from is not None:
        _check_new({"--dry-run": dry_run, "--for": budget is not None})
    elif dry_run:
        _dry_run(context, settings, inputs, budget, threads=threads, how=how)
        return
    elif (choice := _choice(ctx, inputs, settings, budget, threads=threads, how=how)) is not None:
        inputs = choice.inputs
    shown = choose_view(json=ui.json, quiet=ui.quiet, log_every=log_every)
    if isinstance(shown, LiveView):
        ui.print_above(shown.console)
    given: dict[str, Any] = {"resume": resume, "threads": threads, "launch": how, "report": ui}
    with Watched(shown) as view:
        result = run_train(ctx.workspace, settings, inputs, on_event=view.update, **given)
    for line in summary(ctx.workspace, result, chart=not ui.quiet and not view.has_chart):
        ui.note(line)
    ui.result(result_fields(result))
    if result.interrupted:
        raise _interrupted(ctx, result, how)
    commands, again = _after(result)
    if result.longer:
        ui.note("nothing to do: the run had ended before")
        asked = {name: value for name, value in settings.items() if value is not None}
        asked.pop(result.longer[0][2:].replace("-", "_"), None)
        more = [*result.longer, *typed(asked)]
        commands.append(resume_command(ctx.workspace, result.folder, *more, launch=how))
    else:
        commands.append(again)
    ui.next(*commands)


def _after(result: TrainResult) -> tuple[list[str], str]:
    """Return the command that uses a run's model, and the same with more of its options."""
    own, name = recorded_tokenizer(result.folder), result.folder.name
    if own is not None and own.template is not None:
        return ["llmc chat"], f"llmc chat {name} --temperature 0.8"
    return ["llmc sample --decode"], f"llmc sample --decode --run {name} --temperature 0.8"


def _check_new(given: dict[str, bool]) -> None:
    """Refuse flags of a new run, beside --resume."""
    for flag in (flag for flag, is_given in given.items() if is_given):
        raise Usage(f"{flag} is for a new run: leave out --resume or {flag}")


def _choice(
    ctx: Context,
    inputs: Inputs,
    settings: dict[str, Any],
    budget: str | None,
    *,
    threads: int | None,
    how: Launch,
    models: Path | None = None,
) -> Choice | None:
    """Return what is chosen for a time; None: there is no time, or nothing to choose.

    Raises:
        Usage: the choice needs trial runs, and these ranks can start the engine once only.
    """
    if budget is None and (budget := budget_of(ctx.workspace, inputs, settings)) is not None:
        ctx.ui.note(f"--for {budget} (the default; the data was prepared without a model)")
    if budget is None:
        return None
    if how.joins:
        raise Usage(
            "--for times several models, and ranks that mpirun or srun has started can start the "
            "engine once only: use llmc train --launch 'mpirun -n N', which starts them"
        )
    where: dict[str, Any] = {"models": models, "threads": threads, "launch": how}
    where["report"] = ctx.ui
    return choose(ctx.workspace, budget, settings, inputs, **where)


def _dry_run(
    context: typer.Context,
    settings: dict[str, Any],
    inputs: Inputs,
    budget: str | None,
    *,
    threads: int | None,
    how: Launch,
) -> None:
    ctx: Context = context.obj
    ui = ctx.ui
    shown = not ui.quiet and not ui.json
    on_event = print_memory if shown else ignore
    with TemporaryDirectory() as models:
        where: dict[str, Any] = {"threads": threads, "how": how, "models": Path(models)}
        choice = _choice(ctx, inputs, settings, budget, **where)
        if choice is not None:
            inputs = choice.inputs
            if shown:
                print_choice(choice)
        given: dict[str, Any] = {"report": ui, "on_event": on_event}
        found = estimate(ctx.workspace, settings, inputs, threads=threads, launch=how, **given)
    if shown:
        print_estimate(found)
    chosen = choice_fields(choice) if choice is not None else {}
    ui.result({**estimate_fields(found), **chosen})
    ui.next(without_dry_run(context))


def _interrupted(ctx: Context, result: TrainResult, how: Launch) -> Interrupted:
    """Return the failure that an interrupted run ends with: how far it is, how to resume it."""
    saved, step = "not saved", newest_step(result.folder)
    if step is not None and step < result.steps:  # a second Ctrl-C
        saved = f"step {step:,} is saved, and what came after it is lost"
    elif step is not None and result.checkpoint is not None:
        saved = f"saved {ctx.workspace.shown(result.checkpoint)}"
    planned = result.progress.steps
    done = f"{result.steps:,}" + (f" of {planned:,}" if planned is not None else "")
    message = f"interrupted after {done} steps; {saved}"
    return Interrupted(message, resume_command(ctx.workspace, result.folder, launch=how))


def without_dry_run(context: typer.Context) -> str:
    """Return the command as it was typed, without ``--dry-run``."""
    words = ["llmc", "train"]
    for name, value in context.params.items():
        flag = "for" if name == "budget" else name.replace("_", "-")
        if isinstance(value, bool):
            given = name not in ("dry_run", "resume")  # these two are never typed as --no-
            words += [f"--{flag}" if value else f"--no-{flag}"] if given else []
        elif value is not None and (name, value) != ("log_every", 0):
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [f"--{flag}", str(each)]
    return shlex.join(words)
