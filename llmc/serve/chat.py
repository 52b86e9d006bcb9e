"""The endpoint that answers in a conversation: OpenAI's chat completions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.responses import Response

from llmc.engine.protocol import NO_TOKEN, Token
from llmc.errors import BadData
from llmc.sample.chat import ChatModel, Fitted, room_for
from llmc.sample.streaming import TextStream
from llmc.serve.chat_schema import ChatRequest
from llmc.serve.choices import ChoiceWriter
from llmc.serve.endpoint import LONG_TEXT, Endpoint
from llmc.serve.refusals import Refused
from llmc.text.conversations import Message
from llmc.tokens.template import Template


@dataclass
class ChatWriter(ChoiceWriter):
    """An answer while it is written, in the form of chat completions."""

    begun: bool = field(default=False, init=False)  # the role was told
    spoken: bool = field(default=False, init=False)  # something besides white space was told

    def whole(self) -> dict[str, Any]:
        """Return the whole answer as a message."""
        fields = self.flush()
        delta = {"role": "assistant", "content": ""} | fields.pop("delta")
        return {**fields, "message": {**delta, "refusal": None}}

    @property
    def has_news(self) -> bool:
        """Whether :meth:`flush` would return anything: at first the role."""
        return not self.begun or super().has_news

    def _content(self, text: str) -> dict[str, Any]:
        first = {} if self.begun else {"role": "assistant", "content": ""}
        self.begun = True
        if not self.spoken:  # the template plain puts a space before a message
            text = text.lstrip()
            self.spoken = bool(text)
        return {"delta": first | ({"content": text} if text else {})}

    def _table(self, done: list[tuple[Token, int]]) -> dict[str, Any]:
        return {"content": [self._told(token) for token, _ in done], "refusal": None}

    def _told(self, token: Token) -> dict[str, Any]:
        top = [self._spelled(other, logprob) for other, logprob in token.top]
        return {**self._spelled(token.token, token.logprob), "top_logprobs": top}

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.spell.bytes_of(token)
        return {"token": self.spell(token), "logprob": logprob, "bytes": data}


class ChatCompletions(Endpoint):
    """Turns requests for answers in a conversation into answers."""

    @property
    def template(self) -> Template | None:
        """The model's chat template; None: it was not trained on conversations."""
        return self.tokenizer.template

    async def answer(self, asked: ChatRequest) -> Response:
        """Answer the last message of a conversation.

        Raises:
            Refused: it cannot be answered.
        """
        template = self.template
        if template is None:
            raise no_template()
        self.check(asked)
        ids, dropped = await self._fitted(ChatModel(self.tokenizer, template), asked)
        stops = template.stop_ids(self.tokenizer)
        ends = frozenset() if asked.ignore_eos else template.end_ids(self.tokenizer)
        choices: list[ChoiceWriter] = [
            ChatWriter(
                index,
                TextStream(self.tokenizer, asked.stops),
                self.spell,
                ends,
                asked.alternatives,
                "",
            )
            for index in range(asked.n)
        ]
        requests = self.requests(
            asked,
            [ids],
            tokens=min(self._tokens(asked), self.limits.positions - len(ids)),
            eot=NO_TOKEN if asked.ignore_eos else stops[0],
            logprobs=asked.alternatives,
        )
        kind = "chat.completion.chunk" if asked.stream else "chat.completion"
        more = {"dropped_messages": dropped} if dropped else {}
        return await self.respond(asked, ("chatcmpl", kind), choices, requests, more)

    def _tokens(self, asked: ChatRequest) -> int:
        return asked.most_tokens or self.limits.max_tokens

    async def _fitted(self, talker: ChatModel, asked: ChatRequest) -> Fitted:
        """Return the prompt of a conversation, without old turns where an answer needs the room."""
        longest = self.most_characters + 1  # what has more than these is too long in any case
        messages = [
            Message(each.role, self.read(each.content).strip()[:longest])
            for each in asked.conversation
        ]
        characters = sum(len(message.content) for message in messages)
        most = self.limits.positions - room_for(self._tokens(asked), self.limits.positions)
        try:
            fit = partial(talker.fitted, messages, most)
            found = await asyncio.to_thread(fit) if characters > LONG_TEXT else fit()
        except BadData as error:  # a character that the vocabulary lacks
            raise Refused(400, str(error), param="messages") from error
        if len(found.ids) > self.most:
            count = str(len(found.ids)) if characters < longest else f"more than {self.most}"
            raise self.too_long(count, "messages")
        return found


def no_template() -> Refused:
    """Return the refusal of a conversation, which many clients ask for first."""
    return Refused(
        400,
        "The model continues texts and was not trained on conversations: send a prompt to "
        "/v1/completions",
        code="no_chat_template",
    )
