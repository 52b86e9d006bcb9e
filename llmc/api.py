"""The Python API: the stages from a text to a model that writes, as functions.

Every function takes the workspace, the folder that holds ``data/``, ``models/`` and ``runs/``
(the current folder by default), and raises :class:`llmc.errors.LlmcError`. Nothing is printed:
pass a :class:`llmc.report.Report` to receive notes and progress.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from llmc.config import TRAIN_SETTINGS
from llmc.engine.launcher import Launch, launch_of
from llmc.errors import Usage
from llmc.evaluate import loss
from llmc.evaluate.loss import LossResult
from llmc.evaluate.rows import EngineOptions
from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.sample import loaded
from llmc.sample.loaded import LoadedModel
from llmc.setting import nearest
from llmc.text.encodings import encoding_named
from llmc.text.reading import KEEP, Reading
from llmc.text.source import AS_USUAL
from llmc.tokens import dataset
from llmc.tokens.dataset import TokenizedDataset
from llmc.tokens.manifest import load_manifest
from llmc.tokens.options import TokenizeOptions
from llmc.train import dial, loop
from llmc.train import sweep as sweeps
from llmc.train.loop import TrainResult
from llmc.train.mixture import Named, Spec, named, weight_of
from llmc.train.plan import Inputs
from llmc.train.sweep import Compared
from llmc.weights.export import write_random

Place = str | Path
Text = TokenizedDataset | Place
HERE = Path()


def tokenize(
    *inputs: Place | Sequence[Place],
    workspace: Place = HERE,
    report: Report = SILENT,
    **options: Any,
) -> TokenizedDataset:
    """Turn text into a dataset of token files.

    Args:
        inputs: files, folders, glob patterns, addresses, or a dataset such as ``"stdlib"``.
        workspace: the dataset's folder is ``data/<name>`` in it.
        report: receives notes and progress.
        options: fields of :class:`llmc.tokens.options.TokenizeOptions`, such as
            ``tokenizer="bpe:4096"``, and of :class:`llmc.text.reading.Reading`, such as
            ``field="messages"`` or ``encoding="auto"``. Default tokenizer: GPT-2's.

    Raises:
        Usage: an input or the tokenizer is unknown, or options contradict each other.
        MissingOutput: the dataset has not been fetched.
        BadData: a file is damaged or not text, or there is too little text.
    """
    place = Workspace(Path(workspace))
    named_inputs = [str(each) for item in inputs for each in _several(item)]
    return dataset.tokenize(place, named_inputs, _tokenize_options(options), report=report)


def train(
    data: Text | Sequence[Text | tuple[Text, float]] | None = None,
    *,
    model: ModelConfig | Place | None = None,
    config: str | None = None,
    val_data: Text | Sequence[Text | tuple[Text, float]] | None = None,
    budget: str | None = None,
    run: str | None = None,
    resume: bool = False,
    resume_from: str | int | None = None,
    threads: int | None = None,
    launch: str | None = None,
    workspace: Place = HERE,
    report: Report = SILENT,
    **settings: Any,
) -> TrainResult:
    """Train a model in a new run, or resume one.

    Args:
        data: a dataset, its folder or name, or a token file; a list of them is mixed by weight,
            which stands after a colon, ``["a", "b:0.3"]``, or in a pair, ``[a, (b, 0.3)]``.
            Default: the dataset prepared last.
        model: a checkpoint to start from, or the shape of a model to start with random weights;
            its vocabulary is the dataset's. Default: the model prepared with the dataset.
        config: a preset by name, or a TOML file.
        val_data: token file to validate on, or a list as for ``data``. Default: the datasets'
            own.
        budget: a time such as ``"30m"``, as ``llmc train --for`` takes it: the model's shape and
            all settings that are not given are chosen.
        run: the run's name. Default: the dataset's with a number.
        resume: continue the run, or the newest one, from its newest checkpoint.
        resume_from: resume from the checkpoint of this step, or from ``"best"``.
        threads: threads; the result does not depend on it. Default: one per physical core.
        launch: what starts several ranks, such as ``"mpirun -n 4"``.
        workspace: the run's folder is ``runs/<run>`` in it.
        report: receives notes.
        settings: training settings, put over the preset's: ``steps=200``, ``lr=1e-3``;
            ``docs/reference/settings.md`` lists them.

    Raises:
        Usage: a setting is unknown or out of range.
        MissingOutput: there is no such dataset, model or run.
        BadData: a file is damaged, or the model has another tokenizer than the data.
        LossNotFinite: the loss became infinite or not a number.
    """
    _check(settings, threads)
    how = _launch(launch)
    place = Workspace(Path(workspace))
    back = None if resume_from is None else str(resume_from)
    inputs = replace(
        _inputs(place, data, val_data, model, config=config, report=report),
        run=run,
        resume_from=back,
    )
    shared: dict[str, Any] = {"threads": threads, "launch": how, "report": report}
    if budget is not None:
        if resume or back is not None:
            raise Usage("budget is for a new run: leave out budget, or resume and resume_from")
        inputs = dial.choose(place, budget, settings, inputs, **shared).inputs
    return loop.train(place, settings, inputs, resume=resume, **shared)


def sweep(
    data: Text | Sequence[Text | tuple[Text, float]] | None = None,
    *,
    model: ModelConfig | Place | None = None,
    config: str | None = None,
    val_data: Text | Sequence[Text | tuple[Text, float]] | None = None,
    name: str = "sweep",
    seeds: int = 1,
    budget: str | None = None,
    threads: int | None = None,
    workspace: Place = HERE,
    report: Report = SILENT,
    **settings: Any,
) -> list[Compared]:
    """Compare training settings in short runs, one after the other; the lowest loss comes first.

    Args:
        data, model, config, val_data, threads: as of :func:`train`.
        name: of the sweep, with which the names of its runs begin. The same sweep continues, or
            reads its runs back.
        seeds: runs of each combination.
        budget: the time of each run, such as ``"2m"``, in place of the preset's steps.
        workspace: the runs' folders are in ``runs/`` in it.
        report: receives notes, and a progress bar for each run.
        settings: training settings; of a list every value is compared: ``lr=[1e-3, 2e-3]``.

    Raises:
        Interrupted: a signal stopped a run; the same sweep continues.
        Usage: a setting is unknown or out of range, nothing is compared, or a setting ends the
            runs besides the budget.
        MissingOutput: there is no such dataset or model.
        BadData: a file is damaged, or the model has another tokenizer than the data.
    """
    _check(settings, threads)
    place = Workspace(Path(workspace))
    return sweeps.sweep(
        place,
        {key: _several(value) for key, value in settings.items() if value is not None},
        _inputs(place, data, val_data, model, config=config, report=report),
        name=name,
        seeds=seeds,
        budget=budget,
        threads=threads,
        report=report,
    )


def load(
    run_or_file: Place | None = None,
    *,
    last: bool = False,
    dtype: str | None = None,
    threads: int | None = None,
    workspace: Place = HERE,
    report: Report = SILENT,
) -> LoadedModel:
    """Load a trained model, to call ``sample(prompt)`` or ``stream(prompt)`` on.

    The model stays in memory until ``close()``; a ``with`` block closes it. A run offers the
    weights with the lowest validation loss of those that it saved.

    Args:
        run_or_file: a run's name, its folder, or a checkpoint file. Default: the newest run.
        last: load a run's last weights instead of its best.
        dtype: type of the weights in memory: ``fp32``, ``bf16`` or ``int8``. Default: the run's.
        threads: threads; the text does not depend on it. Default: one per 4 million parameters, at
            most one per core.
        workspace: where runs are.
        report: receives notes.

    Raises:
        MissingOutput: there is no such model.
        BadData: a file is damaged, or the model's tokenizer is unknown.
    """
    place = Workspace(Path(workspace))
    return loaded.load(place, run_or_file, last=last, dtype=dtype, threads=threads, report=report)


def evaluate(
    run_or_file: Place | None = None,
    *,
    last: bool = False,
    data: Place | None = None,
    split: str | None = None,
    max_tokens: int | None = None,
    workspace: Place = HERE,
    report: Report = SILENT,
    **options: Any,
) -> LossResult:
    """Measure a model's loss, perplexity and bits per byte on a text.

    Args:
        run_or_file: a run's name, its folder, or a checkpoint file. Default: the newest run.
        last: measure a run's last weights instead of its best.
        data: a dataset's folder or a token file. Default: the data that the run was trained on.
        split: ``"train"`` or ``"val"`` of a dataset. Default: ``"val"``.
        max_tokens: predict N tokens, in windows spread evenly over the text.
        workspace: where runs and datasets are.
        report: receives notes and progress.
        options: fields of :class:`llmc.evaluate.rows.EngineOptions`: ``batch_size``, ``seq_len``,
            ``dtype``, ``threads``.

    Raises:
        MissingOutput: the model or the data does not exist.
        BadData: a file is damaged, or model and data have different tokenizers.
        Usage: the window is longer than the model's context.
    """
    return loss.evaluate(
        Workspace(Path(workspace)),
        run_or_file,
        data=_path(data),
        split=split,
        max_tokens=max_tokens,
        last=last,
        options=EngineOptions(**options),
        report=report,
    )


def _check(settings: dict[str, Any], threads: int | None) -> None:
    for name in settings.keys() - TRAIN_SETTINGS.keys():
        raise Usage(f"unknown training setting '{name}'{nearest(name, list(TRAIN_SETTINGS))}")
    if threads is not None and threads < 0:
        raise Usage(f"threads must be at least 0, not {threads}")


def _launch(command: str | None) -> Launch:
    """Return how the engine is started; each rank of a launcher would train a run of its own."""
    if (how := launch_of(command)).joins:
        raise Usage(
            "a launcher has started this Python as one of several, each of which would train a run "
            "of its own: start it alone, and give the launcher's command as launch"
        )
    return how


def _inputs(
    workspace: Workspace,
    data: Text | Sequence[Text | tuple[Text, float]] | None,
    val_data: Text | Sequence[Text | tuple[Text, float]] | None,
    model: ModelConfig | Place | None,
    *,
    config: str | None,
    report: Report,
) -> Inputs:
    """Return what a run starts from; a model that is a shape gets random weights."""
    texts, val_texts = named(workspace, _texts(data)), named(workspace, _texts(val_data))
    if isinstance(model, ModelConfig):
        folder = texts[0].path if texts else workspace.newest_dataset()
        model = _random_weights(workspace, model, folder, report)
    return Inputs(None, config, texts, val_texts, _path(model))


def _several(value: Any) -> tuple[Any, ...]:
    """Return one value, or several of them, as a tuple."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _tokenize_options(given: dict[str, Any]) -> TokenizeOptions:
    """Return how to tokenize, from the fields of ``TokenizeOptions`` and of its ``reading``.

    Raises:
        Usage: there is no such field, or it has no such value.
    """
    known = [field.name for field in fields(TokenizeOptions)]
    reading = [field.name for field in fields(Reading)]
    for name in given.keys() - {*known, *reading}:
        raise Usage(f"unknown option '{name}'{nearest(name, [*known, *reading])}")
    values = {name: value for name, value in given.items() if name in known and value is not None}
    how = {name: value for name, value in given.items() if name in reading and value is not None}
    for name in how.keys() & {"include", "exclude", "field"}:
        several = _several(how[name])
        how[name] = several[0] if name == "field" and len(several) == 1 else several
    if "encoding" in how:
        how["encoding"] = encoding_named(how["encoding"])
    if how.get("newlines", KEEP) not in (KEEP, "lf"):
        raise Usage(f"newlines must be lf or {KEEP}, not '{how['newlines']}'")
    if how.get("newlines") == "lf":
        del how["newlines"]
    if isinstance(values.get("out"), str):
        values["out"] = Path(values["out"])
    if isinstance(values.get("tokenizer"), Path):
        values["tokenizer"] = str(values["tokenizer"])
    values["reading"] = replace(values.get("reading", AS_USUAL), **how)
    return TokenizeOptions(**values)


