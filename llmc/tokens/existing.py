"""Existing datasets: find one again, name one by its folder, and replace none unasked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmc.errors import LlmcError, Usage
from llmc.tokens.manifest import FILENAME, Manifest, load_manifest, verify
from llmc.tokens.template import Template
from llmc.tokens.tokenizer import Tokenizer, bpe_vocab_size, load_tokenizer


@dataclass(frozen=True)
class Ingredients:
    """What a dataset is made of."""

    source: Sequence[dict[str, Any]]  # the records of the text
    tokenizer: str | Tokenizer  # a tokenizer, or what names one
    template: Template | None = None  # the chat template; None: the text holds no conversations
    or_fewer: bool = False  # a text may yield fewer than the N tokens of bpe:N
    # A hash in the records -> what older versions recorded.
    older: Mapping[str, str] = field(default_factory=dict)


def intact_dataset(folder: Path, wanted: Ingredients) -> Manifest | None:
    """Return the dataset in ``folder`` if it is undamaged and was made of this.

    Raises:
        Usage: the tokenizer is unknown.
    """
    try:
        made = load_manifest(folder)
        verify(made)
        made.load_tokenizer()
    except LlmcError:
        return None
    whole = not made.special and made.part is None
    return made if whole and _difference(made, wanted) is None else None


def check_replaced(folder: Path, wanted: Ingredients, *, force: bool) -> None:
    """Refuse to replace a dataset that was made of something else, because runs refer to it.

    Raises:
        Usage: there is such a dataset in ``folder``, and not ``force``.
    """
    if force or not (folder / FILENAME).exists():
        return
    try:
        made = load_manifest(folder)
    except LlmcError:
        return  # damaged: nothing is lost
    if (difference := _difference(made, wanted)) is not None:
        raise Usage(
            f"{folder} is a dataset made {difference}, and runs may refer to it: "
            "replace it with --force, or name another folder with --out"
        )


def _difference(made: Manifest, wanted: Ingredients) -> str | None:
    """Return what a dataset was made of instead, or None."""
    if _texts(made.source, {}) not in [_texts(wanted.source, old) for old in ({}, wanted.older)]:
        return "of other text"
    vocab_size, template = bpe_vocab_size(wanted.tokenizer), wanted.template
    there = made.tokenizer
    if vocab_size is not None:
        size = (there.asked if wanted.or_fewer else None) or there.vocab_size
        same = (there.name, size) == ("bpe", vocab_size)
    else:
        loaded = load_tokenizer(wanted.tokenizer)
        same = there.fingerprint == loaded.fingerprint
        template = template or loaded.template
    if not same:
        return f"with another tokenizer ({there.name})"
    name = template.name if template is not None else None
    return None if there.template == name else f"with the chat template {there.template}"


def _texts(source: Sequence[Mapping[str, Any]], older: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the records of a text without where it lies: a workspace may be moved or copied."""

    def known(value: Any) -> Any:
        if isinstance(value, dict):  # of the validation text
            return _texts([value], older)[0]
        return older.get(value, value) if isinstance(value, str) else value

    return [{key: known(each[key]) for key in each if key != "path"} for each in source]


def dataset_named(inputs: Sequence[str]) -> Manifest | None:
    """Return the dataset whose own folder is the only input; None if that is text.

    A folder of text in which its dataset lies too is text, and so is one with a broken manifest.
    """
    folder = Path(inputs[0]) if len(inputs) == 1 else None
    if folder is None or not (folder / FILENAME).is_file():
        return None
    try:
        made = load_manifest(folder)
    except LlmcError:
        return None
    paths = [Path(record["path"]) for record in made.source if "path" in record]
    return None if any(path.is_relative_to(folder.resolve()) for path in paths) else made
