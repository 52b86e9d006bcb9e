"""What a run reads: its texts, found and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData, MissingOutput
from llmc.paths import Workspace, expanded
from llmc.tokens.files import has_mask, read_mask, read_tokens
from llmc.tokens.manifest import FILENAME as MANIFEST
from llmc.tokens.manifest import Manifest, load_manifest, verify
from llmc.tokens.masks import COUNTS
from llmc.tokens.template import Template, template_named
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.windows import sample_question
from llmc.train.mixture import (
    Named,
    Portion,
    Wanted,
    check_distinct,
    joined_name,
    located,
    named_apart,
    shares,
)

if TYPE_CHECKING:
    from llmc.tokens.files import Ids


@dataclass(frozen=True)
class Data:
    """What to train on."""

    name: str  # the dataset's, which names the run; of a mixture all names
    train: tuple[Portion, ...]  # the texts to train on, mixed by weight; most runs have one
    val: tuple[Portion, ...] = ()  # the validation texts, if any
    # Of all datasets that the files belong to, those to train on first.
    manifests: tuple[Manifest, ...] = ()
    tokenizer: Tokenizer | None = None  # what made them; None where that is not known
    sample_prompt: tuple[int, ...] = ()  # ids that samples during training follow; (): end-of-text
    sample_stop: int | None = None  # the id that ends such a sample, written too; None: none does

    @property
    def folder(self) -> Path:
        """The folder in which the first text's token files lie."""
        return self.train[0].folder

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the tokenizer, in hexadecimal; None where it is not known."""
        return self.manifests[0].tokenizer.fingerprint if self.manifests else None

    @cached_property
    def val_bytes_per_token(self) -> float | None:
        """The bytes of a validation token that counts, on average; None: they are not known.

        Of a mixture it is the mean by the weights of its texts, as its loss is.
        """
        if self.tokenizer is None or not self.val:
            return None
        sizes = self.tokenizer.byte_lengths()
        per_token = 0.0
        for text, share in zip(self.val, shares(self.val), strict=True):
            files = [_counted(file) for file in expanded(text.path)]
            of_text = sum(int(sizes[ids].sum()) for ids in files)
            per_token += share * of_text / max(sum(len(ids) for ids in files), 1)
        return per_token or None

    def bits_per_byte(self, nats: float | None) -> float | None:
        """Return a loss per validation token in bits per byte; None where that is not known."""
        if nats is None or self.val_bytes_per_token is None:
            return None
        return nats / math.log(2) / self.val_bytes_per_token

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of a sample, or its ids where the tokenizer is not known.

        Of conversations it is the prompt and the answer, without special tokens.
        """
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        known = [token for token in ids if token < self.tokenizer.vocab_size]
        if self.sample_prompt:
            special = {*self.tokenizer.special_tokens.values()}
            known = [token for token in (*self.sample_prompt, *known) if token not in special]
        return self.tokenizer.detokenize(known).decode(errors="replace")


def _counted(file: Path) -> Ids:
    """Return the tokens of a file at which the loss counts, (n,)."""
    tokens = read_tokens(file)
    return tokens[read_mask(file) & COUNTS != 0] if has_mask(file) else tokens


def find_data(workspace: Workspace, data: Wanted = None, val_data: Wanted = None) -> Data:
    """Return the texts that the caller names, or the dataset prepared last, its files verified.

    Every file is held to the manifest of its own folder, so that a pattern, a mixture or
    ``val_data`` cannot bring in the tokens of another tokenizer. Without ``val_data`` each text is
    validated on its dataset's own split, by the same weights.

    Raises:
        MissingOutput: there is none.
        BadData: a file is not what its manifest says, or two have different tokenizers or chat
            templates.
        Usage: a file is named twice.
    """
    vouching: dict[Path, Manifest] = {}
    wanted = _each(workspace, data) or (Named(workspace.newest_dataset()),)
    found = [_training(each, vouching) for each in wanted]
    train = named_apart([portion for portion, _ in found])
    splits = zip(train, (split for _, split in found), strict=True)
    val = tuple(replace(text, path=split) for text, split in splits if split is not None)
    if named := _each(workspace, val_data):
        val = named_apart([_validation(each, vouching) for each in named])
    check_distinct(train)
    check_distinct(val)
    manifests = tuple(vouching.values())
    _check_one_tokenizer(manifests)
    first = next((portion.manifest for portion in train if portion.manifest is not None), None)
    tokenizer = first.load_tokenizer() if first is not None else None
    if tokenizer is not None and (template := _one_template(manifests)) is not None:
        tokenizer = replace(tokenizer, template=template)
    if len(train) > 1:
        name = joined_name(text.name for text in train)
    else:
        name = first.dataset if first is not None else _stem(train[0].path)
    made = Data(name, train, val, manifests, tokenizer)
    question = sample_question([file for text in val or train for file in expanded(text.path)])
    if tokenizer is None or tokenizer.template is None or not question:
        return made
    stop = tokenizer.template.stop_ids(tokenizer)[0]
    return replace(made, sample_prompt=question, sample_stop=stop)


def _each(workspace: Workspace, wanted: Wanted) -> tuple[Named, ...]:
    """Return the texts that are wanted, a dataset's name as its folder."""
    texts = (Named(wanted),) if isinstance(wanted, Path) else wanted or ()
    found = tuple(replace(text, path=located(workspace, text.path) or text.path) for text in texts)
    for path in (text.path for text in found):
        made = workspace.data / path
        if path.is_dir() and not (path / MANIFEST).exists() and (made / MANIFEST).exists():
            raise MissingOutput(
                f"no dataset in {path}: name the one in {workspace.shown(made)}, or make another "
                "with 'llmc tokenize NAME'"
            )
    return found


