"""nanoGPT's ``meta.pkl``: the characters of a character-level data set, read without running it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from llmc.errors import BadData
from llmc.kinds import broken_explained
from llmc.tokens.held import character_tokenizer
from llmc.tokens.tokenizer import Tokenizer

META = "meta.pkl"
LARGEST = 1 << 22  # bytes: twice what all of Unicode takes


class _Values(pickle._Unpickler):
    """Reads dictionaries, texts and numbers; whatever would call code is refused.

    It is the unpickler written in Python: that in C makes its memo as large as a file claims. This
    one would allocate a bytearray of the claimed size before it reads its content, so bytearrays
    are refused.
    """

    dispatch = {  # noqa: RUF012 -- as pickle declares it
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str, /) -> NoReturn:
        """Refuse every class and function."""
        raise pickle.UnpicklingError(f"it would call {module}.{name}")


def read_meta(path: Path) -> Tokenizer:
    """Return the tokenizer of a ``meta.pkl``.

    Raises:
        BadData: it is damaged, holds more than plain values, or is not a table of characters.
    """
    advice = "make it again with nanoGPT's prepare.py"
    with broken_explained(path, advice), path.open("rb") as file:
        if file.seek(0, 2) > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes is too large for a table of characters")
        file.seek(0)
        try:
            loaded: Any = _Values(file).load()
        except Exception as error:  # a damaged pickle raises nearly anything
            raise BadData(
                f"{path} is not nanoGPT's {META} ({type(error).__name__}: {error}): {advice}"
            ) from error
    ids = loaded.get("stoi") if isinstance(loaded, dict) else None
    if not isinstance(ids, dict):
        raise BadData(f"{path} has no table 'stoi' of characters: {advice}")
    try:
        return character_tokenizer(ids)
    except BadData as error:
        raise BadData(f"{path}: {error}; {advice}") from error
