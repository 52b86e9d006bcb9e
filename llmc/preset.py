"""Presets: TOML files that hold differences from the defaults.

Flags win over the file, the file over the defaults. A preset lives in ``configs/`` and is named
without its ending (``gpt2-124m``), or is any TOML file by path. Its tables are ``[model]``,
``[train]`` and ``[sample]``, plus ``tokenizer = "…"`` at the top. ``data`` and
``val_data`` stand at the top or in ``[train]``, a string or a list of what the options take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmc import parsing, setting
from llmc.config import MOST_STEPS, SampleConfig, TrainConfig
from llmc.errors import BadData, Usage
from llmc.model import ModelConfig
from llmc.paths import shipped_dir
from llmc.setting import T, nearest, overridden

TEXTS = ("data", "val_data")  # may stand in a preset, and are not settings


@dataclass(frozen=True)
class Preset:
    """A recipe: a model's shape, how to train it, how to sample from it, and its tokenizer.

    ``names_steps`` and ``names_seq_len`` tell whether its file says how many steps to train, and T;
    ``named_shape`` has the dimensions of the model that it names. ``data`` and ``val_data`` are
    texts as ``--data`` takes them.
    """

    name: str = "defaults"
    tokenizer: str | None = None
    names_steps: bool = False
    names_seq_len: bool = False
    named_shape: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    val_data: tuple[str, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)


def preset_names() -> list[str]:
    """Return the names of the presets that come with llmc."""
    return sorted(path.stem for path in shipped_dir("configs").glob("*.toml"))


def load_preset(name_or_path: str) -> Preset:
    """Read a preset by name or path.

    Raises:
        Usage: there is no such preset, or it holds an unknown key, a wrong type or broken TOML.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = shipped_dir("configs") / f"{name_or_path}.toml"
        if not path.is_file():
            raise Usage(f"no preset '{name_or_path}'{nearest(name_or_path, preset_names())}")
    values = read_toml(path)
    texts: dict[str, Any] = {key: _take_texts(values, key, path) for key in TEXTS}
    return replace(preset_of(path.stem, values, str(path)), **texts)


def _take_texts(values: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    """Take the texts of ``data`` or ``val_data`` out of a preset's tables.

    Raises:
        Usage: they are no text and no list of texts, or given twice.
    """
    tables = [table for table in (values, values.get("train")) if isinstance(table, dict)]
    found = [table.pop(key) for table in tables if key in table]
    if len(found) > 1:
        raise Usage(f"{path} has {key} at the top and in [train]: leave one out")
    texts = found[0] if found else []
    texts = [texts] if isinstance(texts, str) else texts
    whole = isinstance(texts, list) and all(isinstance(each, str) and each for each in texts)
    if not whole or (found and not texts):
        raise Usage(f'{path}: {key} must be a text or a list such as ["A", "B:0.3"]')
    return tuple(texts)


def preset_of(name: str, values: Mapping[str, Any], where: str) -> Preset:
    """Return a preset from its tables; ``where`` is the file that messages name.

    Raises:
        Usage: an unknown key, a wrong type, or a value out of its range.
    """
    if not isinstance(values, Mapping):
        raise Usage(f"{where} has no settings: it has {values!r:.40} in their place")
    _check_keys(values, ("tokenizer", "model", "train", "sample"), where)
    tokenizer = values.get("tokenizer")
    if not isinstance(tokenizer, str | None):
        raise Usage(f'{where}: tokenizer must be a string such as "bpe:2048"')
    defaults = Preset()
    model, train, sample = (
        _updated(getattr(defaults, table), values.get(table, {}), f"{where} [{table}]")
        for table in ("model", "train", "sample")
    )
    names = values.get("train", {})
    return Preset(
        name,
        tokenizer,
        "steps" in names,
        "seq_len" in names,
        tuple(values.get("model", {})),
        model=model,
        train=train,
        sample=sample,
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a preset or of a run's ``config.toml``, unchecked.

    Raises:
        Usage, BadData: it cannot be read, or is not TOML; it is nested too deep or too large.
    """
    try:
        return parsing.read_toml(path)
    except OSError as error:
        raise Usage(f"cannot read the config {path}: {error.strerror}") from error
    except parsing.Unparsable as error:
        raise BadData(f"{path} is not a settings file: {error}") from error
    except ValueError as error:
        raise Usage(f"{path} is not valid TOML: {error}") from error


def settings_of(preset: Preset, flags: Mapping[str, Any]) -> TrainConfig:
    """Return a preset's training settings with the flags that were given put over them.

    The default number of steps is for a run that nothing else ends: time, tokens or epochs without
    steps leave those open.

    Raises:
        Usage: a setting is out of its range.
    """
    settings = in_val_tokens(overridden(preset.train, flags), flags)
    settings.check_new()
    open_ended = settings.bounded and not preset.names_steps and flags.get("steps") is None
    return replace(settings, steps=MOST_STEPS) if open_ended else settings


def in_val_tokens(settings: TrainConfig, flags: Mapping[str, Any]) -> TrainConfig:
    """Return settings whose validation is measured in tokens, so that it does not depend on B.

    Raises:
        Usage: the flags give it in tokens and in batches.
    """
    tokens, batches = flags.get("val_tokens"), flags.get("val_batches")
    if tokens is not None and batches:
        raise Usage("--val-tokens and --val-batches exclude each other: give one")
    if tokens is None and settings.val_batches:
        tokens = settings.val_batches * settings.batch_size * settings.seq_len
    return overridden(settings, {"val_tokens": tokens, "val_batches": 0})


def _updated(settings: T, table: object, where: str) -> T:
    """Put a TOML table over a dataclass, checking names and types."""
    if not isinstance(table, dict):
        raise Usage(f"{where} must be a table")
    _check_keys(table, vars(settings), where)
    values = {}
    for key, value in table.items():
        values[key] = setting.as_typed(settings, key, value)
        if values[key] is None:
            wanted = type(getattr(settings, key)).__name__
            raise Usage(f"{where}: {key} must be {wanted}, not {value!r}")
    return overridden(settings, values)


def _check_keys(table: Iterable[str], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise Usage(f"{where}: unknown key '{key}'{nearest(key, known)}")