def _training(text: Named, vouching: dict[Path, Manifest]) -> tuple[Portion, Path | None]:
    """Return a text to train on, and the validation split of its dataset, if it is all of it."""
    path = text.path
    found = expanded(path)
    if not found:
        raise MissingOutput(
            f"there is no {path}: make a dataset with 'llmc prepare NAME' or 'llmc tokenize PATH'"
        )
    manifests = _manifests([path] if path.is_dir() else found, vouching)
    if not manifests:
        return Portion(path, text.weight, _name(path)), None
    manifest = manifests[0]
    files = manifest.train_path if path.is_dir() else path
    whole = expanded(files) == [manifest.folder / shard.file for shard in manifest.train.shards]
    name = manifest.folder.resolve().name if whole else _name(path)
    val = manifest.val_path if whole else None
    return Portion(files, text.weight, name, manifest), val


def _stem(path: Path) -> str:
    return path.resolve().stem.partition("*")[0].rstrip("_") or path.resolve().parent.name


def _name(path: Path) -> str:
    """Return what tells a text from the others of a mixture."""
    stem = _stem(path)
    return path.resolve().parent.name if stem in ("train", "val") else stem


def _validation(text: Named, vouching: dict[Path, Manifest]) -> Portion:
    """Return the token file or pattern that ``--val-data`` means: of a folder, its validation."""
    path = text.path
    found = expanded(path)
    if not found:
        raise MissingOutput(f"there is no file {path}: make one with 'llmc tokenize PATH'")
    manifests = _manifests(found, vouching)
    manifest = manifests[0] if manifests else None
    name = manifest.folder.resolve().name if manifest is not None else _name(path)
    if path.is_dir():
        if (val := manifests[0].val_path) is None:
            raise MissingOutput(
                f"{path} has no validation split: name a token file, or make one with "
                "'llmc tokenize PATH --val-fraction F'"
            )
        path = val
    return Portion(path, text.weight, name, manifest)


def _manifests(paths: Sequence[Path], vouching: dict[Path, Manifest]) -> list[Manifest]:
    """Return the manifests of token files or datasets' folders; ``vouching`` collects them all.

    A file that is a link belongs to the dataset it leads to.

    Raises:
        MissingOutput: a folder is not a dataset, or only a part of one.
        BadData: a file is not what its manifest says, or its folder's manifest does not name it.
    """
    found: dict[Path, Manifest] = {}
    for path in paths:
        file = None if path.is_dir() else path
        if file is not None and not (file.parent / MANIFEST).is_file():
            file = path.resolve()
            if not (file.parent / MANIFEST).is_file():
                continue
        folder = path if file is None else file.parent
        if folder not in vouching:
            manifest = load_manifest(folder)
            _check_files(manifest)
            verify(manifest)
            vouching[folder] = manifest
        manifest = found[folder] = vouching[folder]
        if file is not None and file not in manifest.files:
            raise _unknown_file(file)
    return list(found.values())


def _check_one_tokenizer(manifests: Sequence[Manifest]) -> None:
    """Refuse datasets whose ids mean different tokens."""
    for other in manifests[1:]:
        first, mine, theirs = manifests[0], manifests[0].tokenizer, other.tokenizer
        if mine.fingerprint != theirs.fingerprint:
            raise BadData(
                f"{first.folder} and {other.folder} have different tokenizers ({mine.name} of "
                f"{mine.vocab_size:,} tokens, {theirs.name} of {theirs.vocab_size:,}): name data "
                "of one tokenizer, or tokenize the texts again with one --tokenizer"
            )


def _one_template(manifests: Sequence[Manifest]) -> Template | None:
    """Return the template of the conversations in the data; None if it has no conversations.

    Raises:
        BadData: two datasets have different ones.
    """
    talks = [made for made in manifests if made.masked and made.tokenizer.template is not None]
    for other in talks[1:]:
        if other.tokenizer.template != talks[0].tokenizer.template:
            raise BadData(
                f"{talks[0].folder} and {other.folder} have different chat templates "
                f"({talks[0].tokenizer.template}, {other.tokenizer.template}): name data of one, "
                "or tokenize the conversations again with one --template"
            )
    return template_named(talks[0].tokenizer.template or "") if talks else None


def _check_files(manifest: Manifest) -> None:
    """Refuse a folder with other files than its manifest: the engine takes what a pattern finds."""
    if manifest.part is not None:
        raise MissingOutput(
            f"{manifest.folder} is part {manifest.part.index} of {manifest.part.of} of "
            f"{manifest.dataset}: join all of them with 'llmc tokenize --merge FOLDER' first"
        )
    for file in manifest.files:
        if not file.is_file():
            raise MissingOutput(f"there is no {file}: make it again with 'llmc tokenize PATH'")
    val = expanded(manifest.val_path) if manifest.val_path is not None else []
    for file in (*expanded(manifest.train_path), *val):
        if file not in manifest.files:
            raise _unknown_file(file)


def _unknown_file(file: Path) -> BadData:
    return BadData(
        f"{file} is not in its folder's manifest: move it to another folder, or run "
        "'llmc tokenize PATH' again"
    )
