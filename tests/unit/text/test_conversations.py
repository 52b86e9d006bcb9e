"""Records become conversations: each form, and what a broken one says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmc.text.conversations import (
    Message,
    document_of,
    fields_of_conversation,
    is_packed,
    packed,
    plain_text,
    unpacked,
)
from llmc.text.fields import NoText

HI = (Message("user", "Hi", counts=False), Message("assistant", "Hello"))
RECORDS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"prompt": "Hi", "completion": "Hello"},
    {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": "Hello"}],
    },
    {"instruction": "Hi", "input": "", "output": "Hello", "score": 3},
    {"question": "Hi", "answer": "Hello"},
    {"question": "Hi", "response": "Hello"},
    {"instruction": "Hi", "context": "", "response": "Hello", "category": "open_qa"},
    {"instruction": "Hi", "input": None, "output": "Hello", "history": [], "system": ""},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "Hello", "weight": 1},
        ]
    },
]


@pytest.mark.parametrize("record", RECORDS)
def test_every_form_is_the_same_conversation(record: dict[str, Any]) -> None:
    document = document_of(record, ())
    assert is_packed(document) and unpacked(document) == HI
    assert plain_text(document) == "Hi\nHello"
    assert set(fields_of_conversation([*record])) <= record.keys()


def test_more_of_the_forms() -> None:
    alpaca = {"system": "Be kind", "instruction": "Sum", "input": "1\r\n2", "output": "3"}
    assert unpacked(document_of(alpaca, ())) == (
        Message("system", "Be kind", counts=False),
        Message("user", "Sum\n\n1\n2", counts=False),
        Message("assistant", "3"),
    )
    weighted = {
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "assistant", "content": "a", "weight": 0},
            {"role": "assistant", "content": "b\ud800"},
        ]
    }
    found = unpacked(document_of(weighted, ()))
    assert [message.role for message in found] == ["system", "assistant", "assistant"]
    assert [message.counts for message in found] == [False, False, True]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_the_system_may_stand_in_a_field_beside_either_form(name: str) -> None:
    for record in RECORDS[:3]:
        said = unpacked(document_of(record | {name: "Be kind\r\n"}, ()))
        assert said == (Message("system", "Be kind\n", counts=False), *HI)
        assert name in fields_of_conversation([*record, name])
    own = [{"role": "system", "content": "Be rude"}, *RECORDS[0]["messages"]]
    found = unpacked(document_of({"messages": own, name: "Be kind"}, ()))
    assert [message.content for message in found] == ["Be rude", "Hi", "Hello"]


def test_what_a_question_is_about_belongs_to_it() -> None:
    for name in ("input", "context"):
        about = {"question": "When?", name: "In 2000.", "answer": "2000"}
        assert unpacked(document_of(about, ()))[0].content == "When?\n\nIn 2000."
    asked = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    record: dict[str, Any] = {"prompt": asked, "context": "d", "completion": "e"}
    assert [each.content for each in unpacked(document_of(record, ()))] == ["a", "b", "c\n\nd", "e"]


def test_the_history_comes_before_its_pair() -> None:
    record = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    for each in (record, record | {"history": '[["a", "b"]]'}):
        found = unpacked(document_of(each, ()))
        assert [message.content for message in found] == ["s", "a", "b", "c", "d"]
        assert [message.counts for message in found] == [False, False, True, False, True]


def test_messages_may_be_json_in_a_text() -> None:
    written = {"messages": json.dumps(RECORDS[0]["messages"])}
    assert unpacked(document_of(written, ())) == HI


def test_an_empty_text_beside_a_conversation_is_none() -> None:
    for text in (None, ""):
        assert unpacked(document_of(RECORDS[0] | {"text": text}, ())) == HI


def test_an_empty_text_beside_no_conversation_is_nothing() -> None:
    assert document_of({"text": "", "messages": None}, ()) == ""


def test_a_record_of_another_form_is_told_the_forms() -> None:
    with pytest.raises(NoText, match=r"'messages', 'prompt' and 'completion'.*'chosen', 'reje"):
        document_of({"chosen": [], "rejected": []}, ())
    with pytest.raises(NoText, match=r"no field 'text' or 'body': name"):
        document_of({"chosen": [], "rejected": []}, ("text", "body"))


def test_a_named_field_is_text_beside_a_conversation_too() -> None:
    assert document_of(RECORDS[0] | {"text": ""}, ("text",)) == ""
    with pytest.raises(NoText, match=r"no field 'text': name"):
        document_of(RECORDS[0], ("text",))


def test_a_conversation_with_empty_answers_is_no_text() -> None:
    assert document_of({"prompt": "Hi", "completion": " "}, ()) == ""
    assert is_packed(document_of({"prompt": "", "completion": "Hello"}, ()))


def test_a_text_that_renders_the_conversation_beside_it_is_not_read() -> None:
    """As in the Alpaca data of the hub, whose column ``text`` has the words of a template."""
    for record in RECORDS:
        rendered = record | {"text": "### Instruction:\r\nHi\r\n\r\n### Response:\r\nHello"}
        assert unpacked(document_of(rendered, ())) == HI
        assert document_of(rendered, ("text",)) == rendered["text"]
    about = {"instruction": "Sum", "input": "1\n\n2", "output": "3", "text": "Sum\n1\n2\n= 3"}
    assert is_packed(document_of(about, ()))


@pytest.mark.parametrize("question", ["", "A"])
def test_a_text_beside_an_empty_answer_is_read(question: str) -> None:
    """All that is said stands in it, and it would be lost without a word."""
    for record in ({"question": question, "answer": ""}, {"prompt": question, "completion": " "}):
        assert document_of(record | {"text": "A long story."}, ()) == "A long story."


def test_any_other_text_beside_a_conversation_is_read() -> None:
    passage = {"question": "When?", "answer": "2000", "text": "It began in 2000."}
    assert document_of(passage, ()) == "It began in 2000."
    others: list[Any] = [{"messages": 12}, {"messages": []}, {"question": "Hi", "answer": None}]
    for odd in others:
        assert document_of({"text": "Hi"} | odd, ()) == "Hi"


def test_text_stays_text() -> None:
    talk = RECORDS[0]
    assert document_of("User: Hi", ()) == "User: Hi"
    assert document_of(talk | {"text": "plain"}, ()) == "plain"
    assert document_of(talk, ("messages",)) == "Hi\nHello"
    assert plain_text("plain") == "plain"
    with pytest.raises(NoText, match="there: 'body'"):
        document_of({"body": "x"}, ())


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"messages": []}, "list of messages"),
        ({"messages": "Hi"}, "list of messages"),
        ({"messages": ["Hi"]}, r"messages\[0\] should be an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\].*'tool'"),
        ({"messages": [{"content": "x"}]}, "None, not system"),
        ({"messages": [{"role": "user", "content": None}]}, "no text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not text"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 2}]}, "weight 2"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no answer"),
        ({"prompt": 3, "completion": "x"}, "'prompt' is not text"),
        ({"instruction": "x", "input": 3, "output": "y"}, "'input' is not text"),
        ({"question": "x", "context": ["z"], "answer": "y"}, "'context' is not text"),
        ({"prompt": "x", "completion": "y", "history": "z"}, "'history' is no list"),
        ({"prompt": "x", "completion": "y", "history": ["z"]}, r"history\[0\] should be"),
        ({"prompt": "x", "completion": "y", "history": [["z", 1]]}, r"'history\[0\]' is not text"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}]},
            r"messages\[0\] calls a tool",
        ),
        ({"prompt": "x", "completion": "y", "system": 1}, "'system' is not text"),
    ],
)
def test_a_broken_conversation_says_what_is_wrong(record: dict[str, Any], said: str) -> None:
    with pytest.raises(NoText, match=said):
        document_of(record, ())


def test_a_conversation_survives_packing() -> None:
    talk = (Message("user", 'a"b\n\x1e[["', counts=False), Message("assistant", "ü", counts=True))
    assert unpacked(packed(talk)) == talk
