"""Encodings, byte order marks, line ends: the text is the same whatever bytes hold it."""

from __future__ import annotations

import codecs
import gzip
import os
from pathlib import Path

import pytest

from llmc.errors import BadData, Usage
from llmc.paths import Workspace
from llmc.text.encodings import encoding_named
from llmc.text.reading import Reading
from llmc.text.source import AS_USUAL, Source, documents_of, open_source
from llmc.text.utf8 import Decoder

GERMAN = "Größe über alles, süße Mädchen und Füße. " * 20
SAMPLES = {
    "cp1252": "C'est l'été à la française, où êtes-vous ? “Ici” – voilà… " * 9,
    "latin-1": GERMAN,
    "cp1251": "Привет, как дела, всё хорошо, спасибо. " * 9,
    "shift_jis": "日本語のテキストです。これはテストです。" * 9,
    "gb18030": "这是中文文本，我们来测试一下。" * 9,
    "utf-16": GERMAN,
    "utf-16-le": GERMAN,
    "utf-16-be": GERMAN,
    "utf-32": GERMAN,
    "utf-32-le": GERMAN,
    "utf-32-be": "日本語のテキスト。" * 9,
    "iso2022_jp": "日本語のテキストです。これはテストです。" * 9,
    "utf-8": GERMAN,
    "utf-8-sig": GERMAN,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(name: str, reading: Reading = AS_USUAL) -> Source:
    return open_source(Workspace(Path()), [name], reading)


def opened(name: str, reading: Reading = AS_USUAL) -> list[str]:
    return list(documents_of(source(name, reading).parts))


@pytest.mark.parametrize("encoding", SAMPLES)
@pytest.mark.parametrize("asked", ["its own", "auto"])
def test_text_in_any_encoding(here: Path, encoding: str, asked: str) -> None:
    text = SAMPLES[encoding]
    reading = Reading(encoding="auto" if asked == "auto" else encoding_named(encoding))
    (here / "a.txt").write_bytes(text.encode(encoding))
    (here / "a.txt.gz").write_bytes(gzip.compress(text.encode(encoding)))
    (here / "a.csv").write_bytes(f'id,text\n1,"{text}"\n'.encode(encoding))
    (here / "a.jsonl").write_bytes(f'{{"text": "{text}"}}\n'.encode(encoding).replace(b"\r", b""))
    for name in ("a.txt", "a.txt.gz", "a.csv", "a.jsonl"):
        assert opened(name, reading) == [text], name


def test_a_mark_decides_before_a_name(here: Path) -> None:
    (here / "f").mkdir()
    for index, encoding in enumerate(("utf-8-sig", "utf-16", "cp1252")):
        (here / "f" / f"{index}.txt").write_bytes(GERMAN.encode(encoding))
    assert opened("f", Reading(encoding="cp1252")) == [GERMAN] * 3


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_wide_text_is_recognised_in_the_message(here: Path, encoding: str) -> None:
    (here / "a.txt").write_bytes(GERMAN.encode(encoding))
    name = encoding.upper()
    with pytest.raises(BadData, match=rf"a\.txt is not UTF-8 text .*{name}\): .*--encoding"):
        source("a.txt")


def test_text_in_7_bits_is_not_taken_for_ascii(here: Path) -> None:
    (here / "a.txt").write_bytes(b"x" * (1 << 20) + SAMPLES["iso2022_jp"].encode("iso2022_jp"))
    with pytest.raises(BadData, match=r"looks like iso2022_jp\): name its --encoding"):
        source("a.txt")
    (here / "a.txt").write_bytes(b"\x1b[31mred\x1b[0m costs 5\x1b$")  # a terminal's colours
    assert opened("a.txt")[0].startswith("\x1b[31m")


@pytest.mark.parametrize("before", ["", GERMAN, GERMAN * 3000])
def test_a_few_wrong_bytes_do_not_make_utf8_another_encoding(here: Path, before: str) -> None:
    (here / "a.txt").write_bytes(before.encode() + b"na\xefve " + GERMAN.encode())
    with pytest.raises(BadData, match=r"a\.txt is UTF-8 text with some bytes that are not: mend"):
        source("a.txt", Reading(encoding="auto"))


def test_utf16_without_a_mark_has_an_order(here: Path) -> None:
    (here / "a.txt").write_bytes(b"plain ASCII, which would be Chinese as UTF-16.")
    with pytest.raises(BadData, match=r"no byte order mark\): name utf-16-le or utf-16-be"):
        source("a.txt", Reading(encoding="utf-16"))


@pytest.mark.parametrize("name", ["", "nosuch", "hex", "rot13", "base64", "punycode\0"])
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(Usage, match="--encoding cannot be"):
        encoding_named(name)


def test_names_of_encodings_are_pythons() -> None:
    assert encoding_named("Latin1") == encoding_named("ISO-8859-1") == "iso8859-1"
    assert encoding_named("auto") == "auto"


@pytest.mark.parametrize("documents", [None, "line", "blank-line", r"\n---\n", r"\r\n---\r\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_become_lf_before_documents_are_split(
    here: Path, documents: str | None, end: str
) -> None:
    text = "one\ntwo\n\nthree\n---\nfour\n"
    (here / "lf.txt").write_bytes(text.encode())
    (here / "other.txt").write_bytes(text.replace("\n", end).encode())
    (here / "other.txt.gz").write_bytes(gzip.compress(text.replace("\n", end).encode()))
    reading = Reading(documents=documents)
    wanted = opened("lf.txt", reading)
    assert opened("other.txt", reading) == opened("other.txt.gz", reading) == wanted
    made = source("other.txt", reading)
    for part in made.parts:
        list(part.texts())
    assert made.line_ends_changed == (end != "\n")


def test_line_ends_of_records_and_chunks(here: Path) -> None:
    (here / "a.jsonl").write_bytes(b'{"text": "a\\r\\nb\\rc"}\r\n"\\ufeffd"\r\n')
    assert opened("a.jsonl") == ["a\nb\nc", "d"]
    assert opened("a.jsonl", Reading(newlines="keep")) == ["a\r\nb\rc", "d"]
    (here / "a.csv").write_bytes(b'text,n\r\n"a\r\nb",1\r\nc,2\r\n')
    assert opened("a.csv") == ["a\nb", "c"]
    assert opened("a.csv", Reading(newlines="keep")) == ["a\r\nb", "c"]
    text = b"x" * ((1 << 20) - 1) + b"\r\n" + b"y"  # the end of a line lies across the chunks
    (here / "a.txt").write_bytes(text)
    assert opened("a.txt") == ["x" * ((1 << 20) - 1) + "\ny"]
    assert "".join(text for _, text in source("a.txt").parts[0].stream()) == opened("a.txt")[0]  # type: ignore[misc]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_line_ends_in_chunks_that_were_split_anywhere(size: int) -> None:
    text = "a\r\r\né\r日\n\r\r🙂\r\n\nend\r"
    data = text.encode()
    decoder = Decoder("x", unix=True)
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    found = "".join(decoder.text(chunk) for chunk in chunks) + decoder.text(b"", final=True)
    assert found == text.replace("\r\n", "\n").replace("\r", "\n")
    assert decoder.changed


def test_a_mark_at_the_start_of_any_document_is_dropped(here: Path) -> None:
    (here / "a.txt").write_bytes(codecs.BOM_UTF8 + b"one\n" + codecs.BOM_UTF8 + b"two\n")
    assert opened("a.txt", Reading(documents="line")) == ["one", "two"]
    (here / "m.txt").write_bytes(codecs.BOM_UTF8 + b"<|endoftext|>\none\n<|endoftext|>\ntwo")
    assert opened("m.txt") == ["one", "two"]


def test_file_names_need_not_be_utf8(here: Path) -> None:
    os.mkdir(b"d\xe9")  # noqa: PTH102
    for name in (b"d\xe9/caf\xe9.txt", b"d\xe9/b.png"):
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(b"text" if name.endswith(b"txt") else b"\0")
    folder = os.fsdecode(b"d\xe9")
    made = source(folder)
    assert list(documents_of(made.parts)) == ["text"]
    assert made.name == "d_"
    assert [file.name for file in made.left_out] == [f"{folder}/b.png"]
    assert opened(f"{folder}/{os.fsdecode(b'caf' + bytes([0xE9]))}.txt") == ["text"]


def test_encoding_is_for_text(here: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    path = here / "x.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(Usage, match="--encoding is for text"):
        source("x.parquet", Reading(encoding="latin-1"))
