"""A tokenizer in Hugging Face's files: ``tokenizer.json`` and its older forms.

``tokenizer.json`` is complete and is what ``AutoTokenizer`` reads; ``vocab.json`` and
``merges.txt`` hold the same tokens and merges for older programs, as OpenAI published GPT-2's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.errors import BadData
from llmc.kinds import broken_explained
from llmc.parsing import object_in, read_json, read_limited
from llmc.text.documents import ENDOFTEXT
from llmc.tokens.added import with_tokens
from llmc.tokens.byte_level import Vocabulary, merges_of, unspelled
from llmc.tokens.held import ADDED_FACTS, held_tokenizer, merges_in, why_not_held
from llmc.tokens.template_files import CHAT_TEMPLATE, CONFIG, chat_template_of, with_chat_template
from llmc.tokens.tokenizer import Tokenizer, named_if_known, plain_tokenizer
from llmc.tokens.vocabulary import check_ids, ranks_of, single_bytes

TOKENIZER = "tokenizer.json"
SPECIALS = "special_tokens_map.json"
SPECIAL_KEYS = tuple(f"{key}_token" for key in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"))
TOKENIZER_CLASS = "PreTrainedTokenizerFast"  # of any tokenizer.json
VOCAB, MERGES = "vocab.json", "merges.txt"
PAIRS = ((VOCAB, MERGES), ("encoder.json", "vocab.bpe"))  # OpenAI's names of GPT-2's
OLDER_NAMES = tuple(name for pair in PAIRS for name in pair)
# Of sentencepiece, WordPiece and Mistral.
FOREIGN = ("*.model", "*.spm", "vocab.txt", "tekken.json")
# Files of other tokenizers in a folder: OpenAI's without their pattern too.
OTHERS = (*FOREIGN, "*.tiktoken", VOCAB)
_ADVICE = "get it again, or name another with --tokenizer"
MERGES_HEADER, MERGES_START = "#version: 0.2", b"#version"


def write_tokenizer_json(
    folder: Path,
    vocabulary: Vocabulary,
    context: int,
    table: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
) -> None:
    """Write the four files into ``folder``, and the chat template if there is one.

    ``context`` is the model's number of positions, beyond which ``AutoTokenizer`` warns. The
    ``tokenizer.json`` is ``table``. Default: one with GPT-2's split pattern. The chat template is
    Jinja's; older versions of transformers read it in ``tokenizer_config.json``.

    Raises:
        OSError: the disk is full.
    """
    from tokenizers import Tokenizer as Library

    names = vocabulary.names()
    ids = {name: index for index, name in enumerate(names) if name}
    table = table if table is not None else table_of(vocabulary)
    made = Library.from_str(json.dumps(table))
    (folder / TOKENIZER).write_text(made.to_str(pretty=True) + "\n", encoding="utf-8")
    (folder / VOCAB).write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = [MERGES_HEADER, *vocabulary.merges]
    (folder / MERGES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    splitter = table["pre_tokenizer"]
    settings: dict[str, object] = {
        "add_prefix_space": bool(splitter.get("add_prefix_space", False)),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "GPT2Tokenizer" if splitter_is_gpt2s(table) else TOKENIZER_CLASS,
    }
    if vocabulary.eot is not None:
        end = names[vocabulary.eot]
        settings |= {"bos_token": end, "eos_token": end, "unk_token": end}
    if more := [names[index] for index in vocabulary.specials if index != vocabulary.eot]:
        settings["additional_special_tokens"] = more
    if (unknown := table["model"].get("unk_token")) is not None:
        settings["unk_token"] = unknown
    if chat_template is not None:
        settings["chat_template"] = chat_template
        (folder / CHAT_TEMPLATE).write_text(chat_template, encoding="utf-8")
    ordered = dict(sorted(settings.items()))
    (folder / CONFIG).write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def splitter_is_gpt2s(table: Mapping[str, Any]) -> bool:
    """Tell whether a ``tokenizer.json`` splits text by GPT-2's pattern and nothing else."""
    splitter = table["pre_tokenizer"]
    return splitter.get("type") == "ByteLevel" and bool(splitter.get("use_regex", True))


def table_of(vocabulary: Vocabulary, *, prefix_space: bool = False) -> dict[str, Any]:
    """Return a ``tokenizer.json`` with GPT-2's split pattern."""
    names, special = vocabulary.names(), set(vocabulary.specials)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            dict.fromkeys(ADDED_FACTS, False)
            | {"id": index, "content": names[index]}
            | {"special": index in special, "normalized": index not in special}
            for index in sorted(special | {*vocabulary.whole})
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": prefix_space,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": False,
            "use_regex": True,
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: index for index, name in enumerate(names) if name},
            "merges": [merge.split(" ", 1) for merge in vocabulary.merges],
        },
    }


