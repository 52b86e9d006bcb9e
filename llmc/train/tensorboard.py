"""TensorBoard's event files: records of protocol buffers, each with checksums.

A record (TensorFlow's ``record_writer.h``) is the length of its data as uint64, the length's masked
CRC-32C as uint32, the data, the data's masked CRC-32C; all little-endian. The data is an ``Event``
(``event.proto``, ``summary.proto``), of which these fields are written:

    Event    1 wall_time double · 2 step int64 · 3 file_version string · 5 summary Summary
    Summary  1 value Value, repeated
    Value    1 tag string · 2 simple_value float
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from llmc.paths import written_whole

VERSION = b"brain.Event:2"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field's value is laid out


def write_events(
    path: Path, events: Iterable[tuple[float, int, Mapping[str, float]]], began: float
) -> None:
    """Write an event file, whole or not at all.

    Args:
        path: the file; its name must contain ``tfevents``.
        events: wall time in seconds since 1970, step, numbers by tag.
        began: the wall time of the file's first record, which names its version.

    Raises:
        BadData: the disk is full or the place cannot be written.
    """
    with written_whole(path) as partial, partial.open("wb") as file:
        file.write(_record(_double(1, began) + _bytes(3, VERSION)))
        for wall_time, step, numbers in events:
            values = b"".join(
                _bytes(1, _bytes(1, tag.encode()) + _key(2, FIXED32) + struct.pack("<f", number))
                for tag, number in numbers.items()
            )
            file.write(
                _record(_double(1, wall_time) + _key(2, VARINT) + _varint(step) + _bytes(5, values))
            )


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    """Return a CRC-32C as records hold it: turned, and moved by a constant."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _table() -> list[int]:
    rows = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        rows.append(crc)
    return rows


TABLE = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli's polynomial, RFC 3720) of ``data``."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _key(field: int, layout: int) -> bytes:
    return _varint(field << 3 | layout)


def _double(field: int, value: float) -> bytes:
    return _key(field, FIXED64) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, BYTES) + _varint(len(value)) + value
