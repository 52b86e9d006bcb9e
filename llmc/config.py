"""The settings of training and sampling, as frozen dataclasses: one table each.

Options, ``--help``, checks and docs/reference/settings.md are made of these tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from llmc.model import LARGEST
from llmc.setting import (
    BELOW_1,
    MOST,
    Checked,
    OnResume,
    make_setting,
    settings_table,
)
from llmc.units import seconds_of

SCHEDULES = ("constant", "cosine", "linear", "wsd")
WINDOWS = ("packed", "aligned")
MOST_STEPS = 10**9  # means no limit, here and in the engine
MOST_SHARES = 256  # as many as ranks
MOST_Z = 11.2  # a score in a window of 128 is at most 127 / sqrt(128)
OPTIMIZERS = ("adamw", "muon")
OPTIMIZER_STATES = ("fp32", "bf16", "8bit")
DTYPES = ("fp32", "bf16")
SAMPLE_DTYPES = ("fp32", "bf16", "int8")
DEFAULT_BUDGET = "10m"  # of a run whose model is chosen by the time

DATA, LENGTH, OPTIMIZER = "Data and model", "Length", "Optimizer"
MEMORY, SAVING, MACHINE = "Batch and memory", "Evaluation and saving", "Machine"
SAMPLING = "Sampling"

# What older versions allowed where the range is narrower now.
WIDER = (0.0, MOST)
_data = partial(make_setting, DATA)
_length = partial(make_setting, LENGTH, resume=OnResume.FREE)
_optimizer = partial(make_setting, OPTIMIZER, resume=OnResume.RECORDED)
_memory = partial(make_setting, MEMORY)
_saving = partial(make_setting, SAVING, resume=OnResume.FREE)
_machine = partial(make_setting, MACHINE, resume=OnResume.RECORDED)
_sampling = partial(make_setting, SAMPLING)


def update_tokens(B: int, T: int, total: int = 0, shares: int = 0) -> int:
    """Return the tokens in an update: ``total``, or a batch of (B, T) in each of its shares."""
    return total or max(shares, 1) * B * T


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How to train; the defaults are llm.c's."""

    steps: int = _length(
        40,
        "Number of updates; no limit if only a time, tokens or epochs are given",
        unit="updates",
        high=MOST_STEPS,
    )
    max_time: str = _length(
        "0", "Stop after this time over all resumes, such as 2h, 1h30m or 45s (0: no limit)", "TIME"
    )
    max_tokens: int = _length(
        0,
        "Stop after N training tokens, such as 250000, 65k or 10M (0: no limit)",
        "TOKENS",
        high=2**53,
    )
    epochs: int = _length(0, "Stop after N passes over the data (0: no limit)", unit="epochs")
    patience: int = _length(
        0, "Stop after N validations without improvement (0: never)", unit="validations"
    )
    min_delta: float = _length(
        0.0, "Minimum improvement that counts as a new best", "LOSS", high=100, older=WIDER
    )
    batch_size: int = _memory(
        4, "B, rows in a batch", "ROWS", low=1, high=65536, resume=OnResume.RECORDED
    )
    seq_len: int = _memory(64, "T, tokens in a row", "TOKENS", low=1, high=LARGEST["context"])
    total_batch_size: int = _memory(
        0,
        "Tokens in an update, by gradient accumulation (0: shares x B x T, else a multiple of it)",
        "TOKENS",
        high=10**12,
    )
    optimizer: str = _optimizer(
        "adamw",
        "Optimizer of the matrices in the layers; AdamW updates all other weights",
        "NAME",
        choices=OPTIMIZERS,
        resume=OnResume.REFUSED,
    )
    lr: float = _optimizer(1e-4, "Peak learning rate", "RATE", high=10, older=WIDER)
    schedule: str = _optimizer("constant", "Learning-rate schedule", "NAME", choices=SCHEDULES)
    warmup: int = _optimizer(0, "Linear warmup", "STEPS")
    lr_final: float = _optimizer(
        0.0,
        "Final learning rate, as a fraction of --lr",
        "FRACTION",
        unit="fraction of `--lr`",
        high=1,
    )
    decay: float = _optimizer(
        0.2,
        "Length of wsd's decay, as a fraction of all steps",
        "FRACTION",
        unit="fraction of all updates",
        high=1,
    )
    beta1: float = _optimizer(0.9, "AdamW's decay rate of the first moment", "RATE", high=BELOW_1)
    beta2: float = _optimizer(
        0.999, "AdamW's decay rate of the second moment", "RATE", high=BELOW_1
    )
    eps: float = _optimizer(1e-8, "AdamW's epsilon", "EPS", low=1e-20, high=1, older=WIDER)
    weight_decay: float = _optimizer(
        0.0, "Weight decay, of matrices only", "RATE", high=10, older=WIDER
    )
    dropout: float = _optimizer(
        0.0, "Fraction of activations dropped at random in training", "RATE", high=BELOW_1
    )
    grad_clip: float = _optimizer(0.0, "Clip the gradient to this global norm (0: never)", "NORM")
    skip_loss_z: float = _optimizer(
        0.0, "Skip updates whose loss z-score exceeds Z (0: never)", "Z", high=MOST_Z, older=WIDER
    )
    skip_grad_z: float = _optimizer(
        0.0,
        "Skip updates whose gradient-norm z-score exceeds Z (0: never)",
        "Z",
        high=MOST_Z,
        older=WIDER,
    )
    seed: int = _machine(1337, "Random seed", high=2**53, resume=OnResume.REFUSED)
    shares: int = _machine(
        0,
        "Parts in which an update's gradient is summed, on as many ranks at most (0: one per rank)",
        unit="shares",
        high=MOST_SHARES,
    )
    exchange_dtype: str = _machine(
        "fp32",
        "Type of the gradients that ranks exchange",
        "TYPE",
        choices=DTYPES,
    )
    shuffle: bool = _data(True, "Visit windows of T tokens in random order, not in text order")
    windows: str = _data(
        "packed",
        "How windows lie in the text; aligned ones begin with documents where they fit",
        "NAME",
        choices=WINDOWS,
    )
    dtype: str = _memory(
        "fp32",
        "Type of matrix products and activations, not of the weights",
        "TYPE",
        choices=DTYPES,
        resume=OnResume.RECORDED,
    )
    recompute: bool = _memory(
        False,
        "Keep one layer's activations and recompute the others: less memory, a sixth more time, "
        "same bits",
        resume=OnResume.FREE,
    )
    optimizer_state: str = _memory(
        "fp32",
        "Type of the optimizer's moments (AdamW: 8, 4 or about 2 bytes a parameter)",
        "TYPE",
        choices=OPTIMIZER_STATES,
        resume=OnResume.RECORDED,
    )
    val_every: int = _saving(10, "Steps between validations (0: never)", "STEPS")
    val_tokens: int = _saving(
        20480,
        "Validation tokens, spread evenly over the split and the same each time (0: all)",
        "TOKENS",
        high=2**53,
    )
    val_batches: int = _saving(
        0,
        "The same as --val-tokens, in batches of B x T tokens. A run that an older llmc "
        "started keeps its first batches",
        unit="batches of B x T",
    )
    sample_every: int = _saving(20, "Steps between samples (0: never)", "STEPS")
    save_every: int | str = _saving(
        "10m",
        "Steps between checkpoints, or the most time between them, such as 10m (0: one at the "
        "end); with steps, or with --patience, each new lowest validation loss is saved too",
        "STEPS|TIME",
    )
    keep: int = _saving(
        1,
        "Newest checkpoints to keep; the one with the lowest validation loss is kept too",
        unit="checkpoints",
        low=1,
        high=1000,
    )

    @property
    def bounded(self) -> bool:
        """A limit other than the number of steps ends the run for certain."""
        return bool(seconds_of(self.max_time) or self.max_tokens or self.epochs)

    @property
    def tokens_per_step(self) -> int:
        """The number of tokens in one update."""
        return update_tokens(self.batch_size, self.seq_len, self.total_batch_size, self.shares)

    def planned_steps(self, windows: int) -> int:
        """Return how many updates a run has whose epoch is so many rows; time may end it before."""
        limits = [self.steps]
        limits += [-(-self.max_tokens // self.tokens_per_step)] if self.max_tokens else []
        limits += [-(-self.epochs * windows // self.rows_per_step)] if self.epochs else []
        return min(limits)

    @property
    def rows_per_step(self) -> int:
        """The rows, each a window, in one update."""
        return self.tokens_per_step // self.seq_len


@dataclass(frozen=True)
class SampleConfig(Checked):
    """How to choose the next token, and in what type the model computes it."""

    tokens: int = _sampling(256, "Tokens to write after the prompt, at most")
    temperature: float = _sampling(
        1.0, "Below 1 more predictable, above 1 more random, 0 greedy", "TEMP", high=1e6
    )
    top_k: int = _sampling(0, "Sample from the K most likely tokens (0: all)", "K")
    top_p: float = _sampling(
        1.0, "Sample from the most likely tokens that add up to P", "P", high=1
    )
    min_p: float = _sampling(
        0.0, "Drop tokens less than P times as likely as the likeliest (0: none)", "P", high=1
    )
    repetition_penalty: float = _sampling(
        1.0,
        "Above 1, tokens already in the text become less likely (1: off)",
        "PENALTY",
        low=1e-6,
        high=1e6,
    )
    seed: int = _sampling(1337, "Random seed; the same seed writes the same text", high=2**53)
    dtype: str = _sampling(
        "fp32", "Type of the weights; a smaller one is faster", "TYPE", choices=SAMPLE_DTYPES
    )


TRAIN_SETTINGS = settings_table(TrainConfig)
SAMPLE_SETTINGS = settings_table(SampleConfig)
