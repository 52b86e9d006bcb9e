from __future__ import annotations

import errno
import hashlib
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmc.errors import BadData
from llmc.tokens.files import (
    has_mask,
    payload_sha256,
    read_mask,
    read_tokens,
    write_tokens,
)
from llmc.tokens.masks import HEADER_BYTES, mask_path


@given(
    st.lists(st.lists(st.integers(0, 65535), max_size=50), max_size=5),
    st.sampled_from([65536, 65537]),
)
def test_what_is_written_is_read_back(chunks: list[list[int]], vocab_size: int) -> None:
    wanted = [token for chunk in chunks for token in chunk]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.bin"
        made = write_tokens(path, (np.array(c, dtype=np.uint32) for c in chunks), vocab_size)
        assert read_tokens(path).tolist() == wanted
        assert made.tokens == len(wanted)
        assert made.sha256 == payload_sha256(path)


@pytest.mark.parametrize(
    ("vocab_size", "code", "magic", "version"),
    [(65536, "H", 20240520, 1), (65537, "I", 20240801, 7)],
)
def test_the_bytes_are_llm_c_s(
    tmp_path: Path, vocab_size: int, code: str, magic: int, version: int
) -> None:
    path = tmp_path / "x.bin"
    made = write_tokens(path, [np.array([1, 513, 65535])], vocab_size)
    data = path.read_bytes()
    assert struct.unpack("<256i", data[:HEADER_BYTES]) == (magic, version, 3) + (0,) * 253
    assert data[HEADER_BYTES:] == struct.pack(f"<3{code}", 1, 513, 65535)
    assert made.sha256 == hashlib.sha256(data[HEADER_BYTES:]).hexdigest()


def test_the_largest_id_fits(tmp_path: Path) -> None:
    write_tokens(tmp_path / "x.bin", [np.array([100_000])], 100_001)
    assert read_tokens(tmp_path / "x.bin").tolist() == [100_000]


def test_reading_maps_the_file(tmp_path: Path) -> None:
    write_tokens(tmp_path / "x.bin", [np.arange(10)], 10)
    tokens = read_tokens(tmp_path / "x.bin")
    assert isinstance(tokens, np.memmap)
    assert not tokens.flags.writeable


@pytest.mark.parametrize("token", [-1, 10])
def test_a_token_outside_the_vocabulary_leaves_nothing(tmp_path: Path, token: int) -> None:
    with pytest.raises(BadData, match=f"token {token} lies outside the vocabulary of 10"):
        write_tokens(tmp_path / "x.bin", [np.array([0]), np.array([3, token])], 10)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_tokens(path, [np.array([7])], 10)

    def chunks() -> Iterator[NDArray[np.int64]]:
        yield np.array([1, 2, 3])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BadData, match=f"the disk is full: {path} was not written"):
        write_tokens(path, chunks(), 10)
    assert read_tokens(path).tolist() == [7]
    assert list(tmp_path.iterdir()) == [path]


def changed(position: int, value: int) -> Callable[[bytes], bytes]:
    """Return an edit of one int of the header."""
    start = 4 * position
    return lambda data: data[:start] + struct.pack("<I", value) + data[start + 4 :]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(lambda data: data[:-1], "cut short", id="one byte short"),
        pytest.param(lambda data: data + b"\0", "too long", id="one byte long"),
        pytest.param(lambda data: data[:HEADER_BYTES], "promises 3 tokens", id="no payload"),
        pytest.param(lambda data: data[:100], "cut short", id="half a header"),
        pytest.param(lambda data: b"", "is not a token file", id="empty"),
        pytest.param(changed(0, 20240326), "starts with 20240326", id="a model"),
        pytest.param(changed(1, 2), "version 2", id="another version"),
        pytest.param(changed(0, 20240801), "version 1", id="the other magic's version"),
        pytest.param(changed(3, 2), "is damaged: int 3", id="neither with a mask nor without"),
        pytest.param(changed(3, 1), "x.mask cannot be read", id="no mask"),
        pytest.param(changed(2, 4), "its header promises 4 tokens", id="wrong count"),
        pytest.param(changed(2, 2**32 - 1), "4,294,967,295 tokens", id="an enormous count"),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, edit: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "x.bin"
    write_tokens(path, [np.array([1, 2, 3])], 10)
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(BadData, match=message) as caught:
        read_tokens(path)
    assert str(path) in str(caught.value)
    assert "llmc tokenize" in str(caught.value)


@pytest.mark.parametrize("read", [read_tokens, payload_sha256])
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(BadData, match="No such file or directory; make it with"):
        read(tmp_path / "x.bin")


def masked(path: Path, *chunks: tuple[list[int], list[int]]) -> None:
    pairs = ((np.array(ids), np.array(mask, "u1")) for ids, mask in chunks)
    made = write_tokens(path, pairs, 10, masked=True)
    assert made.mask_sha256 == payload_sha256(mask_path(path))


def test_a_mask_is_written_beside_its_tokens(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    masked(path, ([1, 2], [6, 0]), ([], []), ([3], [1]))
    assert read_tokens(path).tolist() == [1, 2, 3]
    assert read_mask(path).tolist() == [6, 0, 1]
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "x.mask"]
    masked(tmp_path / "other", ([1, 2], [0, 1]))
    assert (tmp_path / "other.mask").exists()


def test_tokens_without_a_mask_have_none(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    made = write_tokens(path, [np.arange(3)], 10)
    assert made.mask_sha256 is None
    assert not has_mask(path)
    with pytest.raises(BadData, match="has no mask"):
        read_mask(path)


@pytest.mark.parametrize("mask", [[0], [0, 8], [[0, 1]]])
def test_a_wrong_mask_leaves_both_files_as_they_were(tmp_path: Path, mask: list[int]) -> None:
    path = tmp_path / "x.bin"
    masked(path, ([7], [3]))
    with pytest.raises(ValueError, match="a byte for each token"):
        masked(path, ([1], [0]), ([1, 2], mask))
    with pytest.raises(BadData, match="outside the vocabulary"):
        masked(path, ([1], [0]), ([10], [1]))
    assert (read_tokens(path).tolist(), read_mask(path).tolist()) == ([7], [3])
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "x.mask"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(lambda data: data[:-1], "is for 3 tokens and has 1,026 bytes", id="short"),
        pytest.param(lambda data: data + b"\0", "is for 3 tokens and has 1,028 bytes", id="long"),
        pytest.param(lambda data: data[:9], "has 9 bytes", id="half a header"),
        pytest.param(changed(0, 20240520), "begins with 20240520", id="no mask"),
        pytest.param(changed(1, 2), "20261128, 2", id="another version"),
        pytest.param(changed(2, 2), "is for 2 tokens", id="another count"),
        pytest.param(changed(3, 5), "checksum", id="another checksum"),
        pytest.param(lambda data: data[:-1] + b"\0", "checksum", id="changed"),
        pytest.param(
            lambda data: changed(3, zlib.crc32(b"\6\0\x09"))(data)[:-1] + b"\x09",
            "unknown bits",
            id="unknown bits",
        ),
    ],
)
def test_a_damaged_mask_is_refused(
    tmp_path: Path, edit: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "x.bin"
    masked(path, ([1, 2, 3], [6, 0, 1]))
    mask = mask_path(path)
    mask.write_bytes(edit(mask.read_bytes()))
    with pytest.raises(BadData, match=message) as caught:
        read_mask(path)
    assert str(path) in str(caught.value)
    assert str(mask) in str(caught.value)
