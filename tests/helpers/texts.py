"""The same documents in every form a text can come in."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.paths import Workspace
from llmc.text.source import AS_USUAL, Reading, Source, documents_of, open_source

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXTS = [
    "def f():\n    return 'é'\n",
    "日本語\r\n\r\nzwei\n\n\n",
    "# 🙂 " * 50 + "\n",
    "x = '<|endoftext|>'\n",
    "last, without an end of line",
]

# zstd finds damage where it keeps a checksum, as its command line does.
CHECKED: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: zstd.compress(data, options=CHECKED),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def documents(source: Source) -> list[str]:
    """Return the documents, of parts that went through pickle as to another process."""
    return list(documents_of(pickle.loads(pickle.dumps(source.parts))))


def opened(name: str | Path, reading: Reading = AS_USUAL) -> list[str]:
    return documents(open_source(Workspace(Path()), [str(name)], reading))


def tar_of(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w", format=form) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stored.getvalue()


def jsonl_of(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode()


def parquet_of(texts: list[str]) -> bytes:
    pa = pytest.importorskip("pyarrow")
    stored = io.BytesIO()
    table = pa.table({"id": range(len(texts)), "text": texts})
    pytest.importorskip("pyarrow.parquet").write_table(table, stored, row_group_size=2)
    return stored.getvalue()
