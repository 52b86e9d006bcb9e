"""What Python and the engine both hold: names, limits, codes. The C sources are read as text."""

from __future__ import annotations

import re

import pytest

from llmc.config import (
    DTYPES,
    MOST_SHARES,
    MOST_STEPS,
    MOST_Z,
    OPTIMIZER_STATES,
    OPTIMIZERS,
    SAMPLE_DTYPES,
    SCHEDULES,
    WINDOWS,
)
from llmc.engine.isas import ISAS
from llmc.engine.launcher import NUMBERED
from llmc.engine.machine import MOST_THREADS
from llmc.engine.protocol import LONGEST_LINE, MOST_ALTERNATIVES, MOST_BIASES, REASONS
from llmc.errors import ExitCode
from llmc.model import HIDDEN_MATRICES, LARGEST, ModelConfig, tensor_shapes
from llmc.train.metrics import STATES
from llmc.weights.state import MOMENTS, WINDOW
from tests.helpers.places import ROOT


def source(path: str) -> str:
    return (ROOT / "native" / path).read_text()


def constant(path: str, name: str) -> float:
    """Return a number that an enum or a ``#define`` names: ``20``, ``11.2`` or ``1 << 20``."""
    found = re.search(rf"\b{name}(?: = | )([\d.]+)(?: << (\d+))?", source(path))
    assert found, f"{path} does not define {name}"
    return float(found[1]) * (1 << int(found[2] or 0))


def names(path: str, table: str) -> tuple[str, ...]:
    """Return the strings of a table."""
    found = re.search(rf"\b{table}\[\] = \{{(.*?)\}};", source(path), re.DOTALL)
    assert found, f"{path} has no table {table}"
    return tuple(re.findall(r'"([^"]*)"', found[1]))


@pytest.mark.parametrize(
    ("path", "name", "ours"),
    [
        ("base/pool.h", "POOL_MAX_THREADS", MOST_THREADS),
        ("model/gpt2.h", "MOST_LAYERS", LARGEST["layers"]),
        ("model/gpt2.h", "MOST_HEADS", LARGEST["heads"]),
        ("model/gpt2.h", "MOST_CHANNELS", LARGEST["channels"]),
        ("model/gpt2.h", "MOST_CONTEXT", LARGEST["context"]),
        ("model/gpt2.h", "MOST_VOCAB", LARGEST["vocab_size"]),
        ("ranks/ranks.h", "RANKS_MOST", MOST_SHARES),
        ("sample/generate.c", "LINE_BYTES", LONGEST_LINE),
        ("sample/requests.h", "REQUEST_LOGPROBS", MOST_ALTERNATIVES),
        ("sample/sampler.h", "MOST_BIASES", MOST_BIASES),
        ("train/outliers.h", "OUTLIERS_MOST_Z", MOST_Z),
        ("train/outliers.h", "OUTLIERS_WINDOW", WINDOW),
        ("train/stopping.h", "MOST_STEPS", MOST_STEPS),
    ],
)
def test_a_limit(path: str, name: str, ours: float) -> None:
    assert constant(path, name) == ours


@pytest.mark.parametrize(
    ("path", "table", "ours"),
    [
        ("base/dtype.h", "DTYPE_NAMES", DTYPES),
        ("base/dtype.h", "WEIGHT_NAMES", SAMPLE_DTYPES),
        ("kernels/moments.h", "MOMENTS_NAMES", OPTIMIZER_STATES),
        ("kernels/moments.h", "MOMENTS_NAMES", tuple(name for name, *_ in MOMENTS)),
        ("model/gpt2.h", "OPTIMIZER_NAMES", OPTIMIZERS),
        ("sample/generate.c", "reasons", REASONS),
        ("train/run.c", "WINDOWS_NAMES", WINDOWS),
        ("train/schedule.c", "SCHEDULE_NAMES", SCHEDULES),
        ("train/stopping.c", "END_NAMES", ("goes-on", *STATES)),
    ],
)
def test_names(path: str, table: str, ours: tuple[str, ...]) -> None:
    """In this order: files hold some of them as numbers."""
    assert names(path, table) == ours


def test_exit_codes() -> None:
    found = dict(re.findall(r"\bEXIT_(\w+) = (\d+)", source("base/util.h")))
    assert {name: int(code) for name, code in found.items()} == {
        code.name: int(code) for code in ExitCode if code is not ExitCode.COMPILE
    }


def test_tensors() -> None:
    shape = ModelConfig(layers=5, heads=7, channels=7 * 11, context=13, vocab_size=17)
    sizes = {
        "L": shape.layers,
        "C": shape.channels,
        "maxT": shape.context,
        "Vp": shape.padded_vocab_size,
    }

    def size(text: str) -> int:
        times, dimension = re.fullmatch(r"(?:(\d) \* )?(\w+)", text).groups()  # type: ignore[union-attr]
        return int(times or 1) * sizes.get(dimension, 1)

    declared = re.findall(r"X\((\w+), (\w+), (\w+), ([^,]+), ([^)]+)\)", source("model/gpt2.h"))
    found = {}
    for name, kind, place, rows, columns in declared:
        matrix = (size(rows), size(columns)) if kind == "MATRIX" else (size(columns),)
        found[name] = (shape.layers, *matrix) if place == "BLOCK" else matrix
    assert list(found.items()) == list(tensor_shapes(shape).items())
    hidden = [name for name, kind, place, *_ in declared if (kind, place) == ("MATRIX", "BLOCK")]
    assert tuple(hidden) == HIDDEN_MATRICES


def test_instruction_sets() -> None:
    files = {path.stem for path in (ROOT / "native" / "kernels" / "isa").glob("*.c")}
    chosen = re.findall(r"#ifdef LLMC_HAVE_(\w+)\nextern", source("kernels/dispatch.c"))
    assert files == ISAS.keys() == {name.lower() for name in chosen}


def test_the_variables_of_launchers() -> None:
    rows = re.findall(r'\{"[^"]+", "(\w+)", "(\w+)", \{', source("ranks/launcher_posix.c"))
    assert tuple((rank, count) for count, rank in rows) == NUMBERED
