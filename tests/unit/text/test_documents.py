"""Documents are the same wherever the stream is cut, and wherever the file is cut into parts."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.errors import BadData, Usage
from llmc.text import documents as boundaries
from llmc.text.documents import (
    AT_ENDOFTEXT,
    BLANK_LINE,
    FILE,
    LINE,
    Boundary,
    boundary_named,
    boundary_of_head,
    cut,
    separator,
    starts,
)

# Characters of one to four bytes, both ends of lines, and what the separators are made of.
HOSTILE = st.lists(
    st.sampled_from(
        [
            "a",
            "é",
            "日",
            "🙂",
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "<|endoftext|>",
            "<|endof",
            "--",
            "-",
            " ",
        ]
    ),
    max_size=40,
).map("".join)
BOUNDARIES = st.sampled_from(
    [FILE, LINE, BLANK_LINE, AT_ENDOFTEXT, separator("--"), separator("日"), separator("aba")]
)


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def documents(data: bytes, boundary: Boundary, size: int = 1 << 20) -> list[str]:
    return list(cut(chunked(data, size), boundary, "x"))


@given(HOSTILE, st.sampled_from(["--", "日", "<|endoftext|>", "\n\n", "aba"]), st.integers(1, 9))
def test_a_separator_cuts_as_str_split_does(text: str, mark: str, size: int) -> None:
    found = documents(text.encode(), separator(mark), size)
    split = text.split(mark)
    assert found == (split if split[-1] else split[:-1])


@given(HOSTILE, st.integers(1, 9))
def test_lines_are_those_of_a_universal_reader(text: str, size: int) -> None:
    # io.StringIO with newline=None also ends a line at a lone "\r"; that is data here.
    text = re.sub(r"\r(?!\n)", "r", text)
    lines = [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
    assert documents(text.encode(), LINE, size) == lines


@given(st.text(alphabet="ab\n"), st.integers(1, 5))
def test_blank_lines_end_documents_as_in_llm_c(text: str, size: int) -> None:
    # llm.c puts the separator in front and behind each blank line of the text as a whole.
    separated = "|" + text.replace("\n\n", "\n\n|")
    found = documents(text.encode(), BLANK_LINE, size)
    assert "".join(f"|{document}" for document in found) == separated


@given(HOSTILE.filter(lambda text: "\r" not in text))
def test_blank_lines_of_windows_are_blank_lines(text: str) -> None:
    found = documents(text.replace("\n", "\r\n").encode(), BLANK_LINE)
    unix = documents(text.encode(), BLANK_LINE)
    assert [document.replace("\r\n", "\n") for document in found] == unix


@given(HOSTILE, BOUNDARIES, st.integers(1, 30), st.sampled_from([16, 17, 20, 1 << 20]))
def test_parts_hold_the_documents_of_the_whole(
    text: str, boundary: Boundary, step: int, window: int
) -> None:
    data = text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "CHUNK", window)
        at = starts(io.BytesIO(data), len(data), boundary, step)
    assert at[0] == 0
    assert all(later - earlier >= step for earlier, later in pairwise(at))
    found: list[str] = []
    for first, end in pairwise([*at, len(data)]):
        is_last = end == len(data)
        found += cut(chunked(data[first:end], 7), boundary, "x", is_last=is_last)
    assert found == documents(data, boundary, 7) == documents(data, boundary)


def test_large_texts_are_in_fact_cut() -> None:
    data = "один\r\n\r\ntwo\n\nthree <|endoftext|>\n".encode() * 1000
    for boundary in (LINE, BLANK_LINE, AT_ENDOFTEXT):
        at = starts(io.BytesIO(data), len(data), boundary, 1000)
        assert len(at) > 20
        assert max(later - earlier for earlier, later in pairwise(at)) < 1100
    assert starts(io.BytesIO(data), len(data), FILE, 1000) == [0]


def test_a_document_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries, "MAX_DOCUMENT", 100)
    assert len(documents(b"x" * 100, FILE, 10)) == 1
    for boundary in (FILE, LINE):
        with pytest.raises(BadData, match=r"x holds a document of more than .*--documents"):
            documents(b"x" * 101, boundary, 10)


@pytest.mark.parametrize(
    ("text", "mark"),
    [("---", "---"), (r"\n---\n", "\n---\n"), (r"a\\n", r"a\n"), (".*", ".*")],
)
def test_a_separator_is_taken_literally(text: str, mark: str) -> None:
    boundary = boundary_named(text)
    assert documents(f"x{mark}y".encode(), boundary) == ["x", "y"]
    assert boundary.name == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [("lines", "'line'"), ("blank-lines", "'blank-line'"), ("records", "'record'"), ("", "empty")],
)
def test_a_misspelt_name_is_no_separator(text: str, hint: str) -> None:
    with pytest.raises(Usage, match=hint):
        boundary_named(text)


@pytest.mark.parametrize(
    ("head", "boundary"),
    [
        ("story\n<|endoftext|>\nstory", AT_ENDOFTEXT),
        ("story\r\n<|endoftext|>\r\nstory", AT_ENDOFTEXT),
        ("<|endoftext|>", AT_ENDOFTEXT),
        ('EOT = "<|endoftext|>"\n', FILE),
        ("story <|endoftext|>\nstory", FILE),
        ("", FILE),
    ],
)
def test_only_a_line_of_its_own_is_a_sign(head: str, boundary: Boundary) -> None:
    assert boundary_of_head(head.encode()) is boundary
