"""Run the engine on the model with known answers: any instruction set, every file format."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmc import errors
from llmc.check.debug_state import DebugState, read_debug_state
from llmc.check.known_answers import MODEL, TRAIN, Answers, answers_of, tensors, tokens
from llmc.engine.process import Engine
from llmc.errors import BadData, LlmcError
from llmc.parsing import from_json
from llmc.setting import flags_of
from llmc.tokens.files import UINT16_VOCAB, write_tokens
from llmc.weights.checkpoint import read_checkpoint, write_checkpoint
from llmc.weights.number_types import from_bf16, to_bf16

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.float32]]

THREADS = (1, 2, 3)
STEPS_TO_REPEAT = 3
BUG = f"{errors.BUG} with the output of 'llmc doctor --json'"
BEST = ""  # an LLMC_ISA that leaves the choice to the engine


@contextmanager
def trial(binary: Path) -> Iterator[Trial]:
    """Write the model and its tokens into a temporary folder and yield the trial.

    Raises:
        BadData: the folder cannot be made.
    """
    try:
        scratch = tempfile.TemporaryDirectory(prefix="llmc-")
    except OSError as error:
        raise BadData(
            f"cannot make a temporary folder: {error.strerror}; set TMPDIR to one with some room"
        ) from error
    with scratch as folder:
        made = Trial(binary, Path(folder))
        write_checkpoint(made.model, MODEL, tensors().items())
        write_tokens(made.data, [tokens()], MODEL.vocab_size)
        yield made


@dataclass(frozen=True)
class Trial:
    """The engine, and a folder with the model and the tokens that every method starts from.

    All methods raise the engine's failure as an :class:`LlmcError`.
    """

    binary: Path
    folder: Path

    @property
    def model(self) -> Path:
        """The checkpoint that every run starts from."""
        return self.folder / "model.bin"

    @property
    def data(self) -> Path:
        """The token file."""
        return self.folder / "tokens.bin"

    @property
    def trained(self) -> Path:
        """The checkpoint that :meth:`train` leaves."""
        return self.folder / "out" / "model.bin"

    def first_batch(self, isa: str, dtype: str = TRAIN.dtype) -> DebugState:
        """Return the engine's logits, loss and gradients of the first batch."""
        out = self.folder / "state.bin"
        shape = ("--batch-size", str(TRAIN.batch_size), "--seq-len", str(TRAIN.seq_len))
        self._run(isa, "debug-state", *shape, "--out", str(out), "--dtype", dtype)
        return read_debug_state(out, MODEL)

    def train(
        self, isa: str, *words: str, steps: int = TRAIN.steps, dtype: str = TRAIN.dtype
    ) -> list[tuple[float, float]]:
        """Train and return every step's loss and norm of the gradient."""
        flags = flags_of(replace(TRAIN, steps=steps, dtype=dtype))
        out = ("--out", str(self.trained.parent), "--events", "json")
        shutil.rmtree(self.trained.parent, ignore_errors=True)
        events = map(from_json, self._run(isa, "train", *flags, *out, *words))
        return [(event["train_loss"], event["grad_norm"]) for event in events if "step_ms" in event]

    def answers(self, isa: str, dtype: str = TRAIN.dtype) -> Answers:
        """Return the engine's answers, for comparison with the known ones."""
        gradients = self.first_batch(isa, dtype).gradients
        losses = [loss for loss, _ in self.train(isa, dtype=dtype)]
        return answers_of(losses, gradients, read_checkpoint(self.trained)[1])

    def check_same_bits(self, isa: str) -> None:
        """Train with different numbers of threads and compare the results bit for bit.

        Raises:
            LlmcError: losses or weights differ.
        """
        first = None
        for threads in THREADS:
            metrics = self.train(isa, "--threads", str(threads), steps=STEPS_TO_REPEAT)
            got = (metrics, self.trained.read_bytes())
            first = first or got
            if got != first:
                what = "losses" if metrics != first[0] else "weights"
                raise LlmcError(
                    f"{isa or 'the engine'}: {threads} threads make other {what} than one; {BUG}"
                )

    def check_round_trip(self) -> None:
        """Compare checkpoints and tokens bit for bit before and after the engine copies them.

        Raises:
            LlmcError: they differ.
        """
        import numpy as np

        whole: Tensors = tensors()
        bf16 = {name: from_bf16(to_bf16(values)) for name, values in whole.items()}
        for dtype, expected in (("fp32", whole), ("bf16", bf16)):
            write_checkpoint(self.model, MODEL, whole.items(), dtype=dtype)
            self.train(BEST, steps=0)
            for name, values in read_checkpoint(self.trained)[1].items():
                if values.tobytes() != expected[name].tobytes():
                    raise LlmcError(f"a checkpoint in {dtype} came back with another {name}; {BUG}")
        B, T = TRAIN.batch_size, TRAIN.seq_len
        for bits, vocab_size in ((16, UINT16_VOCAB), (32, UINT16_VOCAB + 1)):
            write_tokens(self.data, [tokens()], vocab_size)
            batch = self.first_batch(BEST)
            run = tokens()[: B * T + 1]
            if not np.array_equal(
                [batch.tokens.ravel(), batch.targets.ravel()], [run[:-1], run[1:]]
            ):
                raise LlmcError(f"a file of {bits}-bit tokens came back with other tokens; {BUG}")

    def _run(self, isa: str, subcommand: str, *words: str) -> list[str]:
        files = ("--model", str(self.model), "--data", str(self.data))
        argv = [str(self.binary), subcommand, *files, *words]
        with Engine(argv, {"LLMC_ISA": isa}) as engine:
            return list(engine)
