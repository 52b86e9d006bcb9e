"""The text of documents with a layout: HTML, Word, PDF, EPUB and Jupyter's notebooks."""

from __future__ import annotations

import io
import logging
import posixpath
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO
from urllib.parse import unquote

from llmc.errors import BadData
from llmc.fetch.compression import check_growth
from llmc.installation import install_command
from llmc.parsing import record_from_json
from llmc.text.documents import MAX_DOCUMENT
from llmc.text.utf8 import UTF8, Decoder, Unreadable, well_formed

ZIPPED = ("docx", "epub")
CONTAINER = "META-INF/container.xml"  # of an EPUB: where its list of chapters is


def page_text(stream: BinaryIO, form: str, name: str, *, any_ratio: bool = False) -> str:
    """Return the text of a document of a format in ``READERS``; html and ipynb are in UTF-8.

    Raises:
        Unreadable: it is damaged or locked, or the library that reads it is not installed.
        Bomb: it grows more than text does, without ``any_ratio``.
    """
    try:
        if form in ZIPPED and not any_ratio:
            plain = 0
            with suppress(zipfile.BadZipFile), zipfile.ZipFile(stream) as archive:
                plain = sum(member.file_size for member in archive.infolist())
            check_growth(name, stream.seek(0, io.SEEK_END), plain)
            stream.seek(0)
        text = READERS[form](stream, name)
    except ImportError as error:
        raise Unreadable(
            name, f"needs {error.name} to be read", install_command("documents")
        ) from error
    except BadData:
        raise
    except Exception as error:  # whatever the library raises on a damaged file
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise Unreadable(
            name, f"is not {form.upper()}, or damaged ({reason})", "get it again, or leave it out"
        ) from error
    return well_formed(text.strip())


def _html(stream: BinaryIO, name: str) -> str:
    return html_text(Decoder(name).text(stream.read(MAX_DOCUMENT), final=True))


def html_text(page: str) -> str:
    """Return the text that a browser would show of a web page."""
    import lxml.html
    from inscriptis import Inscriptis
    from inscriptis.css_profiles import CSS_PROFILES
    from inscriptis.model.config import ParserConfig

    if not page.strip():
        return ""
    # As bytes: of a string, lxml refuses one that declares its encoding.
    parser = lxml.html.HTMLParser(encoding=UTF8)
    tree = lxml.html.document_fromstring(page.encode(errors="replace"), parser=parser)
    config = ParserConfig(css=CSS_PROFILES["strict"])
    lines = Inscriptis(tree, config).get_text().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _docx(stream: BinaryIO, name: str) -> str:
    import docx

    return "\n".join(_blocks(docx.Document(stream)))


def _blocks(place: object) -> Iterator[str]:
    """Yield the paragraphs of a Word document or of a cell, and the rows of tables."""
    for block in place.iter_inner_content():  # type: ignore[attr-defined]
        if hasattr(block, "rows"):
            for row in block.rows:
                yield "\t".join("\n".join(_blocks(cell)) for cell in row.cells)
        else:
            yield block.text


def _pdf(stream: BinaryIO, name: str) -> str:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # errors are raised, warnings are many
    file = pypdf.PdfReader(stream)
    if file.is_encrypted and not file.decrypt(""):
        raise Unreadable(name, "is locked by a password", "save it without one, or leave it out")
    text = "\n".join(page.extract_text() for page in file.pages)
    if not text.strip():
        raise Unreadable(name, "holds pictures of pages and no text", "recognise its text first")
    return text


def _epub(stream: BinaryIO, name: str) -> str:
    import lxml.etree

    # No entities: they could name files of this machine.
    parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True)
    with zipfile.ZipFile(stream) as book:

        def parsed(place: str) -> lxml.etree._Element:
            with book.open(place) as file:
                return lxml.etree.parse(file, parser).getroot()

        (package,) = parsed(CONTAINER).xpath("(//@full-path)[1]")
        contents = parsed(package)
        places = {item.get("id"): item.get("href") for item in contents.iter("{*}item")}
        folder = posixpath.dirname(package)
        chapters = []
        for item in contents.iter("{*}itemref"):
            place = posixpath.normpath(posixpath.join(folder, unquote(places[item.get("idref")])))
            page = io.BytesIO(book.read(place))
            chapters.append(_html(page, f"{name}:{place}"))
    return "\n\n".join(filter(None, (chapter.strip() for chapter in chapters)))


def _ipynb(stream: BinaryIO, name: str) -> str:
    """Return the cells of a notebook, without what their code printed."""
    text = Decoder(name).text(stream.read(MAX_DOCUMENT), final=True)
    book = record_from_json(text)[0]
    sheets = book.get("worksheets", [book])  # of the format 3
    cells = (cell for sheet in sheets for cell in sheet["cells"])
    sources = (cell.get("source", cell.get("input", "")) for cell in cells)
    texts = (source if isinstance(source, str) else "".join(source) for source in sources)
    return "\n\n".join(text.strip("\n") for text in texts if text.strip())


READERS = {"html": _html, "docx": _docx, "pdf": _pdf, "epub": _epub, "ipynb": _ipynb}
