"""Documents with a layout become their text."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from llmc.errors import BadData, Usage
from llmc.paths import Workspace
from llmc.text.reading import Reading
from llmc.text.source import open_source
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
