"""Conversations with a model: what fits the context, what ends an answer, the history."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmc.config import SampleConfig
from llmc.errors import BadData, Usage
from llmc.model import ModelConfig
from llmc.sample.chat import Chat, ChatModel, chat_model
from llmc.sample.model import SampleModel
from llmc.text.conversations import Message
from llmc.tokens.added import for_chat
from llmc.tokens.template import CHATML, PLAIN, Template
from llmc.tokens.tokenizer import load_tokenizer


def said(*texts: str) -> list[Message]:
    roles = ("user", "assistant")
    return [Message(roles[at % 2], text, counts=at % 2 == 1) for at, text in enumerate(texts)]


@pytest.fixture(params=[CHATML, PLAIN], ids=["chatml", "plain"])
def talker(request: pytest.FixtureRequest) -> ChatModel:
    template: Template = request.param
    tokenizer = for_chat(load_tokenizer("byte"), template)
    return ChatModel(tokenizer, template)


def test_whole_turns_leave_the_context_from_the_front(talker: ChatModel) -> None:
    system = Message("system", "Be kind.", counts=False)
    messages = [system, *said("one", "two", "three", "four", "five")]

    def prompt(kept: list[Message]) -> list[int]:
        return talker.template.prompt_ids(talker.tokenizer, kept)

    whole = prompt(messages)
    assert talker.fitted(messages, len(whole)) == (whole, 0)
    shorter = prompt([system, *messages[3:]])
    assert talker.fitted(messages, len(whole) - 1) == (shorter, 2)
    last = prompt([system, messages[-1]])
    assert talker.fitted(messages, len(last)) == (last, 4)
    assert talker.fitted(messages, len(last) - 1) == (last, 4)
    assert talker.fitted(messages[:1], 1) == (prompt([system]), 0)


def test_a_message_that_leaves_no_room_for_an_answer_is_refused(talker: ChatModel) -> None:
    shape = ModelConfig(context=64, vocab_size=259, layers=1, heads=1, channels=8)
    model = SampleModel(Path("m"), shape, talker.tokenizer, SampleConfig())
    engine: Any = SimpleNamespace(ready=SimpleNamespace(positions=64))
    chat = Chat(model, engine, SampleConfig())
    chat.say("x" * 48)
    with pytest.raises(Usage, match=r"the message has .* room for 48 besides .*: shorten it"):
        chat.answer()
    chat.set_system("x" * 48)
    with pytest.raises(Usage, match=r"the message and the system's have .*: shorten them"):
        chat.answer()


def test_any_special_token_ends_an_answer() -> None:
    chatml = for_chat(load_tokenizer("byte"), CHATML)
    talker = ChatModel(chatml, CHATML)
    assert talker.end == chatml.special_tokens["<|im_end|>"]
    assert set(talker.stops) == {"<|endoftext|>", "<|im_start|>"}
    plain = ChatModel(for_chat(load_tokenizer("byte"), PLAIN), PLAIN)
    assert (plain.end, plain.stops) == (256, [])


def test_a_model_of_text_is_refused() -> None:
    shape = ModelConfig(context=8, vocab_size=257, layers=1, heads=1, channels=8)
    for tokenizer in (load_tokenizer("byte"), None):
        model = SampleModel(Path("m.bin"), shape, tokenizer, SampleConfig())
        with pytest.raises(BadData, match=r"m\.bin was not trained on conversations"):
            chat_model(model)


def test_saved_conversations_are_read_again(tmp_path: Path) -> None:
    from llmc.text.conversations import document_of, unpacked

    shape = ModelConfig(context=8, vocab_size=259, layers=1, heads=1, channels=8)
    model = SampleModel(Path("m"), shape, for_chat(load_tokenizer("byte"), CHATML), SampleConfig())
    chat = Chat(model, None, SampleConfig())  # type: ignore[arg-type]  # nothing is answered
    chat.set_system("s")
    chat.say("Hi\r\nthere")
    chat.messages.append(Message("assistant", "Grüße"))
    chat.save(tmp_path / "talks.jsonl")
    chat.save(tmp_path / "talks.jsonl")
    lines = (tmp_path / "talks.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert list(unpacked(document_of(json.loads(lines[1]), ()))) == chat.messages
    assert chat.undo() and not chat.undo()
    assert [message.role for message in chat.messages] == ["system"]
    chat.clear()
    chat.set_system("")
    assert chat.messages == []
    with pytest.raises(BadData, match="cannot write"):
        chat.save(tmp_path)
