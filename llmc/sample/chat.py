"""Conversations with a model: its template, the history, and what of it fits the context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from llmc.config import SampleConfig
from llmc.engine.generator import Generator
from llmc.engine.protocol import Request
from llmc.errors import BadData, Usage
from llmc.sample.model import SampleModel
from llmc.sample.streaming import valid
from llmc.sample.text import Sample, SampledToken
from llmc.text.conversations import ASSISTANT, SYSTEM, USER, Message, messages_of
from llmc.text.fields import NoText
from llmc.text.utf8 import as_read
from llmc.tokens.template import Template
from llmc.tokens.tokenizer import Tokenizer

ROOM = 4  # old turns are left out until a fourth of the context is free for an answer


def room_for(tokens: int, positions: int) -> int:
    """Return how much of a context of so many ``positions`` is kept free for an answer."""
    return min(tokens, max(1, positions // ROOM))


class Fitted(NamedTuple):
    """The prompt of a conversation, cut to what the context holds."""

    ids: list[int]
    dropped: int  # how many of the oldest messages were left out


@dataclass(frozen=True)
class ChatModel:
    """A model that was trained on conversations."""

    tokenizer: Tokenizer
    template: Template

    def fitted(self, messages: Sequence[Message], most: int) -> Fitted:
        """Return the prompt of a conversation with at most ``most`` tokens.

        Whole turns are left out from the front: a message of the user with what follows until the
        next. Messages of the system before the first of them stay, and so does the last turn,
        which alone may be longer.
        """
        first, *later = [at for at, each in enumerate(messages) if each.role == USER] or [0]
        begin, *opening = self.template.prompt_ids(self.tokenizer, [])
        start = later[-1] if later else first
        head, kept = self._ids(messages[:first]), self._ids(messages[start:])
        for at in reversed([first, *later[:-1]]):
            more = self._ids(messages[at:start])
            if 1 + len(head) + len(more) + len(kept) + len(opening) > most:
                break
            start, kept = at, more + kept
        return Fitted([begin, *head, *kept, *opening], start - first)

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of messages without the one that begins a conversation."""
        return self.template.conversation_ids(self.tokenizer, messages)[1:]

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer besides its last token: of other special tokens."""
        others = self.template.end_ids(self.tokenizer) - {self.end}
        return [name for name, token in self.tokenizer.special_tokens.items() if token in others]

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self.template.stop_ids(self.tokenizer)[0]


def chat_model(model: SampleModel) -> ChatModel:
    """Return what a conversation with a model needs.

    Raises:
        BadData: the model was not trained on conversations.
    """
    tokenizer = model.tokenizer
    if tokenizer is None or tokenizer.template is None:
        raise BadData(
            f"{model.checkpoint} was not trained on conversations: it has no chat template"
        )
    return ChatModel(tokenizer, tokenizer.template)


class Chat:
    """A conversation with a loaded model.

    Attributes:
        messages: what was said, the system's message first.
        settings: settings of the next answer; the seed increases by 1 after each.
        dropped: the messages that did not fit the context of the last answer.
    """

    def __init__(
        self,
        model: SampleModel,
        generator: Generator,
        settings: SampleConfig,
        *,
        stops: Sequence[str] = (),
    ) -> None:
        """Begin an empty conversation; ``stops`` are texts that end an answer.

        Raises:
            BadData: the model was not trained on conversations.
        """
        self.messages: list[Message] = []
        self.settings = settings
        self.stops = list(stops)
        self.dropped = 0
        self._unix = model.unix
        self._talker = chat_model(model)
        self._generator = generator

    def take(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Replace the conversation by objects with ``role`` and ``content``.

        Raises:
            Usage: one is not such an object, or there is none.
        """
        found = [dict(each) if isinstance(each, Mapping) else each for each in messages]
        try:
            self.messages = [*messages_of(found)]
        except NoText as error:
            raise Usage(str(error)) from error

    def say(self, text: str) -> None:
        """Add a message of the user."""
        self.messages.append(Message(USER, as_read(text, unix=self._unix)))

    def set_system(self, text: str) -> None:
        """Set the system's message; an empty text removes it."""
        self.messages = [message for message in self.messages if message.role != SYSTEM]
        if text:
            self.messages.insert(0, Message(SYSTEM, as_read(text, unix=self._unix)))

    def answer(self) -> Sample:
        """Start the assistant's answer to the last message; :meth:`keep` adds it.

        Raises:
            Usage: the last message does not fit the context, or a stop text is empty.
            LlmcError: the engine has ended.
        """
        positions = self._generator.ready.positions
        most = positions - room_for(self.settings.tokens, positions)
        ids, self.dropped = self._talker.fitted(self.messages, most)
        if len(ids) > most:
            has_system = any(message.role == SYSTEM for message in self.messages)
            what = "the message and the system's have" if has_system else "the message has"
            raise Usage(
                f"{what} {len(ids):,} tokens with the template, and the model's context has room "
                f"for {most:,} besides the answer: shorten {'them' if has_system else 'it'}"
            )
        request = Request(ids, self.settings, self._talker.end)
        stops = [*self.stops, *self._talker.stops]
        return Sample(self._generator, self._talker.tokenizer, request, stops)

    @staticmethod
    def tokens(sample: Sample) -> Iterator[SampledToken]:
        """Yield the tokens of an answer, without white space at its beginning.

        Raises:
            LlmcError: the engine failed or ended.
        """
        begun = False
        for token in sample:
            text = token.text if begun else token.text.lstrip()
            begun = begun or bool(text)
            yield token._replace(text=text)

    def keep(self, sample: Sample) -> None:
        """Add a finished answer to the conversation."""
        self.messages.append(Message(ASSISTANT, valid(sample.text).strip()))
        self.settings = replace(self.settings, seed=(self.settings.seed + 1) % 2**53)

    def undo(self) -> bool:
        """Take back the last message of the user and its answer; return whether there was one."""
        places = [at for at, message in enumerate(self.messages) if message.role == USER]
        if not places:
            return False
        del self.messages[places[-1] :]
        return True

    def clear(self) -> None:
        """Begin anew, with the same message of the system."""
        self.messages = [message for message in self.messages if message.role == SYSTEM]

    def save(self, path: Path) -> None:
        """Add the conversation to a file as a line that ``llmc prepare`` reads.

        Raises:
            BadData: the file cannot be written.
        """
        said = [{"role": message.role, "content": message.content} for message in self.messages]
        line = json.dumps({"messages": said}, ensure_ascii=False) + "\n"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise BadData(f"cannot write {path}: {error.strerror}") from error
