"""Documents with a layout become their text."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path

import pytest

from llmc.errors import BadData, Usage
from llmc.paths import Workspace
from llmc.text.reading import Reading
from llmc.text.source import documents_of, open_source
from tests.helpers.texts import opened

CONTAINER = (
    '<container xmlns="urn:c"><rootfiles><rootfile full-path="in/b.opf"/></rootfiles></container>'
)
PACKAGE = """<package xmlns="urn:p"><manifest><item id="2" href="two.xhtml"/>
<item id="1" href="one%20a.xhtml"/></manifest>
<spine><itemref idref="1"/><itemref idref="2"/></spine></package>"""


@pytest.fixture(autouse=True)
def here(workspace: Workspace) -> Path:
    return workspace.root


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_a_web_page_in_its_declared_encoding(here: Path, encoding: str) -> None:
    page = f'<html><head><meta charset="{encoding}"><title>T</title></head><p>Größe</p></html>'
    (here / "a.htm").write_bytes(page.encode(encoding))
    assert opened("a.htm") == ["Größe"]


@pytest.mark.parametrize(
    ("declaration", "encoding"),
    [
        ('<meta charset="iso-8859-1">', "cp1252"),
        ('<meta charset="us-ascii">', "cp1252"),
        ("<meta http-equiv='Content-Type' content='text/html; charset=gb2312'>", "gb18030"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?>', "cp1252"),
        ('<meta charset="utf-16">', "utf-8"),
    ],
)
def test_a_declaration_means_what_it_means_to_a_browser(
    here: Path, declaration: str, encoding: str
) -> None:
    text = "中文，镕" if encoding == "gb18030" else "“été” costs 5 €"
    page = f"{declaration}<html><body>{text}</body></html>"
    (here / "a.html").write_bytes(page.encode(encoding))
    assert opened("a.html") == [text]


def test_an_epub_in_the_order_of_its_spine(here: Path) -> None:
    with zipfile.ZipFile("x.epub", "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("in/b.opf", PACKAGE)
        book.writestr("in/two.xhtml", "<html><p>Second</p></html>")
        book.writestr("in/one a.xhtml", '<?xml version="1.0" encoding="utf-8"?><html>Eins é</html>')
    assert opened("x.epub") == ["Eins é\n\nSecond"]


def test_a_word_document_with_its_tables(here: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_paragraph("Before")
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    document.add_paragraph("After")
    document.save("x.docx")
    assert opened("x.docx") == ["Before\nleft\tright\nAfter"]
    with pytest.raises(Usage, match="--documents cannot be 'line'"):
        opened("x.docx", Reading(documents="line"))


def test_a_notebook_is_its_cells(here: Path) -> None:
    shown = {"data": {"image/png": "iVBORw0KGgo="}}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words\n"]},
        {"cell_type": "code", "source": "print('é')", "outputs": [shown]},
        {"cell_type": "code", "source": []},
    ]
    (here / "a.ipynb").write_text(json.dumps({"nbformat": 4, "cells": cells}))
    wanted = "# Title\nwords\n\nprint('é')"
    assert opened("a.ipynb") == [wanted]
    old = [{"cell_type": "code", "input": ["x = 1"]}]
    (here / "b.ipynb").write_text(json.dumps({"worksheets": [{"cells": old}]}))
    assert opened("b.ipynb") == ["x = 1"]
    assert opened("a.ipynb", Reading(documents="file"))[0].startswith('{"nbformat"')
    (here / "c.ipynb").write_text("{}")
    source = open_source(Workspace(here), ["."])
    assert list(documents_of(source.parts)) == [wanted, "x = 1"]
    assert [Path(each.name).name for each in source.left_out] == ["c.ipynb"]
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.write("a.ipynb")
    assert opened("x.zip") == [wanted]


@pytest.mark.parametrize("start", ["{\\rtf1\\ansi Text}", "%!PS-Adobe-3.0\n(Text) show"])
def test_what_only_looks_like_text_is_named(here: Path, start: str) -> None:
    (here / "a.txt").write_text(start)
    with pytest.raises(BadData, match="document"):
        opened("a.txt")


def pdf(*pages: list[str]) -> bytes:
    """Return a PDF with the lines of each page, as its specification has it."""

    def shown(line: str) -> bytes:
        return re.sub(rb"([\\()])", rb"\\\1", line.encode("cp1252"))

    kids = " ".join(f"{4 + 2 * page} 0 R" for page in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for page, lines in enumerate(pages):
        fonts = "/MediaBox [0 0 612 792] /Resources << /Font << /F 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /Contents {5 + 2 * page} 0 R {fonts} >>".encode()
        )
        content = b" T* ".join(b"(%s) Tj" % shown(line) for line in lines)
        content = zlib.compress(b"BT /F 12 Tf 14 TL 72 720 Td " + content + b" ET")
        head = b"<< /Filter /FlateDecode /Length %d >>" % len(content)
        objects.append(head + b"\nstream\n" + content + b"\nendstream")
    file, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    end = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(file))
    return file + b"xref\n0 %d\n0000000000 65535 f \n" % size + table + end


def test_a_pdf_s_pages_in_order(here: Path) -> None:
    pytest.importorskip("pypdf")
    (here / "x.pdf").write_bytes(pdf(["Größe (und) Maß", "a \\ b"], ["Page two", "ends here."]))
    assert opened("x.pdf") == ["Größe (und) Maß\na \\ b\nPage two\nends here."]
    (here / "cut.pdf").write_bytes((here / "x.pdf").read_bytes()[:200])
    with pytest.raises(BadData, match=r"cut\.pdf (is not PDF, or damaged|holds pictures)"):
        opened("cut.pdf")


def test_a_pdf_without_text_is_refused(here: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write("x.pdf")
    with pytest.raises(BadData, match=r"x\.pdf holds pictures of pages and no text"):
        opened("x.pdf")


@pytest.mark.parametrize(("name", "library"), [("x.docx", "docx"), ("x.pdf", "pypdf")])
def test_a_missing_library_names_its_extra(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    (here / "f").mkdir()
    (here / "f" / name).write_bytes(b"%PDF or PK")
    (here / "f" / "a.txt").write_text("A")
    with pytest.raises(BadData, match=rf"{name} needs {library} .*documents\]"):
        opened(f"f/{name}")
    source = open_source(Workspace(Path()), ["f"])
    assert "documents]" in source.left_out[0].reason
