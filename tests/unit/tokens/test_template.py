"""Chat templates: the ids of a conversation, what counts, and the same template as Jinja."""

from __future__ import annotations

import jinja2
import pytest

from llmc.errors import BadData, Usage
from llmc.text.conversations import Message
from llmc.tokens.added import for_chat, with_tokens
from llmc.tokens.bpe import train_bpe
from llmc.tokens.held import character_tokenizer
from llmc.tokens.masks import CONVERSATION, COUNTS, TURN
from llmc.tokens.template import CHATML, PLAIN, TEMPLATES, Template
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer

TALK = (
    Message("system", "Be brief.", counts=False),
    Message("user", "Wie heißt du?\n", counts=False),
    Message("assistant", "  llmc, \n\nund du?"),
    Message("user", "Hi", counts=False),
    Message("assistant", "Hello", counts=False),
    Message("user", "", counts=False),
    Message("assistant", "…"),
)


def base(name: str) -> Tokenizer:
    if name == "bpe":
        return train_bpe(["the cat and the dog, the hat\n\nand llmc: " * 30], 270)
    return load_tokenizer(name)


@pytest.mark.parametrize("name", ["byte", "bpe", "gpt2"])
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_ids_are_those_of_the_rendered_template(name: str, template: Template) -> None:
    tokenizer = for_chat(base(name), template)
    shown = jinja2.Environment().from_string(template.jinja(tokenizer))
    messages = [{"role": message.role, "content": message.content} for message in TALK]
    whole = shown.render(messages=messages, add_generation_prompt=False)
    asked = shown.render(messages=messages, add_generation_prompt=True)
    assert template.conversation_ids(tokenizer, TALK) == tokenizer.encode(whole, special=True)
    assert template.prompt_ids(tokenizer, TALK) == tokenizer.encode(asked, special=True)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_answers_and_their_ends_count(template: Template) -> None:
    tokenizer = for_chat(base("bpe"), template)
    ids, marks = template.marked_ids(tokenizer, TALK)
    counted = [token for token, mark in zip(ids, marks, strict=True) if mark & COUNTS]
    end = "<|im_end|>" if template is CHATML else "<|endoftext|>"
    gap = "" if template is CHATML else " "
    text = tokenizer.detokenize(counted).decode()
    assert text == f"{gap}llmc, \n\nund du?{end}{gap}…{end}"
    assert [at for at, mark in enumerate(marks) if mark & CONVERSATION] == [0]
    turns = [at for at, mark in enumerate(marks) if mark & TURN]
    opening = tokenizer.detokenize(ids[turns[0] : turns[1]]).decode()
    assert len(turns) == 4 and "Be brief." in opening and "Wie" not in opening
    assert template.stop_ids(tokenizer)[0] == counted[-1]


def test_a_prompt_is_the_beginning_of_what_is_learnt() -> None:
    tokenizer = for_chat(base("gpt2"), CHATML)
    prompt = CHATML.prompt_ids(tokenizer, TALK[:2])
    whole = CHATML.conversation_ids(tokenizer, TALK)
    assert whole[: len(prompt)] == prompt


def test_special_tokens_in_a_message_are_text() -> None:
    tokenizer = for_chat(base("byte"), CHATML)
    ids, marks = CHATML.marked_ids(tokenizer, [Message("user", "<|im_end|>", counts=False)])
    assert ids.count(tokenizer.special_tokens["<|im_end|>"]) == 1
    assert not any(mark & COUNTS for mark in marks)


def test_tokens_are_added_after_the_last_id() -> None:
    gpt2 = base("gpt2")
    grown = for_chat(gpt2, CHATML)
    assert grown.vocab_size == gpt2.vocab_size + 2 and grown.eot == gpt2.eot
    assert grown.special_tokens["<|im_start|>"] == 50257
    assert grown.fingerprint != gpt2.fingerprint and grown.name != gpt2.name
    assert grown.template is CHATML and gpt2.template is None
    assert grown.encode("Hi there") == gpt2.encode("Hi there")
    assert for_chat(grown, CHATML) == grown
    assert for_chat(gpt2, PLAIN).fingerprint == gpt2.fingerprint


def test_tokens_that_cannot_be_added_are_refused() -> None:
    for names in (["<|endoftext|>"], [""], [" x"], ["<a>", "<a>"], ["the"]):
        with pytest.raises(Usage):
            with_tokens(base("bpe"), names)
    with pytest.raises(BadData, match="characters"):
        with_tokens(character_tokenizer({"a": 0, "\n": 1}), ["<a>"])
    with pytest.raises(BadData, match="ends a text"):
        for_chat(character_tokenizer({"a": 0, "\n": 1}), PLAIN)
