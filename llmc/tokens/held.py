"""Tokenizers held as a document: Hugging Face's byte-level BPE, and tables of characters.

A Hugging Face tokenizer's ids come from the ``tokenizers`` library itself, so that they are the
ids that the model was trained on, whatever its special tokens, its ids and its split pattern are.
Text goes in as it is: normalizers, which change it, and vocabularies that are not of bytes
(sentencepiece, WordPiece) are refused. A table of characters is nanoGPT's character-level
vocabulary: an id for every character.

The document is a JSON object: ``llmc_tokenizer`` 1, ``kind``, ``eot``, ``ends`` (whether eot ends a
text), and ``tokenizer`` (a Hugging Face ``tokenizer.json``) or ``characters`` (text -> id);
``template`` is the name of its chat template, if it has one. The fingerprint is the SHA-256 of the
facts in it that decide ids, as JSON with sorted keys.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmc.errors import BadData
from llmc.kinds import is_failure
from llmc.text.utf8 import well_formed
from llmc.tokens.byte_level import BYTES, unspelled
from llmc.tokens.template import TEMPLATES, template_of
from llmc.tokens.tokenizer import Tokenizer
from llmc.tokens.vocabulary import check_ids

if TYPE_CHECKING:
    import tokenizers

MARK, VERSION = "llmc_tokenizer", 1
HUGGINGFACE, CHARACTERS = "huggingface", "characters"
# What ends a document, by the names that published tokenizers use.
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>")
LOSSY_SPLITS = ("Removed",)  # behaviours of a Split that drop the text between the pieces
SPLITTERS = ("Split", "Digits", "Punctuation", "ByteLevel")
# What decides ids about an added token; "normalized" does not without a normalizer.
ADDED_FACTS = ("special", "single_word", "lstrip", "rstrip")


class HeldCoder(ABC):
    """Turns text into ids and back.

    Attributes:
        twins: id -> bytes of text, of ids whose bytes another id has too.
    """

    def __init__(self, by_id: Mapping[int, bytes]) -> None:
        """Hold the bytes of every id."""
        self._by_id = by_id
        self.twins: dict[int, int] = {}

    @abstractmethod
    def many(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Return the ids of texts; with ``special`` the texts of special tokens are tokens."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of known ids."""
        return b"".join(self._by_id[token] for token in ids)


