"""Random weights, initialised as GPT-2's were.

``llmc-native init`` makes the same bits (``native/model/random.c``): both use only operations that
IEEE 754 defines to the last bit. ``docs/reference/formats.md`` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.model import ModelConfig, tensor_shapes
from llmc.weights.base import UNSTACKED, Weights
from llmc.weights.number_types import Stored

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmc.weights.number_types import Floats

    Doubles = NDArray[np.float64]
    Words = NDArray[np.uint64]

RESIDUAL = ("attprojw", "fcprojw")
MOST_SEED = 2**53  # the engine's limit
GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment
PIECE = 1 << 14  # numbers made at once: intermediate arrays stay in the cache

# Wichura 1988, algorithm AS 241 (PPND16): numerators and denominators, the constant first.
CENTRE = (
    (
        3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
        1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
        3.3430575583588128105e4, 2.5090809287301226727e3,
    ),
    (
        1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
        2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)  # fmt: skip
SLOPE = (
    (
        1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550,
        3.64784832476320460504, 1.27045825245236838258, 2.41780725177450611770e-1,
        2.27238449892691845833e-2, 7.74545014278341407640e-4,
    ),
    (
        1.0, 2.05319162663775882187, 1.67638483018380384940, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)  # fmt: skip
TAIL = (
    (
        6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580,
        2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
        2.71155556874348757815e-5, 2.01033439929228813265e-7,
    ),
    (
        1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
        7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)  # fmt: skip
Fraction = tuple[tuple[float, ...], tuple[float, ...]]


class RandomModel(Weights):
    """Random weights that are not in a file. Access out of order makes all tensors at once."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.path = Path("random")
        self.config = config
        self._seed = seed
        self._made: dict[str, Floats] = {}

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer."""
        self._made = self._made or dict(self.tensors())
        whole = self._made[name]
        return Stored("F32", whole if name in UNSTACKED else whole[layer])

    def tensors(self) -> Iterator[tuple[str, Floats]]:
        """Yield names and whole arrays, each made when needed."""
        return random_tensors(self.config, self._seed)

    def slices(self) -> Iterator[tuple[str, Floats]]:
        """Yield names and whole arrays, each made when needed."""
        return self.tensors()


def random_tensors(config: ModelConfig, seed: int) -> Iterator[tuple[str, Floats]]:
    """Yield a model initialised as GPT-2 was, one float32 tensor at a time, in the file's order.

    Matrices are normal with standard deviation 0.02, those that write to the residual stream
    0.02/sqrt(2L), since 2L of them add up there (Radford et al. 2019, section 2.3). Biases are
    zero, the layernorms' weights one. ``wte`` lacks its padding rows.
    """
    import numpy as np

    for number, (name, padded) in enumerate(tensor_shapes(config).items()):
        shape = (config.vocab_size, config.channels) if name == "wte" else padded
        if name.endswith("b"):
            yield name, np.zeros(shape, np.float32)
        elif name.startswith("ln"):
            yield name, np.ones(shape, np.float32)
        else:
            std = 0.02 / math.sqrt(2 * config.layers) if name in RESIDUAL else 0.02
            key = mix64(mix64(seed) + number)
            values = np.empty(math.prod(shape), np.float32)
            for at in range(0, values.size, PIECE):
                piece = values[at : at + PIECE]
                piece[:] = std * normals(splitmix64(key, at, piece.size))
            yield name, values.reshape(shape)


def mix64(x: int) -> int:
    """Return the first output of SplitMix64 seeded with ``x``: a well-mixed 64-bit number."""
    return int(splitmix64(x, 0, 1)[0])


def splitmix64(seed: int, first: int, count: int) -> Words:
    """Return outputs ``first`` to first + count - 1 of SplitMix64 (Steele et al. 2014)."""
    import numpy as np

    start = (seed + (first + 1) * GAMMA) % 2**64
    x = np.arange(count, dtype=np.uint64)
    x *= np.uint64(GAMMA)
    x += np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(31)
    return x


def normals(words: Words) -> Doubles:
    """Return a normal number for each random word.

    It is the quantile of the middle of one of 2^52 equal parts of 0 … 1, from -8.2 to 8.2.
    """
    import numpy as np

    p = ((words >> np.uint64(12)) * np.uint64(2) + np.uint64(1)) * 2.0**-53
    q = p - 0.5
    values = q * _quotient(CENTRE, 0.180625 - q * q)
    outside = np.flatnonzero(np.abs(q) > 0.425)
    low = q[outside] < 0
    p = p[outside]
    r = np.sqrt(-_logarithm(np.where(low, p, 1 - p)))
    size = np.where(r <= 5, _quotient(SLOPE, r - 1.6), _quotient(TAIL, r - 5))
    values[outside] = np.where(low, -size, size)
    return values


def _quotient(fraction: Fraction, x: Doubles) -> Doubles:
    """Return the quotient of two polynomials."""
    above, below = (_polynomial(coefficients, x) for coefficients in fraction)
    above /= below
    return above


def _polynomial(coefficients: tuple[float, ...], x: Doubles) -> Doubles:
    total = coefficients[-1] * x
    for coefficient in coefficients[-2:0:-1]:
        total += coefficient
        total *= x
    total += coefficients[0]
    return total


def _logarithm(x: Doubles) -> Doubles:
    """Return log x with the same bits on every machine, unlike the library's.

    x = m 2^e with m from sqrt(1/2) to sqrt(2), and with s = (m - 1) / (m + 1) the logarithm of m is
    2 (s + s^3/3 + s^5/5 + …), of which eleven terms leave 1e-18.
    """
    import numpy as np

    m, e = np.frexp(x)
    low = m < 0.70710678118654752
    m = np.where(low, m * 2, m)
    s = (m - 1) / (m + 1)
    series = _polynomial(tuple(1 / odd for odd in range(1, 23, 2)), s * s)
    return np.asarray(2 * s * series + (e - low) * 0.69314718055994531)
