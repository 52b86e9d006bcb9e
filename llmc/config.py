"""Settings as frozen dataclasses, and presets as TOML files that hold differences only.

Flags win over the file, the file over the defaults. A preset lives in ``configs/`` and is named
without its ending (``gpt2-124m``), or is any TOML file by path. Its tables are ``[model]``,
``[train]`` and ``[sample]``, plus ``tokenizer = "…"`` at the top.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from llmc.errors import Usage
from llmc.model import ModelConfig
from llmc.paths import shipped_dir
from llmc.setting import BELOW_1, check_all, make_setting, settings_table
from llmc.units import seconds_of

SCHEDULES = ("constant", "cosine", "linear", "wsd")
MOST_STEPS = 10**9  # means no limit, here and in the engine
OPTIMIZER_STATES = ("fp32", "bf16", "8bit")
DTYPES = ("fp32", "bf16")
SAMPLE_DTYPES = ("fp32", "bf16", "int8")

DATA, LENGTH, OPTIMIZER = "Data and model", "Length", "Optimizer"
MEMORY, SAVING, MACHINE = "Batch and memory", "Evaluation and saving", "Machine"
SAMPLING = "Sampling"


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are llm.c's."""

    steps: int = make_setting(
        40,
        LENGTH,
        "Number of updates; no limit if only a time, tokens or epochs are given",
        unit="updates",
        high=MOST_STEPS,
        resume=True,
    )
    max_time: str = make_setting(
        "0",
        LENGTH,
        "Stop after this time over all resumes, such as 2h, 1h30m or 45s (0: no limit)",
        metavar="TIME",
        unit="d, h, m, s",
        resume=True,
    )
    max_tokens: int = make_setting(
        0,
        LENGTH,
        "Stop after N training tokens, such as 250000, 65k or 10M (0: no limit)",
        metavar="TOKENS",
        unit="tokens",
        high=2**53,
        resume=True,
    )
    epochs: int = make_setting(
        0, LENGTH, "Stop after N passes over the data (0: no limit)", unit="epochs", resume=True
    )
    patience: int = make_setting(
        0,
        LENGTH,
        "Stop after N validations without improvement (0: never)",
        unit="validations",
        resume=True,
    )
    min_delta: float = make_setting(
        0.0,
        LENGTH,
        "Minimum improvement that counts as a new best",
        metavar="LOSS",
        unit="nats",
        resume=True,
    )
    batch_size: int = make_setting(
        4, MEMORY, "B, rows in a batch", metavar="ROWS", unit="rows", low=1, high=65536
    )
    seq_len: int = make_setting(
        64, MEMORY, "T, tokens in a row", metavar="TOKENS", unit="tokens", low=1, high=2**24
    )
    total_batch_size: int = make_setting(
        0,
        MEMORY,
        "Tokens in an update, a multiple of B x T, by gradient accumulation (0: B x T)",
        metavar="TOKENS",
        unit="tokens",
        high=10**12,
    )
    lr: float = make_setting(1e-4, OPTIMIZER, "Peak learning rate", metavar="RATE")
    schedule: str = make_setting(
        "constant", OPTIMIZER, "Learning-rate schedule", metavar="NAME", choices=SCHEDULES
    )
    warmup: int = make_setting(0, OPTIMIZER, "Linear warmup", metavar="STEPS", unit="updates")
    lr_final: float = make_setting(
        0.0,
        OPTIMIZER,
        "Final learning rate, as a fraction of --lr",
        metavar="FRACTION",
        unit="fraction of `--lr`",
        high=1,
    )
    decay: float = make_setting(
        0.2,
        OPTIMIZER,
        "Length of wsd's decay, as a fraction of all steps",
        metavar="FRACTION",
        unit="fraction of all updates",
        high=1,
    )
    beta1: float = make_setting(
        0.9, OPTIMIZER, "AdamW's decay rate of the first moment", metavar="RATE", high=BELOW_1
    )
    beta2: float = make_setting(
        0.999, OPTIMIZER, "AdamW's decay rate of the second moment", metavar="RATE", high=BELOW_1
    )
    eps: float = make_setting(1e-8, OPTIMIZER, "AdamW's epsilon", metavar="EPS")
    weight_decay: float = make_setting(
        0.0, OPTIMIZER, "AdamW's weight decay, of matrices only", metavar="RATE"
    )
    grad_clip: float = make_setting(
        0.0,
        OPTIMIZER,
        "Clip the gradient to this global norm (0: never)",
        metavar="NORM",
        unit="norm",
    )
    skip_loss_z: float = make_setting(
        0.0,
        OPTIMIZER,
        "Skip updates whose loss z-score exceeds Z (0: never)",
        metavar="Z",
        unit="standard deviations",
    )
    skip_grad_z: float = make_setting(
        0.0,
        OPTIMIZER,
        "Skip updates whose gradient-norm z-score exceeds Z (0: never)",
        metavar="Z",
        unit="standard deviations",
    )
    seed: int = make_setting(1337, MACHINE, "Random seed", high=2**53)
    shuffle: bool = make_setting(
        True, DATA, "Visit windows of T tokens in random order, not in text order"
    )
    dtype: str = make_setting(
        "fp32",
        MEMORY,
        "Type of matrix products and activations, not of the weights",
        metavar="TYPE",
        choices=DTYPES,
    )
    recompute: bool = make_setting(
        False,
        MEMORY,
        "Keep one layer's activations and recompute the others: less memory, a sixth more time, "
        "same bits",
        resume=True,
    )
    optimizer_state: str = make_setting(
        "fp32",
        MEMORY,
        "Type of AdamW's moments (8, 4 or about 2 bytes a parameter)",
        metavar="TYPE",
        choices=OPTIMIZER_STATES,
    )
    val_every: int = make_setting(
        10,
        SAVING,
        "Steps between validations (0: never)",
        metavar="STEPS",
        unit="updates",
        resume=True,
    )
    val_batches: int = make_setting(
        5, SAVING, "Batches in a validation, at most", unit="batches of B x T", low=1, resume=True
    )
    sample_every: int = make_setting(
        20, SAVING, "Steps between samples (0: never)", metavar="STEPS", unit="updates", resume=True
    )
    save_every: int = make_setting(
        0,
        SAVING,
        "Steps between checkpoints (0: one at the end); with it, or with --patience, each new "
        "lowest validation loss is saved too",
        metavar="STEPS",
        unit="updates",
        resume=True,
    )
    keep: int = make_setting(
        1,
        SAVING,
        "Newest checkpoints to keep; best.bin holds the weights with the lowest validation loss",
        unit="checkpoints",
        low=1,
        high=1000,
        resume=True,
    )

    def __post_init__(self) -> None:
        """Refuse a value outside its setting's range or choices.

        Raises:
            Usage: the message names the setting.
        """
        check_all(self)

    @property
    def bounded(self) -> bool:
        """A limit other than the number of steps ends the run for certain."""
        return bool(seconds_of(self.max_time) or self.max_tokens or self.epochs)

    @property
    def tokens_per_step(self) -> int:
        """The number of tokens in one update."""
        return self.total_batch_size or self.batch_size * self.seq_len


