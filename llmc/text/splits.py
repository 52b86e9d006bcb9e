"""The splits of a dataset's repository on disk, kept apart as those of the hub are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmc.errors import Usage
from llmc.text.examine import LeftOut
from llmc.text.hub import declared_splits, fits
from llmc.text.split_names import (
    ABOUT,
    FORMATS,
    TRAIN,
    VALIDATION,
    alike_splits,
    all_strict,
    format_of,
    has_several,
    note_on_few,
    split_of_path,
    strict_splits,
    why_left_out,
)

CARD = "README.md"
# Keys of a dataset's card that the front matter of other pages has not.
OF_CARD = {"configs", "dataset_info", "task_categories", "size_categories", "pretty_name"}


@dataclass
class Splits:
    """The files of a folder by split, and what is of another split or about the dataset."""

    train: list[Path] = field(default_factory=list)
    validation: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def splits_of(folder: Path, files: Sequence[Path]) -> Splits | None:
    """Return the splits of a folder; None if it has none and is read as a whole.

    It has splits if its card says so (``README.md`` with the hub's fields), or if files or folders
    are called ``train`` and ``test`` or ``validation``, or names of files differ in these words
    alone; few files among many others say nothing by their names. What has no such name is training
    text. A dataset that ``save_to_disk`` wrote (.arrow) is the training split.

    Raises:
        Usage: the card declares several subsets.
    """
    card = _card(folder / CARD)
    names = {file: file.relative_to(folder).as_posix() for file in files}
    data = {file: form for file, name in names.items() if (form := format_of(name)) in FORMATS}
    of_split = _declared(folder, card, names) if card is not None else {}
    # A card often names the training files alone; the names of the others say what they are.
    lenient = card is not None and not of_split
    of_data = {file: names[file] for file in data}
    if lenient:
        by_name = {file: split_of_path(name) for file, name in of_data.items()}
    else:  # what has a card is a dataset, however few of its files are called like splits
        strict = strict_splits if card is None else all_strict
        by_name = strict(of_data) | alike_splits(of_data)
    if not by_name:
        by_name = {file: TRAIN for file, form in data.items() if form == "arrow"}
    of_split = by_name | of_split
    if not (has_several(of_split) or (of_split and (card is not None or "arrow" in data.values()))):
        return None
    form = next((f for f in FORMATS if f in {data.get(file) for file in of_split}), None)
    found = Splits()
    for file in files:
        split = of_split.get(file)
        if split is not None and data.get(file) != form:
            found.left_out.append(LeftOut(str(file), f"is the split {split} in another format"))
        elif split == VALIDATION:
            found.validation.append(file)
        elif (reason := why_left_out(names[file], split, "name the file to read it")) is not None:
            found.left_out.append(LeftOut(str(file), reason))
        elif split is None and card is not None:
            reason = "is not in the dataset's card" if file in data else ABOUT
            found.left_out.append(LeftOut(str(file), reason))
        else:
            found.train.append(file)
    return found if found.train else None


def note_on_names(folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """Return a sentence on files that are called like those of splits, if most are not."""
    return note_on_few(folder, [file.relative_to(folder).as_posix() for file in files])


def _card(path: Path) -> dict[str, Any] | None:
    """Return the fields of a dataset's card; None if the file is something else."""
    try:
        with path.open("rb") as file:
            if file.read(3) != b"---":
                return None
        from huggingface_hub import metadata_load

        fields = metadata_load(path)
    except Exception:  # unreadable, or not YAML; reading it as text names the fault
        return None
    is_card = isinstance(fields, dict) and not OF_CARD.isdisjoint(fields)
    return fields if is_card else None


def _declared(folder: Path, card: dict[str, Any], names: dict[Path, str]) -> dict[Path, str]:
    """Return the split of each file that a card declares."""
    found: dict[str, list[Path]] = defaultdict(list)
    configs = card.get("configs")
    for split, patterns in declared_splits(configs if isinstance(configs, list) else []):
        found[split] += [f for f, n in names.items() if any(fits(n, each) for each in patterns)]
    if subsets := [split for split, files in found.items() if "/" in split and files]:
        raise Usage(
            f"{folder} holds several texts ({', '.join(subsets)}): name the files of one, with "
            "a pattern or --include"
        )
    return {file: split for split, files in found.items() for file in files}
