"""A tokenizer in Hugging Face's files: ``tokenizer.json`` and its older forms.

``tokenizer.json`` is complete and is what ``AutoTokenizer`` reads; ``vocab.json`` and
``merges.txt`` hold the same tokens and merges for older programs, as OpenAI published GPT-2's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmc.kinds import broken_explained
from llmc.tokens.byte_level import Vocabulary, spelled, unspelled

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
VOCAB, MERGES = "vocab.json", "merges.txt"
FILES = (TOKENIZER, CONFIG, VOCAB, MERGES)
_ADVICE = "get it again, or name another with --tokenizer"
MERGES_HEADER = "#version: 0.2"


def write_tokenizer_json(folder: Path, vocabulary: Vocabulary, context: int) -> None:
    """Write the four files, with GPT-2's split pattern; the last special token ends a document.

    ``context`` is the model's maximum number of positions, beyond which ``AutoTokenizer`` warns.

    Raises:
        OSError: the disk is full.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    names = [
        token.decode() if index in vocabulary.specials else spelled(token)
        for index, token in enumerate(vocabulary.tokens)
    ]
    ids = {name: index for index, name in enumerate(names)}
    pairs: list[Any] = [tuple(merge.split(" ", 1)) for merge in vocabulary.merges]
    made = Tokenizer(models.BPE(vocab=ids, merges=pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    specials = [names[index] for index in vocabulary.specials]
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in specials])
    (folder / TOKENIZER).write_text(made.to_str(pretty=True) + "\n", encoding="utf-8")
    (folder / VOCAB).write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = [MERGES_HEADER, *vocabulary.merges]
    (folder / MERGES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "add_prefix_space": False,
        "bos_token": specials[-1],
        "clean_up_tokenization_spaces": False,
        "eos_token": specials[-1],
        "model_max_length": context,
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": specials[-1],
    }
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def read_tokenizer_json(folder: Path) -> Vocabulary | None:
    """Return the tokenizer beside a model; None if there is none, or it is unlike GPT-2's.

    Raises:
        BadData: its file is damaged.
    """
    older = not (folder / TOKENIZER).is_file()
    path = folder / (VOCAB if older else TOKENIZER)
    if not path.is_file() or (older and not (folder / MERGES).is_file()):
        return None
    with broken_explained(f"the tokenizer {path}", _ADVICE):
        table = json.loads(path.read_text(encoding="utf-8"))
        if not older:
            return _read_json(table)
        lines = (folder / MERGES).read_text(encoding="utf-8").splitlines()
        lines = lines[1:] if lines and lines[0].startswith("#version") else lines
        return _vocabulary(table, {}, [line for line in lines if line])


def _read_json(table: dict[str, Any]) -> Vocabulary | None:
    model, cutter = table["model"], table.get("pre_tokenizer") or {}
    like_gpt2 = (
        model.get("type", "BPE") == "BPE"
        and table.get("normalizer") is None
        and cutter.get("type") == "ByteLevel"
        and not cutter.get("add_prefix_space", True)
        and cutter.get("use_regex", True)
        and not model.get("ignore_merges", False)
        and not model.get("byte_fallback", False)
    )
    if not like_gpt2:
        return None
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    added = {item["content"]: item["id"] for item in table.get("added_tokens", ())}
    return _vocabulary(model["vocab"], added, merges)


def _vocabulary(ids: dict[str, int], added: dict[str, int], merges: list[str]) -> Vocabulary | None:
    """Return tokens in the order of their ids; None if ids are missing.

    If no file names the special tokens, they are those that no merge makes.
    """
    every = ids | added
    names = sorted(every, key=every.__getitem__)
    if [every[name] for name in names] != list(range(len(names))):
        return None
    made = {merge.replace(" ", "") for merge in merges}
    specials = tuple(
        index
        for index, name in enumerate(names)
        if name in added or (not added and len(name) > 1 and name not in made)
    )
    tokens = tuple(
        name.encode() if index in specials else unspelled(name) for index, name in enumerate(names)
    )
    return Vocabulary(tokens, specials, tuple(merges))
