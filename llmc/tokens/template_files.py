"""Chat templates in the files of other programs: Jinja's text."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from llmc.parsing import object_in, read_limited
from llmc.tokens.template import TEMPLATES
from llmc.tokens.tokenizer import Tokenizer

CHAT_TEMPLATE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"  # where older versions of transformers keep it


def chat_template_of(folder: Path) -> str | None:
    """Return the text of a Hugging Face folder's chat template; None if it has none."""
    with suppress(OSError, ValueError):
        return read_limited(folder / CHAT_TEMPLATE).decode()
    found = object_in(folder / CONFIG).get("chat_template")
    with suppress(KeyError, TypeError):
        if isinstance(found, list):  # several, by name
            found = {each["name"]: each["template"] for each in found}["default"]
    return found if isinstance(found, str) else None


def with_chat_template(tokenizer: Tokenizer, text: str | None) -> Tokenizer:
    """Return a tokenizer with the template of llmc's that ``text`` is, else as it is."""
    for template in TEMPLATES.values():
        has_all = tokenizer.special_tokens.keys() >= set(template.tokens)
        if text is not None and has_all and template.jinja(tokenizer) == text.rstrip("\n"):
            return replace(tokenizer, template=template)
    return tokenizer