def tokenizer_of_vocabulary(
    vocabulary: Vocabulary, eot: str | int | None, fingerprint: str | None = None
) -> Tokenizer | Unheld:
    """Return the tokenizer of tokens and merges, with GPT-2's split pattern.

    A ``tokenizer.json`` has its added tokens in the model's vocabulary too, or only beside it, or
    only those beside it that came after training. The ids are the same; the fingerprint is not. The
    form that has ``fingerprint`` is taken, else the first.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: they are damaged.
    """
    table = table_of(vocabulary)
    added = {item["content"]: item["id"] for item in table["added_tokens"]}
    ids: dict[str, int] = table["model"]["vocab"]
    last = max((token for name, token in ids.items() if name not in added), default=-1)
    forms = [ids, {name: token for name, token in ids.items() if name not in added or token < last}]
    forms.append({name: token for name, token in ids.items() if name not in added})
    found = [
        tokenizer_of_table({**table, "model": {**table["model"], "vocab": form}}, eot)
        for form in forms
        if form == ids or fingerprint is not None
    ]
    return next((each for each in found if each.fingerprint == fingerprint), found[0])


def vocabulary_of_table(tokenizer: Tokenizer) -> Vocabulary:
    """Return the tokens and merges of a Hugging Face tokenizer that is held as a document."""
    assert tokenizer.document is not None
    table = tokenizer.document["tokenizer"]
    added = {item["id"]: item for item in table.get("added_tokens") or ()}
    whole = sorted(token for token, item in added.items() if not item.get("special"))
    return vocabulary_with(tokenizer, tuple(merges_in(table["model"])), tuple(whole))


def vocabulary_with(
    tokenizer: Tokenizer, merges: tuple[str, ...], whole: tuple[int, ...] = ()
) -> Vocabulary:
    """Return the tokens of a tokenizer by their ids, with these merges."""
    by_id = {token: data for data, token in tokenizer.ranks.items()}
    by_id |= {token: name.encode() for name, token in tokenizer.special_tokens.items()}
    return Vocabulary(
        tuple(by_id.get(index, b"") for index in range(tokenizer.vocab_size)),
        tuple(sorted(tokenizer.special_tokens.values())),
        merges,
        tokenizer.end,
        whole,
    )


@dataclass(frozen=True)
class Unheld:
    """A tokenizer that is there and that llmc cannot hold."""

    reason: str  # why
    fingerprint: str  # SHA-256 in hexadecimal of what defines it, which no held tokenizer has


def read_folder(folder: Path) -> Tokenizer | Unheld | None:
    """Return the tokenizer of a Hugging Face folder; None if it has no file of one.

    It has the folder's chat template if that is one of llmc's.

    Raises:
        BadData: its file is damaged.
    """
    found = _in_folder(folder)
    if isinstance(found, Tokenizer):
        return with_chat_template(found, chat_template_of(folder))
    return found


def _in_folder(folder: Path) -> Tokenizer | Unheld | None:
    """Return the tokenizer of a Hugging Face folder, but for its chat template."""
    if (folder / TOKENIZER).is_file():
        return read_file(folder / TOKENIZER)
    for vocab, merges in PAIRS:
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return read_pair(folder / vocab, folder / merges)
    names = (name for pattern in OTHERS for name in sorted(folder.glob(pattern)))
    if (other := next((path for path in names if path.is_file()), None)) is not None:
        with broken_explained(f"the tokenizer {other}", _ADVICE):
            digest = hashlib.sha256(b"another tokenizer\n" + read_limited(other))
        return Unheld(f"{other.name} is not a byte-level BPE's file", digest.hexdigest())
    named = object_in(folder / CONFIG).get("tokenizer_class")
    if named in (None, "GPT2Tokenizer", "GPT2TokenizerFast"):
        return None
    digest = hashlib.sha256(f"another tokenizer\n{named}".encode())
    return Unheld(f"{CONFIG} names {named}, and no vocabulary is there", digest.hexdigest())


def read_file(path: Path) -> Tokenizer | Unheld:
    """Return the tokenizer of a ``tokenizer.json``.

    Raises:
        BadData: it is damaged.
    """
    with broken_explained(f"the tokenizer {path}", _ADVICE):
        table = read_json(path)
        return tokenizer_of_table(table, _declared_end(path.parent))


def read_beside(path: Path) -> Tokenizer | Unheld:
    """Return the tokenizer of a ``vocab.json`` or ``merges.txt`` and the other one beside it.

    Raises:
        BadData: the other one is missing, or one is damaged.
    """
    for pair in PAIRS:
        if path.name in pair:
            vocab, merges = (path.with_name(name) for name in pair)
            if not vocab.is_file() or not merges.is_file():
                missing = merges if vocab.is_file() else vocab
                raise BadData(f"{path} is half a tokenizer: put {missing.name} beside it")
            return read_pair(vocab, merges)
    raise BadData(
        f"{path} is half a tokenizer: name both files, such as vocab.json+merges.txt, or their "
        "folder"
    )


