"""A file's kind by its first bytes, and text that is safe to print."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pytest

from llmc.kinds import codec_of_bytes, kind_of_bytes, not_data
from llmc.terminal import printable

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "empty"),
        (gzip.compress(b"a", mtime=0), "gzip"),
        (bz2.compress(b"a"), "bzip2"),
        (lzma.compress(b"a"), "xz"),
        (b"PK\x03\x04", "zip"),
        (b"GGUF\x03\0\0\0", "gguf"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x80\xff", "unknown"),
        (POINTER, "lfs"),
        (b" \n<!DOCTYPE html><p>", "html"),
        (b"<HTML>", "html"),
        (b"[1]", "json"),
        ("Köln".encode()[:2], "text"),
        (b"\0" * 257 + b"ustar", "tar"),
        (b"a\0b", "unknown"),
    ],
)
def test_the_first_bytes_decide(head: bytes, kind: str) -> None:
    assert kind_of_bytes(head) == kind


def test_the_codec_of_compressed_bytes() -> None:
    assert codec_of_bytes(gzip.compress(b"a", mtime=0)) == "gz"
    assert codec_of_bytes(b"plain") == ""


@pytest.mark.parametrize(("head", "word"), [(POINTER, "git lfs pull"), (b"<html>", "web page")])
def test_a_file_that_stands_in_for_another(head: bytes, word: str) -> None:
    sentence = not_data(head, "model.bin")
    assert sentence is not None and "model.bin" in sentence and word in sentence


def test_other_files_are_what_they_are() -> None:
    assert not_data(b"text", "a") is None
    assert not_data(b"<html>", "a.html", page_is_fine=True) is None


def test_nothing_printable_acts_on_a_terminal() -> None:
    assert printable("a\x1b[2J\u202eb\n") == "a?[2J?b?"
    assert printable("a\n\tb\r", keep="\n\t", instead=" ") == "a\n\tb "
