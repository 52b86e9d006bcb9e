"""Conversations as tokens: their template, the encoder, and the mask beside the ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from llmc.errors import Usage
from llmc.text.conversations import is_packed, plain_text, unpacked
from llmc.text.fields import OF_CONVERSATION
from llmc.text.source import Part, Source
from llmc.tokens.added import for_chat
from llmc.tokens.encode import Batch, Encode, Encoded, Texts
from llmc.tokens.masks import CONVERSATION, COUNTS, MARKED
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.template import CHATML, Template, template_named
from llmc.tokens.tokenizer import SMALLEST_BPE, Tokenizer, bpe_vocab_size, load_tokenizer

if TYPE_CHECKING:
    from llmc.tokens.masks import Marked

PEEKED = 1024  # parts whose first document is looked at, evenly spaced


def template_for(source: Source, options: TokenizeOptions) -> Template | None:
    """Return the template of a text that holds conversations; None for other text.

    It is the one that is asked for, else the tokenizer's own, else ChatML.

    Raises:
        Usage: one is asked for, and the text holds no conversations; or it is not known.
        BadData: the text cannot be read.
    """
    asked = options.template
    template = template_named(asked) if asked is not None else None
    if not _holds_conversations(source):
        if asked is not None:
            raise Usage(
                f"--template is for conversations, and {source.name} holds none: leave it out, or "
                f"bring records with {OF_CONVERSATION}"
            )
        return None
    if options.special:
        raise Usage("--allow-special is for text: a message of a conversation is always text")
    own = options.tokenizer.template if isinstance(options.tokenizer, Tokenizer) else None
    return template or own or CHATML


def _holds_conversations(source: Source) -> bool:
    """Return whether any part of a text begins with a conversation."""
    records = [part for part in source.parts if part.tells_records]
    looked_at = records[:: max(1, len(records) // PEEKED)]
    return any(is_packed(text) for part in looked_at for text in islice(part.read(), 1))


def chat_tokenizer(spec: str | Tokenizer, template: Template | None) -> str | Tokenizer:
    """Return a tokenizer with the tokens of a template, or ``bpe:N``, which is to be trained.

    Raises:
        Usage: N is too small for them.
        BadData: as :func:`for_chat`.
    """
    if template is None:
        return spec
    if (size := bpe_vocab_size(spec)) is not None:
        if size < (least := SMALLEST_BPE + len(template.tokens)):
            raise Usage(
                f"bpe:{size} has no room for the tokens of the template {template.name}: take "
                f"bpe:{least} or more, or --template plain"
            )
        return spec
    return for_chat(load_tokenizer(spec), template)


def learnt_texts(parts: Sequence[Part], template: Template | None) -> Texts:
    """Yield the texts that a tokenizer is trained on: of conversations, their template's text."""
    for part in parts:
        for text in part.texts():
            if template is None or not isinstance(text, str) or not is_packed(text):
                yield text
            else:
                said = (template.header(m.role) + m.content for m in unpacked(text))
                yield "\n".join(said)


def chat_encoder(tokenizer: Tokenizer, template: Template) -> Encode:
    """Return a function that encodes batches of conversations and text.

    The ids of the result are records of ``MARKED``. The loss counts in the assistant's messages and
    everywhere in other text.
    """
    import numpy as np

    def marked(text: str) -> Marked:
        if is_packed(text):
            ids, marks = template.marked_ids(tokenizer, unpacked(text))
        else:
            ids = [tokenizer.eot, *tokenizer.encode(text)]
            marks = bytearray([CONVERSATION, *[COUNTS] * (len(ids) - 1)])
        made = np.empty(len(ids), MARKED)
        made["id"], made["mask"] = ids, np.frombuffer(marks, np.uint8)
        return made

    def encode(batch: Batch) -> Encoded:
        made = [np.empty(0, MARKED), *(marked(text) for _, text in batch)]
        size = sum(len(plain_text(text).encode(errors="replace")) for _, text in batch)
        return Encoded(np.concatenate(made), size)

    return encode
