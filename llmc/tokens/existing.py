"""Existing datasets: find one again, name one by its folder, and replace none unasked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmc.errors import LlmcError, Usage
from llmc.tokens.manifest import FILENAME, Manifest, load_manifest, verify
from llmc.tokens.tokenizer import Tokenizer, bpe_vocab_size, load_tokenizer

NO_OLDER: Mapping[str, str] = {}


def intact_dataset(
    folder: Path,
    source: Sequence[dict[str, Any]],
    tokenizer: str | Tokenizer,
    older: Mapping[str, str] = NO_OLDER,
    template: str | None = None,
) -> Manifest | None:
    """Return the dataset in ``folder`` if it is undamaged and was made of this.

    Args:
        folder: of the dataset.
        source: the records of the text.
        tokenizer: a tokenizer, or what names one.
        older: a hash in the records -> what older versions recorded.
        template: the name of the chat template; None: the text holds no conversations.

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
    return made if whole and _difference(made, source, tokenizer, older, template) is None else None


def check_replaced(
    folder: Path,
    source: Sequence[dict[str, Any]],
    tokenizer: str | Tokenizer,
    older: Mapping[str, str] = NO_OLDER,
    template: str | None = None,
    *,
    force: bool,
) -> None:
    """Refuse to replace a dataset that was made of something else, because runs refer to it.

    Args:
        folder: where a dataset is to be written.
        source: the records of its text.
        tokenizer: a tokenizer, or what names one.
        older: a hash in the records -> what older versions recorded.
        template: the name of the chat template; None: the text holds no conversations.
        force: replace it all the same.

    Raises:
        Usage: there is such a dataset in ``folder``, and not ``force``.
    """
    if force or not (folder / FILENAME).exists():
        return
    try:
        made = load_manifest(folder)
    except LlmcError:
        return  # damaged: nothing is lost
    if (difference := _difference(made, source, tokenizer, older, template)) is not None:
        raise Usage(
            f"{folder} is a dataset made {difference}, and runs may refer to it: "
            "replace it with --force, or name another folder with --out"
        )


def _difference(
    made: Manifest,
    source: Sequence[dict[str, Any]],
    tokenizer: str | Tokenizer,
    older: Mapping[str, str],
    template: str | None,
) -> str | None:
    """Return what a dataset was made of instead, or None."""
    if _texts(made.source) not in (_texts(source), _texts(source, older)):
        return "of other text"
    vocab_size = bpe_vocab_size(tokenizer)
    there = made.tokenizer
    if vocab_size is not None:
        same = (there.name, there.vocab_size) == ("bpe", vocab_size)
    else:
        loaded = load_tokenizer(tokenizer)
        same = there.fingerprint == loaded.fingerprint
        if template is None and loaded.template is not None:
            template = loaded.template.name
    if not same:
        return f"with another tokenizer ({there.name})"
    return None if there.template == template else f"with the chat template {there.template}"


def _texts(
    source: Sequence[Mapping[str, Any]], older: Mapping[str, str] = NO_OLDER
) -> list[dict[str, Any]]:
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