@dataclass(frozen=True)
class SampleConfig:
    """How to choose the next token, and in what type the model computes it."""

    tokens: int = make_setting(256, SAMPLING, "Tokens to write after the prompt, at most")
    temperature: float = make_setting(
        1.0,
        SAMPLING,
        "Divisor of the logits: below 1 likelier tokens, 0 always the likeliest",
        metavar="TEMP",
        high=1e6,
    )
    top_k: int = make_setting(0, SAMPLING, "Sample from the K likeliest (0: all)", metavar="K")
    top_p: float = make_setting(
        1.0,
        SAMPLING,
        "Sample from the likeliest tokens whose probabilities add up to P",
        metavar="P",
        high=1,
    )
    min_p: float = make_setting(
        0.0,
        SAMPLING,
        "Sample from tokens at least P times as likely as the likeliest (0: all)",
        metavar="P",
        high=1,
    )
    repetition_penalty: float = make_setting(
        1.0,
        SAMPLING,
        "Penalty on tokens that the text holds already (1: none)",
        metavar="PENALTY",
        low=1e-6,
        high=1e6,
    )
    seed: int = make_setting(1337, SAMPLING, "Random seed of the text", high=2**53)
    dtype: str = make_setting(
        "fp32",
        SAMPLING,
        "Type of the weights; a smaller one is faster",
        metavar="TYPE",
        choices=SAMPLE_DTYPES,
    )

    def __post_init__(self) -> None:
        """Refuse a value outside its setting's range or choices.

        Raises:
            Usage: the message names the setting.
        """
        check_all(self)


TRAIN_SETTINGS = settings_table(TrainConfig)
SAMPLE_SETTINGS = settings_table(SampleConfig)
SAMPLE_LIMITS: Mapping[str, tuple[float, float]] = {
    name: (setting.low, setting.high)
    for name, setting in SAMPLE_SETTINGS.items()
    if not setting.choices
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
    return did_you_mean(word, words) or f"; known: {', '.join(words)}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or nothing when none is near."""
    match = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean '{match[0]}'?" if match else ""


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