class HuggingFaceCoder(HeldCoder):
    """The ``tokenizers`` library, with the special tokens as text or as tokens.

    Attributes:
        splits_at_blanks: whether a text may be cut before a blank without changing its ids.
    """

    def __init__(self, table: Mapping[str, Any], by_id: Mapping[int, bytes]) -> None:
        """Hold a ``tokenizer.json`` and the bytes of every id.

        Raises:
            ValueError: the library refuses the table.
        """
        # Unset, a process started later (the compiler, the engine) makes the library warn.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        super().__init__(by_id)
        self._table = json.dumps(table)
        self._loaded: dict[bool, tokenizers.Tokenizer] = {}
        self.splits_at_blanks = _splits_at_blanks(table)
        self._library(special=False)

    def _library(self, *, special: bool) -> tokenizers.Tokenizer:
        import tokenizers

        if special not in self._loaded:
            try:
                made = tokenizers.Tokenizer.from_str(self._table)
            except BaseException as error:  # the library raises nothing more exact
                if not is_failure(error):
                    raise
                raise ValueError(str(error)) from error
            made.no_truncation()
            made.no_padding()
            made.encode_special_tokens = not special
            self._loaded[special] = made
        return self._loaded[special]

    def many(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Return the ids of texts, without the tokens that a template would put around them."""
        library = self._library(special=special)
        whole = [well_formed(text) for text in texts]
        found = library.encode_batch_fast(whole, add_special_tokens=False)
        return [encoding.ids for encoding in found]


class CharacterCoder(HeldCoder):
    """A table of characters, each with its id; there are no special tokens."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        super().__init__({token: text.encode() for text, token in ids.items()})
        self._ids = ids

    def many(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Return the ids of texts.

        Raises:
            BadData: a character has none.
        """
        del special
        try:
            return [[self._ids[character] for character in text] for text in texts]
        except KeyError as error:
            raise BadData(
                f"the text has the character {error.args[0]!r}, which is not among the "
                f"{len(self._ids)} characters of the tokenizer: leave it out, or use another model"
            ) from error


def why_not_held(table: Mapping[str, Any]) -> str | None:
    """Return why llmc cannot hold a ``tokenizer.json``; None if it can.

    Raises:
        KeyError, AttributeError: it is none.
    """
    model, splitter = table["model"], table.get("pre_tokenizer") or {}
    kind = model.get("type", "BPE")
    if kind != "BPE":
        return f"it is of the type {kind}, not a byte-level BPE"
    normalizer = table.get("normalizer")
    if normalizer is not None and normalizer.get("normalizers") != []:
        return f"its normalizer {normalizer.get('type')} changes the text"
    steps = splitter.get("pretokenizers", [splitter])
    kinds = [step.get("type") for step in steps]
    if kinds.count("ByteLevel") != 1 or model.get("byte_fallback"):
        return "it is a BPE of characters (sentencepiece's kind), not of bytes"
    for step in steps:
        if step.get("type") not in SPLITTERS or step.get("behavior") in LOSSY_SPLITS:
            return f"its pre-tokenizer {step.get('type')} drops parts of the text"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "it marks the beginnings or ends of words"
    return None


def held_tokenizer(table: Mapping[str, Any], eot: str | int | None) -> Tokenizer:
    """Return a Hugging Face tokenizer, which :func:`why_not_held` accepts.

    ``eot`` is the token that ends a document, if that is known; otherwise it is the first of
    ``ENDS`` that the tokenizer has. Without any, the newline comes before documents and nothing
    ends a text.

    Raises:
        ValueError, KeyError, TypeError: the table is damaged.
        BadData: a token is not spelled in bytes.
    """
    table = dict(table)
    table["model"] = {**table["model"], "dropout": None}
    vocabulary: dict[str, int] = dict(table["model"]["vocab"])
    added = {item["content"]: item for item in table.get("added_tokens") or ()}
    ids = vocabulary | {name: item["id"] for name, item in added.items()}
    if not ids:
        raise ValueError("it has no tokens")
    check_ids(ids.values())
    special = {name: ids[name] for name, item in added.items() if item.get("special")}
    chosen, ends = _end_of(ids, eot)
    by_id = {
        token: name.encode() if name in added or not BYTES.keys() >= set(name) else unspelled(name)
        for name, token in ids.items()
    }
    coder = HuggingFaceCoder(table, by_id)
    ranks: dict[bytes, int] = {}
    of_special = set(special.values())
    for token, data in sorted(by_id.items()):
        if token in of_special:
            continue
        if data in ranks:
            coder.twins[token] = len(data)
        else:
            ranks[data] = token
    document = _document(HUGGINGFACE, chosen, ends=ends) | {"tokenizer": table}
    return Tokenizer(
        name=HUGGINGFACE,
        encoding=coder,
        eot=chosen,
        vocab_size=max(ids.values()) + 1,
        fingerprint=_fingerprint(_facts(table, added), chosen, ends=ends),
        pattern="",
        special_tokens=special,
        ranks=ranks,
        ends=ends,
        document=document,
        template=template_of(special),
    )


def _splits_at_blanks(table: Mapping[str, Any]) -> bool:
    """Tell whether GPT-2's pattern splits the text, and no added token reaches across a blank."""
    splitter = table["pre_tokenizer"]
    of_text = [item for item in table.get("added_tokens") or () if not item.get("special")]
    return (
        splitter.get("type") == "ByteLevel"
        and splitter.get("use_regex", True)
        and not any(
            item.get("lstrip")
            or item.get("rstrip")
            or item.get("single_word")
            or any(map(str.isspace, item["content"]))
            for item in of_text
        )
    )


def _end_of(ids: Mapping[str, int], eot: str | int | None) -> tuple[int, bool]:
    """Return the id that separates documents, and whether it ends a text."""
    if isinstance(eot, str) and eot in ids:
        return ids[eot], True
    if isinstance(eot, int) and eot in ids.values():
        return eot, True
    for name in ENDS:
        if name in ids:
            return ids[name], True
    return ids.get("Ċ", min(ids.values())), False


def _facts(table: Mapping[str, Any], added: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what decides the ids in a ``tokenizer.json``, whatever version wrote it."""
    model, splitter = table["model"], table["pre_tokenizer"]
    steps = [
        {key: value for key, value in step.items() if key != "trim_offsets"}
        for step in splitter.get("pretokenizers", [splitter])
    ]
    for step in steps:
        if step["type"] == "ByteLevel":
            step.setdefault("use_regex", True)
            step.setdefault("add_prefix_space", True)
    return {
        "vocab": model["vocab"],
        "merges": merges_in(model),
        "unk_token": model.get("unk_token"),
        "fuse_unk": bool(model.get("fuse_unk")),
        "ignore_merges": bool(model.get("ignore_merges")),
        "pre_tokenizer": steps,
        "added_tokens": {
            name: [item["id"], *(bool(item.get(fact)) for fact in ADDED_FACTS)]
            for name, item in added.items()
        },
    }


def merges_in(model: Mapping[str, Any]) -> list[str]:
    """Return the merges of a ``tokenizer.json``, whose older form is a text for each pair."""
    return [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]


def character_tokenizer(ids: Mapping[str, int]) -> Tokenizer:
    """Return the tokenizer of a table of characters; the newline separates documents.

    Raises:
        BadData: it is not a table of single characters with different ids.
    """
    whole = all(isinstance(text, str) and len(text) == 1 for text in ids)
    try:
        check_ids(ids.values())
        if not ids or not whole or len(set(ids.values())) < len(ids):
            raise ValueError("it is not a table of single characters, each with an id of its own")
        "".join(ids).encode()
    except ValueError as error:
        raise BadData(str(error)) from error
    table = {text: ids[text] for text in sorted(ids, key=ids.__getitem__)}
    chosen = table.get("\n", min(table.values()))
    return Tokenizer(
        name=CHARACTERS,
        encoding=CharacterCoder(table),
        eot=chosen,
        vocab_size=max(table.values()) + 1,
        fingerprint=_fingerprint({"characters": table}, chosen, ends=False),
        pattern="",
        special_tokens={},
        ranks={text.encode(): token for text, token in table.items()},
        ends=False,
        document=_document(CHARACTERS, chosen, ends=False) | {"characters": table},
    )


def from_document(document: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a document.

    Raises:
        ValueError, KeyError, TypeError, BadData: the document is damaged.
    """
    if document[MARK] != VERSION:
        raise ValueError(f"its version is {document[MARK]!r}, not {VERSION}")
    if document["kind"] == CHARACTERS:
        try:
            return character_tokenizer(document["characters"])
        except BadData as error:
            raise ValueError(str(error)) from error
    if document["kind"] != HUGGINGFACE:
        raise ValueError(f"its kind {document['kind']!r} is unknown")
    if (reason := why_not_held(document["tokenizer"])) is not None:
        raise ValueError(reason)
    made = held_tokenizer(document["tokenizer"], document["eot"] if document["ends"] else None)
    template = document.get("template", made.template.name if made.template is not None else None)
    if template is not None and template not in TEMPLATES:
        raise ValueError(f"its chat template {template!r} is unknown")
    return replace(made, template=TEMPLATES.get(template))


def _document(kind: str, eot: int, *, ends: bool) -> dict[str, Any]:
    return {MARK: VERSION, "kind": kind, "eot": eot, "ends": ends}


def _fingerprint(facts: Mapping[str, Any], eot: int, *, ends: bool) -> str:
    text = json.dumps([facts, eot, ends], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
