"""Conversations: messages of a system, a user and an assistant, in the forms datasets have.

A conversation passes through the readers as one document, like any other text: a record separator
(U+001E, which RFC 7464 puts before a JSON text) and the messages as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from llmc.parsing import record_from_json
from llmc.text.fields import DEFAULT_FIELD, NoText, text_of
from llmc.text.utf8 import unix_text

MARK = "\x1e"
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {  # as datasets and programs name them
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "human": USER,
    "prompter": USER,
    "assistant": ASSISTANT,
    "gpt": ASSISTANT,
    "bot": ASSISTANT,
    "chatbot": ASSISTANT,
    "model": ASSISTANT,
}
LISTS = ("messages", "conversations", "conversation")  # fields that hold a list of messages
PAIRS = (  # fields of a question and its answer
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("question", "response"),
)
SYSTEMS = ("system", "system_prompt")  # the system's message, beside either form
INPUTS = ("input", "context")  # what the question of a pair is about
HISTORY = "history"  # the questions and answers before a pair


@dataclass(frozen=True)
class Message:
    """What one side says in a conversation."""

    role: str  # system, user or assistant
    content: str
    counts: bool = True  # training learns to write it: false for all but the assistant's

    def __post_init__(self) -> None:
        """Nobody learns what others say."""
        if self.role != ASSISTANT:
            object.__setattr__(self, "counts", False)


Conversation = tuple[Message, ...]


def document_of(record: Any, fields: Sequence[str]) -> str:
    """Return a record as a document: its text, or the conversation in it.

    Where no option names ``fields``, a record without ``text`` may be a conversation, and so may
    one whose text only renders its conversation. One whose answers are empty is not text.

    Raises:
        NoText: it has neither, or the conversation is broken; the message says how.
    """
    if fields or not isinstance(record, dict) or not _is_conversation(record):
        return text_of(record, fields)
    found = conversation_in(record)
    return packed(found) if any(_is_learnt(message) for message in found) else ""


def _is_conversation(record: Mapping[str, Any]) -> bool:
    """Return whether a record is a conversation, whole or broken, and no text."""
    values = [record[name] for name in _main_fields([*record])]
    if not values:
        return False
    if text := record.get(DEFAULT_FIELD):
        return isinstance(text, str) and _is_rendering(text, record)
    return any(values) or DEFAULT_FIELD not in record  # a table may have columns for both


def _is_rendering(text: str, record: Mapping[str, Any]) -> bool:
    """Return whether a text holds all that is said in a record's conversation.

    Such a text is what a template of others made of it, as in the Alpaca data of the hub. Beside a
    conversation without an answer, a text is what the record has to say.
    """
    try:
        found = conversation_in(record)
    except NoText:
        return False
    if not any(_is_learnt(message) for message in found):
        return False
    said = [message.content for message in found if message.role != SYSTEM]
    paragraphs = [part.strip() for content in said for part in content.split("\n\n")]
    whole = unix_text(text)
    return all(part in whole for part in paragraphs)


def _is_learnt(message: Message) -> bool:
    return message.counts and bool(message.content.strip())


def _main_fields(there: Sequence[str]) -> tuple[str, ...]:
    """Return the field with a list of messages, or the two of a pair; empty: neither is there."""
    for name in LISTS:
        if name in there:
            return (name,)
    return next((pair for pair in PAIRS if all(name in there for name in pair)), ())


def fields_of_conversation(there: Sequence[str]) -> tuple[str, ...]:
    """Return those of a record's fields that make a conversation; empty: they make none."""
    main = _main_fields(there)
    beside = SYSTEMS if len(main) == 1 else (*INPUTS, HISTORY, *SYSTEMS)
    return (*main, *(name for name in beside if main and name in there))


def conversation_in(record: Mapping[str, Any]) -> Conversation:
    """Return the conversation in a record that has the fields of one.

    The forms are a list of messages (``messages`` with ``role`` and ``content``, ShareGPT's
    ``conversations`` with ``from`` and ``value``), and a pair (``prompt`` and ``completion``;
    Alpaca's ``instruction``, ``input`` and ``output``; others in ``PAIRS``). A message of the
    system may stand in a field beside them.

    Raises:
        NoText: the conversation is broken, or has no answer to learn.
    """
    main = _main_fields([*record])
    if len(main) == 1:
        messages = messages_of(_from_json(record[main[0]]), main[0])
    else:
        messages = _of_pair(record, main)
    if all(message.role != SYSTEM for message in messages):
        messages = (*_of_system(record), *messages)
    if not any(message.counts for message in messages):
        raise NoText("the conversation has no answer of an assistant to learn")
    return messages


