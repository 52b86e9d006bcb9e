"""Archives for the tests, and what became of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from llmc.errors import BadData
from llmc.fetch.compression import ZSTD
from llmc.fetch.unpack import LIMITS, unpack


def zstd(data: bytes) -> bytes:
    return bytes(import_module(ZSTD).compress(data))


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tarred(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def found(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refuse(path: Path, data: bytes, why: str, **limits: int) -> None:
    """Hold that an archive is refused for a reason, and that nothing is left."""
    path.write_bytes(data)
    folder = path.parent / "folder"
    with pytest.raises(BadData, match=why) as caught:
        unpack(path, folder, limits=replace(LIMITS, **limits))
    assert "nothing was unpacked" in str(caught.value)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