def read_pair(vocab: Path, merges: Path) -> Tokenizer | Unheld:
    """Return the tokenizer of a vocabulary and its merges, the older form.

    If no file beside them names the special tokens, they are those that no merge makes.

    Raises:
        BadData: one is damaged.
    """
    folder = vocab.parent
    with broken_explained(f"the tokenizer {vocab}", _ADVICE):
        ids: dict[str, int] = dict(read_json(vocab))
        lines = read_limited(merges).decode().replace("\r\n", "\n").split("\n")
        lines = lines[1:] if lines[0].startswith("#version") else lines
        pairs = [line.rstrip("\r") for line in lines if line.strip()]
        made = {pair.replace(" ", "") for pair in pairs}
        added = object_in(folder / "added_tokens.json")
        named = {*added, *_special_names(folder)}
        ids |= {name: token for name, token in added.items() if type(token) is int}
        odd = {name for name in ids if len(name) > 1 and name not in made}
        special = named & ids.keys() if named else odd
        names = {token: name for name, token in ids.items()}
        check_ids(ids.values())
        size = max(names, default=-1) + 1
        bytes_of = [
            name.encode() if (name := names.get(index, "")) in special else unspelled(name)
            for index in range(size)
        ]
        vocabulary = Vocabulary(
            tuple(bytes_of), tuple(sorted(ids[name] for name in special)), tuple(pairs)
        )
        prefix = bool(object_in(folder / CONFIG).get("add_prefix_space", False))
        return tokenizer_of_table(table_of(vocabulary, prefix_space=prefix), _declared_end(folder))


def tokenizer_of_table(table: dict[str, Any], eot: str | int | None) -> Tokenizer | Unheld:
    """Return the tokenizer of a ``tokenizer.json``; a plain one where the tokens define it.

    ``eot`` is the token that ends a document, by name or id, if that is known.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the table is damaged.
    """
    reason = why_not_held(table)
    if reason is None:
        try:
            return _plain(table, eot) or held_tokenizer(table, eot)
        except BadData as error:
            reason = str(error)
    facts = [table.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")]
    text = json.dumps(["another tokenizer", *facts], sort_keys=True)
    return Unheld(reason, hashlib.sha256(text.encode()).hexdigest())


def _plain(table: dict[str, Any], eot: str | int | None) -> Tokenizer | None:
    """Return a tokenizer that its tokens define: GPT-2's kind, with special ones after the last.

    Returns None if more is needed.
    """
    model, splitter = table["model"], table["pre_tokenizer"]
    if (
        splitter.get("type") != "ByteLevel"
        or splitter.get("add_prefix_space", True)
        or not splitter.get("use_regex", True)
        or model.get("ignore_merges", False)
    ):
        return None
    added = {item["content"]: item for item in table.get("added_tokens") or ()}
    ids = model["vocab"] | {name: item["id"] for name, item in added.items()}
    names = sorted(ids, key=ids.__getitem__)
    if ENDOFTEXT not in ids or [ids[name] for name in names] != list(range(len(names))):
        return None
    count = ids[ENDOFTEXT]
    later = names[count + 1 :]
    if (
        not added.keys() <= {ENDOFTEXT, *later}
        or not all(map(_is_special, map(added.get, later)))
        or (later and eot not in (None, ENDOFTEXT, count))
    ):
        return None
    try:
        tokens = [unspelled(name) for name in names[:count]]
        if not set(tokens) >= set(single_bytes()) or merges_of(tokens) != tuple(merges_in(model)):
            return None
    except BadData:  # a token that is not a merge, or is not spelled in bytes
        return None
    return with_tokens(named_if_known(plain_tokenizer("bpe", ranks_of(tokens))), later)


def _is_special(added: Mapping[str, Any] | None) -> bool:
    """Tell whether a token was added as special, and is found wherever its text stands."""
    return added is not None and [bool(added.get(fact)) for fact in ADDED_FACTS] == [
        fact == "special" for fact in ADDED_FACTS
    ]


def _name_of(value: object) -> str | None:
    """Return the text of a special token, which is written as text or as an object."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _special_names(folder: Path) -> set[str]:
    """Return the special tokens that the files beside a vocabulary name."""
    table, settings = object_in(folder / SPECIALS), object_in(folder / CONFIG)
    values: list[object] = []
    for key in (*SPECIAL_KEYS, "additional_special_tokens"):
        for value in (table.get(key), settings.get(key)):
            values += value if isinstance(value, list) else [value]
    decoder = settings.get("added_tokens_decoder")
    values += decoder.values() if isinstance(decoder, dict) else []
    return {name for value in values if (name := _name_of(value)) is not None}


def _declared_end(folder: Path) -> str | int | None:
    """Return the token that the files of a folder name as the end of a text; None if none does."""
    for file in (CONFIG, SPECIALS):
        if (name := _name_of(object_in(folder / file).get("eos_token"))) is not None:
            return name
    for file in ("generation_config.json", "config.json"):
        found = object_in(folder / file).get("eos_token_id")
        found = found[0] if isinstance(found, list) and found else found
        if type(found) is int:
            return found
    return None