def _from_json(value: Any) -> Any:
    """Return messages that are written as JSON in a text, as in a table; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            return record_from_json(value.lstrip())[0]
    return value


def messages_of(value: Any, name: str = "messages") -> Conversation:
    """Return a list of messages as programs write it.

    A message is an object with ``role`` and ``content``, or ``from`` and ``value``. The content is
    a text, or a list of parts of the type ``text``. ``weight`` 0, as in OpenAI's files, makes an
    answer that is not learnt.

    Raises:
        NoText: it is no such list.
    """
    if not isinstance(value, list) or not value:
        raise NoText(f"'{name}' should be a list of messages")
    return tuple(_message(item, f"{name}[{at}]") for at, item in enumerate(value))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise NoText(f"{where} should be an object with 'role' and 'content'")
    named = item.get("role", item.get("from"))
    if not isinstance(named, str) or named.lower() not in ROLES:
        raise NoText(f"{where} has the role {named!r}, not system, user or assistant")
    role = ROLES[named.lower()]
    if item.get("tool_calls") or item.get("function_call"):
        raise NoText(f"{where} calls a tool, and a conversation can only hold text")
    content = _content(item.get("content", item.get("value", item.get("text"))), where)
    weight = item.get("weight", 1)
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise NoText(f"{where} has the weight {weight!r}, not 0 or 1")
    return Message(role, content, counts=weight != 0)


def _content(value: Any, where: str) -> str:
    if isinstance(value, list):
        texts = [_text_of_part(part) for part in value]
        known = [text for text in texts if text is not None]
        if len(known) < len(texts):
            raise NoText(f"{where} has content that is not text")
        return unix_text("".join(known))
    if not isinstance(value, str):
        raise NoText(f"{where} has no text in 'content'")
    return unix_text(value)


def _text_of_part(part: Any) -> str | None:
    """Return the text of a part of a message's content; None if it is something else."""
    if isinstance(part, dict) and part.get("type", "text") == "text":
        part = part.get("text")
    return part if isinstance(part, str) else None


def _of_pair(record: Mapping[str, Any], pair: Sequence[str]) -> Conversation:
    """Return the conversation of a question and its answer, either as text or as messages."""
    asked, answered = (
        _side(record[name], name, role) for name, role in zip(pair, (USER, ASSISTANT), strict=True)
    )
    *before, last = asked
    about = filter(None, (_text_beside(record, name) for name in INPUTS))
    last = replace(last, content="\n\n".join((last.content, *about)))
    return (*_of_history(record), *before, last, *answered)


def _of_history(record: Mapping[str, Any]) -> Iterator[Message]:
    """Yield the messages before a pair."""
    said = _from_json(record.get(HISTORY)) or []
    if not isinstance(said, list):
        raise NoText(f"'{HISTORY}' is no list of questions with their answers")
    for at, turn in enumerate(said):
        if not (isinstance(turn, list) and len(turn) == 2):
            raise NoText(f"{HISTORY}[{at}] should be a question and its answer")
        for text, role in zip(turn, (USER, ASSISTANT), strict=True):
            yield from _side(text, f"{HISTORY}[{at}]", role)


def _of_system(record: Mapping[str, Any]) -> Conversation:
    """Return the system's message in a field of its own."""
    said = filter(None, (_text_beside(record, name) for name in SYSTEMS))
    return tuple(Message(SYSTEM, text) for text in said)[:1]


def _text_beside(record: Mapping[str, Any], name: str) -> str:
    """Return the text of a field that a record may lack."""
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise NoText(f"'{name}' is not text")
    return unix_text(value or "")


def _side(value: Any, name: str, role: str) -> Conversation:
    if isinstance(value, list):
        return messages_of(value, name)
    if not isinstance(value, str):
        raise NoText(f"'{name}' is not text")
    return (Message(role, unix_text(value)),)


def packed(messages: Iterable[Message]) -> str:
    """Return a conversation as a document."""
    table = [[m.role, m.content, int(m.counts)] for m in messages]
    return MARK + json.dumps(table, ensure_ascii=False, separators=(",", ":"))


def is_packed(document: str) -> bool:
    """Return whether a document is a conversation."""
    return document.startswith(MARK + '[["')


def unpacked(document: str) -> Conversation:
    """Return the conversation that :func:`packed` made into a document."""
    table, _ = record_from_json(document, len(MARK))
    return tuple(Message(role, content, bool(counts)) for role, content, counts in table)


def plain_text(document: str) -> str:
    """Return a document's text: of a conversation, what its messages say."""
    if not is_packed(document):
        return document
    return "\n".join(message.content for message in unpacked(document))