def _texts(data: Text | Sequence[Text | tuple[Text, float]] | None) -> list[Spec]:
    """Return texts as the stages below take them."""
    if data is None:
        return []
    if isinstance(data, str) or not isinstance(data, Sequence):
        return [_text(data)]
    if not data:
        raise Usage("the list of data is empty: name a dataset, or leave it out")
    return [_text(*one) if isinstance(one, tuple) else _text(one) for one in data]


def _text(text: Text, weight: float | None = None) -> Spec:
    place = text.folder if isinstance(text, TokenizedDataset) else text
    if weight is None:
        return place
    return Named(Path(place), weight_of(weight, str(place)))


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)


def _random_weights(workspace: Workspace, shape: ModelConfig, folder: Path, report: Report) -> Path:
    """Write random weights of a shape with the dataset's vocabulary; return the checkpoint."""
    if not folder.is_dir():
        raise Usage(f"{folder} is not a dataset's folder: name a checkpoint to start from")
    manifest = load_manifest(folder)
    name = f"random-{manifest.dataset}-L{shape.layers}H{shape.heads}C{shape.channels}"
    return write_random(
        workspace,
        replace(shape, vocab_size=manifest.tokenizer.vocab_size),
        workspace.models / f"{name}T{shape.context}.bin",
        fingerprint=manifest.tokenizer.fingerprint,
        report=report,
    )
