"""Records: what json writes comes back as documents, and faults are named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.errors import BadData
from llmc.text.records import json_documents, jsonl_documents

Reader = Callable[[Iterator[bytes], list[str], str], Iterator[str]]
TEXTS = st.lists(st.text().filter(bool), max_size=8)


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def read(reader: Reader, text: str | bytes, field: str = "text", size: int = 1 << 20) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return list(reader(chunked(data, size), [field], "x.json"))


@given(TEXTS, st.booleans(), st.booleans(), st.sampled_from([None, 1]), st.integers(1, 9))
def test_json_that_python_writes_comes_back(
    texts: list[str], ascii_only: bool, bare: bool, indent: int | None, size: int
) -> None:
    values: list[Any] = [text if bare else {"id": 1.5e3, "text": text, "n": [1]} for text in texts]
    whole = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    assert read(json_documents, whole, size=size) == texts
    loose = "\n".join(json.dumps(v, ensure_ascii=ascii_only, indent=indent) for v in values)
    assert read(json_documents, loose, size=size) == texts
    lines = "\n".join(json.dumps(value, ensure_ascii=ascii_only) for value in values)
    assert read(jsonl_documents, lines, size=size) == texts
    assert read(jsonl_documents, lines.replace("\n", "\r\n\r\n"), size=size) == texts


def test_the_field_is_the_persons_choice() -> None:
    line = '{"text": "a", "story": "b"}\n'
    for reader in (json_documents, jsonl_documents):
        assert read(reader, line * 2, "story") == ["b", "b"]


def test_empty_and_null_texts_are_no_documents() -> None:
    lines = '{"text": ""}\n{"text": null}\n""\n\n  \n{"text": " "}\n'
    for reader in (json_documents, jsonl_documents):
        assert read(reader, lines) == [" "]


def test_a_byte_order_mark_is_no_text() -> None:
    for reader in (json_documents, jsonl_documents):
        assert read(reader, b'\xef\xbb\xbf"a"\n"b"') == ["a", "b"]


def test_half_characters_become_replacement_characters() -> None:
    line = r'"\ud83d\ude42 \ud800 \udc00\ud800"'
    for reader in (json_documents, jsonl_documents):
        (text,) = read(reader, line)
        assert text == "🙂 \ufffd \ufffd\ufffd"
        assert text.encode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"text": "a"}\n{"story": "b", "id": 1}\n', r"2: no field 'text'.*'story', 'id'"),
        ('{"text": "a"}\n{"text": 5}\n', "2: the field 'text' is a number, not text"),
        ('{"text": "a"}\n[1]\n', "2: a record must be an object or a string, not a list"),
        ('{"text": "a"}\nnull\n', "2: a record must be .* not null"),
        ('{"text": "a"}\n\n{"text": "a}\n', r"line 3: not JSON \(.*\); mend it"),
        ('{"text": "a"}\n{"text" "a"}\n{"text": "a"}', "line 2: not JSON"),
        ('{"text": "a"}\n{"text": "a"', "line 2: not JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}', "not UTF-8"),
        ("[" * 200_000, "not JSON|nested too deep|must be"),
    ],
)
@pytest.mark.parametrize("reader", [json_documents, jsonl_documents])
def test_a_fault_is_named_with_its_place(reader: Reader, text: str | bytes, words: str) -> None:
    for size in (1 << 20, 5) if len(text) < 1000 else (1 << 20,):
        with pytest.raises(BadData, match=words):
            read(reader, text, size=size)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('["a", "b"', "line 1: not JSON"),
        ('["a"\n "b"]', r"line 2: not JSON \(a comma is missing\)"),
        ('["a"] "b"', "more after the list"),
        ('["a", tru]', "not JSON"),
        ('{"data": [{"text": "a"}]}', "no field 'text'.*there: 'data'"),
    ],
)
def test_a_faulty_list_is_refused(text: str, words: str) -> None:
    for size in (1 << 20, 1):
        with pytest.raises(BadData, match=words):
            read(json_documents, text, size=size)


def test_a_fault_at_the_start_is_found_before_all_is_read() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b'[{"text": oops}, '
        while True:
            taken += 1
            assert taken < 10
            yield b'{"text": "a"}, ' * 100

    with pytest.raises(BadData, match="line 1: not JSON"):
        list(json_documents(endless(), ["text"], "x.json"))
