"""Settings as frozen dataclasses, and presets as TOML files that hold differences only.

Flags win over the file, the file over the defaults. A preset lives in ``configs/`` and is named
without its ending (``gpt2-124m``), or is any TOML file by path. Its tables are ``[model]``,
``[train]`` and ``[sample]``, plus ``tokenizer = "…"`` at the top.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from llmc.errors import Usage
from llmc.model import ModelConfig
from llmc.paths import shipped_dir
from llmc.units import seconds_of

SCHEDULES = ("constant", "cosine", "linear", "wsd")
MOST_STEPS = 10**9  # so many are no limit, here and in the engine
OPTIMIZER_STATES = ("fp32", "bf16", "8bit")


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are llm.c's."""

    steps: int = 40
    max_time: str = "0"
    max_tokens: int = 0
    epochs: int = 0
    patience: int = 0
    min_delta: float = 0.0
    batch_size: int = 4
    seq_len: int = 64
    total_batch_size: int = 0
    lr: float = 1e-4
    schedule: str = "constant"
    warmup: int = 0
    lr_final: float = 0.0
    decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 0.0
    skip_loss_z: float = 0.0
    skip_grad_z: float = 0.0
    seed: int = 1337
    shuffle: bool = True
    dtype: str = "fp32"
    recompute: bool = False
    optimizer_state: str = "fp32"
    val_every: int = 10
    val_batches: int = 5
    sample_every: int = 20
    save_every: int = 0
    keep: int = 1

    def __post_init__(self) -> None:
        """Refuse a precision, an optimizer state, a schedule or a time that there is not.

        Raises:
            Usage: it has no such name, or is no time.
        """
        if self.dtype not in ("fp32", "bf16"):
            raise Usage(f"dtype must be fp32 or bf16, not '{self.dtype}'")
        if self.optimizer_state not in OPTIMIZER_STATES:
            raise Usage(
                f"optimizer_state must be one of {', '.join(OPTIMIZER_STATES)}, "
                f"not '{self.optimizer_state}'"
            )
        if self.schedule not in SCHEDULES:
            raise Usage(f"schedule must be one of {', '.join(SCHEDULES)}, not '{self.schedule}'")
        try:
            seconds_of(self.max_time)
        except ValueError as error:
            raise Usage(f"max-time: {error}") from error

    @property
    def bounded(self) -> bool:
        """Whether something else than the number of steps ends the run for certain."""
        return bool(seconds_of(self.max_time) or self.max_tokens or self.epochs)


@dataclass(frozen=True)
class SampleConfig:
    """How to choose the next token, and in what type the model computes it."""

    tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 1337
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        """Refuse what the engine would.

        Raises:
            Usage: a setting is outside of what it means anything for.
        """
        for name, (low, high) in SAMPLE_LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise Usage(
                    f"{name} must be between {_shown(low)} and {_shown(high)}, not {_shown(value)}"
                )
        if self.dtype not in SAMPLE_DTYPES:
            raise Usage(f"dtype must be one of {', '.join(SAMPLE_DTYPES)}, not '{self.dtype}'")


SAMPLE_DTYPES = ("fp32", "bf16", "int8")
SAMPLE_LIMITS: Mapping[str, tuple[float, float]] = {
    "tokens": (0, 1e9),
    "temperature": (0, 1e6),
    "top_k": (0, 1e9),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (1e-6, 1e6),
    "seed": (0, 2.0**53),
}


@dataclass(frozen=True)
class Preset:
    """A recipe: a model's shape, how to train it, how to sample from it, and its tokenizer.

    ``names_steps`` tells whether its file says how many steps to train.
    """

    name: str = "defaults"
    tokenizer: str | None = None
    names_steps: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)


T = TypeVar("T")


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
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Usage(f"cannot read the config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Usage(f"{path} is not valid TOML: {error}") from error
    allowed = [item.name for item in fields(Preset) if item.name not in ("name", "names_steps")]
    for key in table:
        if key not in allowed:
            raise Usage(f"{path}: unknown key '{key}'{nearest(key, allowed)}")
    tokenizer = table.get("tokenizer")
    if tokenizer is not None and not isinstance(tokenizer, str):
        raise Usage(f'{path}: tokenizer must be a string such as "bpe:2048"')
    defaults = Preset()
    train = table.get("train", {})
    return Preset(
        name=path.stem,
        tokenizer=tokenizer,
        names_steps=isinstance(train, dict) and "steps" in train,
        model=_updated(defaults.model, table.get("model", {}), f"{path} [model]"),
        train=_updated(defaults.train, train, f"{path} [train]"),
        sample=_updated(defaults.sample, table.get("sample", {}), f"{path} [sample]"),
    )


def overridden(settings: T, flags: Mapping[str, Any]) -> T:
    """Return ``settings`` with every flag that was given (is not None) put over it."""
    return replace(settings, **{k: v for k, v in flags.items() if v is not None})  # type: ignore[type-var]


def settings_of(preset: Preset, flags: Mapping[str, Any]) -> TrainConfig:
    """Return a preset's training settings with the flags that were given put over them.

    The default number of steps is for a run that nothing else ends: time, tokens or epochs without
    steps leave those open.
    """
    settings = overridden(preset.train, flags)
    open_ended = settings.bounded and not preset.names_steps and flags.get("steps") is None
    return replace(settings, steps=MOST_STEPS) if open_ended else settings


def flags_of(settings: TrainConfig) -> list[str]:
    """Return every setting as the engine takes it: ``--val-every``, ``10``."""
    words = []
    for name, value in asdict(settings).items():
        shown = int(value) if isinstance(value, bool) else value
        words += [f"--{name.replace('_', '-')}", str(shown)]
    return words


def nearest(word: str, words: list[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or the list of words when none is near."""
    match = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean '{match[0]}'?" if match else f"; known: {', '.join(words)}"


def _shown(number: float) -> str:
    """Return a number as it can be typed: whole ones with all of their digits."""
    whole = isinstance(number, int) or number.is_integer()
    return str(int(number)) if whole else f"{number:g}"


def _updated(settings: T, table: object, where: str) -> T:
    """Put a TOML table over a dataclass, checking names and types.

    Raises:
        Usage: the table holds an unknown key or a value of another type.
    """
    if not isinstance(table, dict):
        raise Usage(f"{where} must be a table")
    types = {item.name: type(getattr(settings, item.name)) for item in fields(settings)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in types:
            raise Usage(f"{where}: unknown key '{key}'{nearest(key, list(types))}")
        wanted = types[key]
        if wanted is float and type(value) is int:
            value = float(value)  # noqa: PLW2901 -- TOML's 1 is a fine float
        if type(value) is not wanted:
            raise Usage(f"{where}: {key} must be {wanted.__name__}, not {value!r}")
        values[key] = value
    return overridden(settings, values)
