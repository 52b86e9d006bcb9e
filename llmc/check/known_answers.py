"""A small model whose numbers are known: PyTorch computed them once, in float64.

Weights and tokens come from integer arithmetic, so that every machine and every NumPy makes the
same bits. Of each tensor the answers hold the norm and a few random projections: sums of all its
elements under random signs. The projections of a difference have the difference's norm as their
root mean square (Achlioptas 2003), so that the distance of ``tolerances.py`` can be had without the
tensor, and one wrong element shows in every projection.

``python -m tests.programs.known_answers`` computes them again;
``tests/unit/check/test_known_answers.py`` holds the stored ones to that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.check.tolerances import STEPS
from llmc.config import TrainConfig
from llmc.errors import BadData
from llmc.model import ModelConfig, tensor_shapes
from llmc.parsing import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.floating]

# Few of these sizes are multiples of a vector, a tile or a block: remainders are tested too.
MODEL = ModelConfig(layers=2, heads=4, channels=72, context=48, vocab_size=300)
TRAIN = TrainConfig(
    steps=STEPS,
    batch_size=2,
    seq_len=37,
    lr=1e-3,
    weight_decay=0.1,
    shuffle=False,
    val_every=0,
    sample_every=0,
)
ANSWERS = Path(__file__).with_suffix(".json")

PROJECTIONS = 8


@dataclass(frozen=True)
class Answers:
    """The known answers."""

    losses: list[float]  # the loss of every step of AdamW, before its update
    # Of the first step; for each tensor the norm, then the projections.
    gradients: dict[str, list[float]]
    parameters: dict[str, list[float]]  # the same of the parameters after the last step


def tensors() -> dict[str, NDArray[np.float32]]:
    """Return the model's initial weights, large enough that each affects the result."""
    import numpy as np

    made = {}
    for stream, (name, shape) in enumerate(tensor_shapes(MODEL).items(), start=1):
        random = (_hashes(math.prod(shape), stream) >> np.uint64(40)).astype(np.float32)
        values = random.reshape(shape) * np.float32(2.0**-23) - np.float32(1)  # [-1, 1), exact
        is_matrix = len(shape) > 1 and not name.startswith("ln") and not name.endswith("b")
        values *= np.float32(0.25 if is_matrix else 0.125)
        made[name] = values + np.float32(name in ("ln1w", "ln2w", "lnfw"))
    made["wte"][MODEL.vocab_size :] = 0
    return made


def tokens() -> NDArray[np.int64]:
    """Return the tokens of all steps, (STEPS·B·T + 1)."""
    import numpy as np

    count = TRAIN.steps * TRAIN.batch_size * TRAIN.seq_len + 1
    return (_hashes(count, 0) % np.uint64(MODEL.vocab_size)).astype(np.int64)


def answers_of(
    losses: list[float], gradients: Mapping[str, Values], parameters: Mapping[str, Values]
) -> Answers:
    """Return an implementation's results in the form of the stored answers."""
    return Answers(
        losses,
        {name: _projected(name, values) for name, values in gradients.items()},
        {name: _projected(name, values) for name, values in parameters.items()},
    )


def known_answers(path: Path = ANSWERS) -> Answers:
    """Return the stored answers.

    Raises:
        BadData: the file is missing or damaged.
    """
    try:
        answers = Answers(**read_json(path))
        names = set(tensor_shapes(MODEL))
        whole = len(answers.losses) == STEPS and all(
            set(kept) == names and all(len(row) == 1 + PROJECTIONS for row in kept.values())
            for kept in (answers.gradients, answers.parameters)
        )
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}; reinstall llmc") from error
    except (ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise BadData(f"{path} is damaged: reinstall llmc")
    return answers


def distances(found: Answers, known: Answers) -> tuple[dict[str, float], dict[str, float]]:
    """Return the relative distance of ``found`` from ``known`` by name; see ``tolerances.py``.

    Returns:
        The first loss and every gradient; then all losses and every parameter after the last step.
    """
    first = {name: _distance(found.gradients[name], row) for name, row in known.gradients.items()}
    last = {name: _distance(found.parameters[name], row) for name, row in known.parameters.items()}
    return (
        {"loss": abs(found.losses[0] / known.losses[0] - 1), **first},
        {"losses": math.dist(found.losses, known.losses) / math.hypot(*known.losses), **last},
    )


def _distance(found: list[float], known: list[float]) -> float:
    """Return the root mean square of the projections' differences, relative to the norm."""
    return math.dist(found[1:], known[1:]) / math.sqrt(PROJECTIONS) / known[0]


def _projected(name: str, values: Values) -> list[float]:
    """Return the norm and the projections of a tensor, summed in float64."""
    import numpy as np

    if name == "qkvb":
        # The bias of the keys shifts all scores of a query alike and has no effect: its gradient
        # is rounding error, which AdamW scales up to whole steps.
        C = MODEL.channels
        values = np.delete(values, np.s_[C : 2 * C], axis=1)
    flat = np.asarray(values, np.float64).reshape(-1)
    hashes = _hashes(flat.size, 100)
    signs = [1 - 2.0 * ((hashes >> np.uint64(bit)) & np.uint64(1)) for bit in range(PROJECTIONS)]
    return [float(np.linalg.norm(flat)), *(float(np.dot(row, flat)) for row in signs)]


def _hashes(count: int, stream: int) -> NDArray[np.uint64]:
    """Return the hashes (count,) of a stream's numbers: ``mix64`` of ``native/base/util.c``."""
    import numpy as np

    x = np.arange(count, dtype=np.uint64) + np.uint64(stream << 32)
    x += np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
