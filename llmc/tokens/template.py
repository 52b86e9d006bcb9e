"""Chat templates: how the messages of a conversation become one sequence of tokens.

``chatml`` marks a message with two special tokens, as OpenAI and many open models do:

    <|endoftext|><|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    Hello<|im_end|>

``plain`` needs no new tokens; ``<|endoftext|>`` ends an answer, as in Vicuna's format:

    <|endoftext|>User: Hi
    Assistant: Hello<|endoftext|>

White space around a message is removed. The text of a special token in a message is text.
Source: Hugging Face's ChatML template, https://huggingface.co/docs/transformers/chat_templating.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmc.errors import Usage
from llmc.text.conversations import ASSISTANT, Message
from llmc.tokens.masks import CONVERSATION, COUNTS, TURN

if TYPE_CHECKING:
    from llmc.tokens.tokenizer import Tokenizer

IM_START, IM_END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class Template:
    """A chat template."""

    name: str
    tokens: tuple[str, ...]  # the special tokens it needs besides end-of-text

    @property
    def is_chatml(self) -> bool:
        """Whether special tokens mark the messages."""
        return bool(self.tokens)

    def header(self, role: str) -> str:
        """Return the text before a message, after the special token."""
        return f"{role}\n" if self.is_chatml else f"{role.capitalize()}:"

    def prompt_ids(self, tokenizer: Tokenizer, messages: Iterable[Message]) -> list[int]:
        """Return the ids of a conversation up to where the assistant's next answer begins.

        Raises:
            BadData: the tokenizer cannot encode a message.
        """
        ids, _ = self.marked_ids(tokenizer, messages)
        return ids + self._opening(tokenizer) + tokenizer.known_ids(self.header(ASSISTANT))

    def conversation_ids(self, tokenizer: Tokenizer, messages: Iterable[Message]) -> list[int]:
        """Return the ids of a whole conversation, as training reads them."""
        return self.marked_ids(tokenizer, messages)[0]

    def marked_ids(
        self, tokenizer: Tokenizer, messages: Iterable[Message]
    ) -> tuple[list[int], bytearray]:
        """Return the ids of a conversation, and what the mask says of each.

        Its first id begins the document. The answers and the tokens that end them count. Turns,
        where a window may begin, are the messages of the user and the system.
        """
        ids, marks = [tokenizer.eot], bytearray([CONVERSATION])
        for message in messages:
            begins = len(ids)
            self._add(tokenizer, message, ids, marks)
            if message.role != ASSISTANT:
                marks[begins] |= TURN
        return ids, marks

    def _add(
        self, tokenizer: Tokenizer, message: Message, ids: list[int], marks: bytearray
    ) -> None:
        """Add a message to the ids and marks of a conversation."""
        end = self._closing(tokenizer, message.role)
        content = message.content.strip()
        header = self.header(message.role)
        before = tokenizer.known_ids(header)
        body = content if self.is_chatml else f" {content}"
        after = "" if end else "\n"
        text = tokenizer.encode(header + body + after)
        # The header's tokens, unless the message changes them.
        same = len(before)
        while text[:same] != before[:same]:
            same -= 1
        counted = COUNTS if message.counts else 0
        for part, mark in (
            (self._opening(tokenizer), 0),
            (text[:same], 0),
            (text[same:], counted),
            (end, counted),
            (tokenizer.known_ids("\n") if end else [], 0),
        ):
            ids += part
            marks += bytes([mark]) * len(part)

    def _opening(self, tokenizer: Tokenizer) -> list[int]:
        return [tokenizer.special_tokens[IM_START]] if self.is_chatml else []

    def _closing(self, tokenizer: Tokenizer, role: str) -> list[int]:
        if self.is_chatml:
            return [tokenizer.special_tokens[IM_END]]
        return [tokenizer.eot] if role == ASSISTANT else []

    def stop_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Return the ids that end an answer, the usual one first."""
        ends = self._closing(tokenizer, ASSISTANT)
        return tuple(dict.fromkeys([*ends, tokenizer.eot]))

    def end_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Return the ids that no answer has in it: those that end one or begin a message."""
        marks = (tokenizer.special_tokens[name] for name in self.tokens)
        return frozenset((*self.stop_ids(tokenizer), *marks))

    def jinja(self, tokenizer: Tokenizer) -> str:
        """Return the template as transformers and llama.cpp read it."""
        end = tokenizer.detokenize([tokenizer.eot]).decode()
        begin = json.dumps(end)
        if self.is_chatml:
            message = (
                f"{{{{ '{IM_START}' + message['role'] + '\\n' + message['content'] | trim + "
                f"'{IM_END}\\n' }}}}"
            )
            prompt = f"'{IM_START}assistant\\n'"
        else:
            message = (
                "{% if message['role'] == 'assistant' %}"
                f"{{{{ 'Assistant: ' + message['content'] | trim + {begin} + '\\n' }}}}"
                "{% elif message['role'] == 'system' %}"
                "{{ 'System: ' + message['content'] | trim + '\\n' }}"
                "{% else %}{{ 'User: ' + message['content'] | trim + '\\n' }}{% endif %}"
            )
            prompt = "'Assistant:'"
        return (
            f"{{{{ {begin} }}}}{{% for message in messages %}}{message}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{{{{ {prompt} }}}}{{% endif %}}"
        )


CHATML = Template("chatml", (IM_START, IM_END))
PLAIN = Template("plain", ())
TEMPLATES = {template.name: template for template in (CHATML, PLAIN)}


def template_of(special_tokens: Mapping[str, int]) -> Template | None:
    """Return the template that a tokenizer with these special tokens has; None: none is known."""
    return CHATML if special_tokens.keys() >= set(CHATML.tokens) else None


def template_named(name: str) -> Template:
    """Return a template by its name.

    Raises:
        Usage: no template has it.
    """
    if name not in TEMPLATES:
        raise Usage(f"no chat template '{name}': choose {' or '.join(TEMPLATES)}")
    return TEMPLATES[name]
