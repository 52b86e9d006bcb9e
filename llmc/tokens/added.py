"""Add special tokens to a tokenizer, at the ids after its last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmc.errors import BadData, LlmcError, Usage
from llmc.tokens.held import CHARACTERS, HUGGINGFACE, held_tokenizer
from llmc.tokens.template import Template
from llmc.tokens.tokenizer import WITHOUT_FILE, Tokenizer, assembled


def with_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with the special tokens ``names`` at the ids V, V + 1 and so on.

    The ids of all other tokens stay as they are. The fingerprint is another; gpt2 and byte, which
    need no file, get another name.

    Raises:
        Usage: a name is empty, has white space around it or comes twice, or is a token already.
        BadData: the tokenizer is a table of characters, which has no special tokens.
    """
    if tokenizer.name == CHARACTERS:
        raise BadData(
            "a tokenizer of characters has no special tokens: choose another one (--tokenizer)"
        )
    for name in names:
        if not name.strip() or name != name.strip():
            raise Usage(f"{name!r} cannot be a token: name one without white space around it")
        if name in tokenizer.special_tokens or tokenizer.ranks.get(name.encode()) is not None:
            raise Usage(f"{name} is a token of this tokenizer already: leave it out")
    if len(set(names)) < len(names):
        raise Usage("a token to add is named twice: name it once")
    if not names:
        return tokenizer
    ids = {name: tokenizer.vocab_size + at for at, name in enumerate(names)}
    if tokenizer.name == HUGGINGFACE:
        assert tokenizer.document is not None
        return held_tokenizer(_grown(tokenizer.document["tokenizer"], ids), tokenizer.end)
    name = f"{tokenizer.name}+{len(names)}" if tokenizer.name in WITHOUT_FILE else tokenizer.name
    special = {**tokenizer.special_tokens, **ids}
    return assembled(name, tokenizer.ranks, tokenizer.pattern, special)


def added_to(own: Tokenizer, other: Tokenizer) -> tuple[str, ...] | None:
    """Return the special tokens that ``other`` has after those of ``own``.

    Empty if the two are the same; None if they differ in anything else.
    """
    if own.fingerprint == other.fingerprint:
        return ()
    later = sorted((token, name) for name, token in other.special_tokens.items())
    names = tuple(name for token, name in later if token >= own.vocab_size)
    try:
        same = with_tokens(own, names).fingerprint == other.fingerprint
    except LlmcError:
        return None
    return names if same else None


def for_chat(tokenizer: Tokenizer, template: Template) -> Tokenizer:
    """Return a tokenizer with a chat template, and with the special tokens of it that it lacks.

    Raises:
        BadData: nothing ends a text in it, so that nothing could end an answer; it puts a space
            before a text, which without special tokens depends on where a message is cut; or as
            :func:`with_tokens`.
    """
    if not tokenizer.ends:
        raise BadData(
            f"the tokenizer {tokenizer.name} has no token that ends a text, which a conversation "
            "needs: choose another one (--tokenizer)"
        )
    if not template.tokens and tokenizer.detokenize(tokenizer.encode("a")) != b"a":
        raise BadData(
            f"the tokenizer {tokenizer.name} puts a space before a text, which the template "
            f"{template.name} cannot have: choose --template chatml"
        )
    lacking = [name for name in template.tokens if name not in tokenizer.special_tokens]
    return replace(with_tokens(tokenizer, lacking), template=template)


def _grown(table: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """Return a Hugging Face ``tokenizer.json`` with added tokens."""
    facts = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    new = [{"id": token, "content": name, **facts, "special": True} for name, token in ids.items()]
    return {**table, "added_tokens": [*(table.get("added_tokens") or ()), *new]}
