"""A model with rows for more tokens.

The tokens that a tokenizer gets later have the ids after its own. A model with fewer rows gets new
ones; padding rows become rows of the vocabulary before the file grows. Everything else keeps its
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.tokens.added import with_tokens
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.tokenizer_json import Unheld
from llmc.weights.base import Weights
from llmc.weights.number_types import Stored
from llmc.weights.sources import FoundWeights
from llmc.weights.tokenizer import carried_tokenizer

if TYPE_CHECKING:
    from llmc.weights.number_types import Floats


def grown(
    found: FoundWeights, tokenizer: Tokenizer | None, names: Sequence[str]
) -> tuple[FoundWeights, Tokenizer]:
    """Return a model and its tokenizer with the special tokens ``names``.

    ``tokenizer`` is the model's; None if it is not known. Files of ``NAME`` are called
    ``NAME-chatml`` if the tokens are those of that chat template, else ``NAME-grown``.

    Raises:
        Usage: a name is empty or is a token already.
        BadData: the tokenizer is not known, is a table of characters, or llmc cannot hold it.
    """
    if tokenizer is None:
        if isinstance(own := carried_tokenizer(found), Unheld):
            raise BadData(f"llmc cannot hold the tokenizer of {found.name}: {own.reason}")
        raise BadData(
            f"the tokenizer of {found.name} is not known, and tokens are added to it: name it with "
            "--tokenizer"
        )
    made = with_tokens(tokenizer, names)
    if made.template is None:
        made = replace(made, template=tokenizer.template)
    weights = GrownWeights(found.weights, tokenizer.vocab_size, made.vocab_size)
    ending = made.template.name if made.template not in (None, tokenizer.template) else "grown"
    return replace(found, name=f"{found.name}-{ending}", weights=weights), made


class GrownWeights(Weights):
    """Weights in which tokens ``known`` to ``size`` - 1 have the mean of the rows before them."""

    def __init__(self, weights: Weights, known: int, size: int) -> None:
        """Grow ``weights``, whose tokenizer has ``known`` tokens, for a tokenizer of ``size``.

        Rows of the model that no token had, after the first ``known``, are used before new ones.
        """
        self._weights = weights
        self._known, self._size = known, size
        self.path, self.origin, self.notes = weights.path, weights.origin, weights.notes
        self.config = replace(weights.config, vocab_size=max(weights.config.vocab_size, size))

    def stored(self, name: str, layer: int = 0) -> Stored:
        """Return one tensor of one layer; only the blocks of ``wte`` have its new rows."""
        found = self._weights.stored(name, layer)
        if name != "wte":
            return found
        return _GrownRows(found.kind, found.values, self._known, self._size)

    def read(self, name: str, layer: int = 0) -> Floats:
        """Return one tensor of one layer as float32."""
        import numpy as np

        if name != "wte":
            return self._weights.read(name, layer)
        return np.concatenate(list(self.stored(name).blocks()))

    def verify(self) -> None:
        """Check the data that the file has; errors as in the base class."""
        self._weights.verify()


@dataclass(frozen=True)
class _GrownRows(Stored):
    """The rows of ``wte``: those ``known``, their mean up to ``size``, those after them."""

    known: int
    size: int

    def blocks(self) -> Iterator[Floats]:
        """Yield the tensor as float32, some rows at a time."""
        import numpy as np

        total = np.zeros(1)
        for block in Stored(self.kind, self.values[: self.known]).blocks():
            total = total + block.sum(axis=0, dtype=np.float64)
            yield block
        mean = (total / self.known).astype(np.float32)
        yield np.tile(mean, (self.size - self.known, 1))
        yield from Stored(self.kind, self.values[self.size :]).blocks()
