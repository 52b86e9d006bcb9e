"""llm.c's model checkpoint: the bytes of native/files/format.h, and every way to be refused."""

from __future__ import annotations

import errno
import struct
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmc.errors import BadData, ExitCode, LlmcError, MissingOutput
from llmc.model import ModelConfig, parameter_count, tensor_shapes
from llmc.weights import number_types
from llmc.weights.checkpoint import HEADER_BYTES as HEADER
from llmc.weights.checkpoint import (
    CheckpointHeader,
    CheckpointModel,
    read_checkpoint,
    read_header,
    write_checkpoint,
)
from llmc.weights.number_types import from_bf16, to_bf16

SMALL = ModelConfig(layers=2, heads=2, channels=8, context=16, vocab_size=130)  # Vp = 256
FINGERPRINT = bytes(range(32))

Floats = NDArray[np.float32]


def small_tensors() -> dict[str, Floats]:
    """A small model's tensors, wte with padding rows of zero."""
    generator = np.random.default_rng(7)
    tensors = {
        name: generator.standard_normal(shape, np.float32)
        for name, shape in tensor_shapes(SMALL).items()
    }
    tensors["wte"][SMALL.vocab_size :] = 0
    return tensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A version 3 checkpoint with llmc's extension."""
    path = tmp_path / "model.bin"
    write_checkpoint(
        path, SMALL, small_tensors().items(), tokenizer=FINGERPRINT, step=40, val_loss=3.25
    )
    return path


def patched(path: Path, ints: dict[int, int]) -> Path:
    """Overwrite int32s of a header."""
    raw = bytearray(path.read_bytes())
    for index, value in ints.items():
        struct.pack_into("<I", raw, 4 * index, value & 0xFFFFFFFF)
    path.write_bytes(raw)
    return path


def test_the_tensors_of_gpt2_lie_where_llm_c_has_them() -> None:
    offsets = {
        "wte": 1024, "wpe": 154534912, "ln1w": 157680640, "ln1b": 157717504,
        "qkvw": 157754368, "qkvb": 242689024, "attprojw": 242799616, "attprojb": 271111168,
        "ln2w": 271148032, "ln2b": 271184896, "fcw": 271221760, "fcb": 384467968,
        "fcprojw": 384615424, "fcprojb": 497861632, "lnfw": 497898496, "lnfb": 497901568,
    }  # fmt: skip
    at, found = HEADER, {}
    for name, shape in tensor_shapes(ModelConfig()).items():
        found[name] = at
        at += 4 * int(np.prod(shape))
    assert list(found.items()) == list(offsets.items())


@pytest.mark.parametrize(
    ("version", "size"), [(1, 497_760_256), (3, 497_904_640), (5, 248_952_832)]
)
def test_gpt2_has_the_published_size(version: int, size: int) -> None:
    assert CheckpointHeader(ModelConfig(), version).file_bytes == size
    assert parameter_count(ModelConfig()) == 124_439_808


def test_the_header_is_llm_cs_and_then_ours(model: Path) -> None:
    raw = model.read_bytes()
    ints = struct.unpack("<256I", raw[:HEADER])
    assert ints[:8] == (20240326, 3, 16, 130, 2, 2, 8, 256)
    assert raw[32:36] == b"LLMC"
    assert ints[9:13] == (2, zlib.crc32(raw[HEADER:]), 40, 3)
    assert struct.unpack("<f", raw[52:56]) == (3.25,)
    assert raw[56:88] == FINGERPRINT
    assert ints[22] == zlib.crc32(raw[:88] + bytes(4) + raw[92:HEADER])
    assert not any(raw[92:HEADER])
    assert raw[HEADER : HEADER + 4 * 8] == small_tensors()["wte"][0].tobytes()
    assert raw[-4 * 8 :] == small_tensors()["lnfb"].tobytes()


def test_what_is_unknown_is_not_made_up(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.bin", SMALL, small_tensors().items())
    header = read_header(tmp_path / "model.bin")
    assert (header.step, header.val_loss, header.tokenizer) == (0, None, None)


def test_fp32_comes_back_exactly(model: Path) -> None:
    header, tensors = read_checkpoint(model)
    assert (header.config, header.dtype, header.version) == (SMALL, "fp32", 3)
    assert (header.step, header.val_loss, header.tokenizer) == (40, 3.25, FINGERPRINT)
    assert list(tensors) == list(tensor_shapes(SMALL))
    for name, values in small_tensors().items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], values)


def test_the_padding_of_the_vocabulary_is_written_for_the_caller(
    model: Path, tmp_path: Path
) -> None:
    tensors = small_tensors()
    tensors["wte"] = tensors["wte"][: SMALL.vocab_size]
    for dtype in ("fp32", "bf16"):
        write_checkpoint(tmp_path / "a.bin", SMALL, tensors.items(), dtype=dtype)
        write_checkpoint(tmp_path / "b.bin", SMALL, small_tensors().items(), dtype=dtype)
        assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_bf16_is_half_as_long_and_rounded(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_checkpoint(path, SMALL, small_tensors().items(), dtype="bf16")
    header, tensors = read_checkpoint(path)
    assert (header.dtype, header.version) == ("bf16", 5)
    assert path.stat().st_size - HEADER == 2 * sum(v.size for v in small_tensors().values())
    for name, values in small_tensors().items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_allclose(tensors[name], values, rtol=2**-8)
        np.testing.assert_array_equal(tensors[name], from_bf16(to_bf16(values)))


def test_bf16_rounds_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(1)
    bits = np.concatenate(
        [
            generator.integers(0, 2**32, 200_000, np.uint32),
            np.arange(0x3F7F7F00, 0x3F818100, 0x80, dtype=np.uint32),  # ties, and a carry
            np.array([0, 0x80000000, 1, 0x7F800000, 0xFF800000, 0x7F7FFFFF], np.uint32),
        ]
    )
    values = bits.view(np.float32)
    theirs = torch.from_numpy(values).bfloat16()
    ours = to_bf16(values)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(
        ours[number], theirs.view(torch.int16).numpy().view(np.uint16)[number]
    )
    widened = from_bf16(ours)
    np.testing.assert_array_equal(np.isnan(widened), ~number)
    np.testing.assert_array_equal(widened[number], theirs.float().numpy()[number])


@pytest.mark.parametrize("bits", [0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0x7F80FFFF])
def test_a_nan_stays_a_nan(bits: int) -> None:
    assert np.isnan(from_bf16(to_bf16(np.array([bits], np.uint32).view(np.float32))))[0]


def test_a_file_of_llm_c_itself_loads(model: Path) -> None:
    raw = bytearray(model.read_bytes())
    raw[32:HEADER] = bytes(HEADER - 32)
    model.write_bytes(raw)
    header, tensors = read_checkpoint(model)
    assert (header.crc, header.tokenizer, header.val_loss) == (None, None, None)
    np.testing.assert_array_equal(tensors["lnfb"], small_tensors()["lnfb"])


def test_version_1_has_no_padding(tmp_path: Path) -> None:
    tensors = small_tensors()
    header = struct.pack("<8i", 20240326, 1, 16, 130, 2, 2, 8, 0).ljust(HEADER, b"\0")
    unpadded = [tensors["wte"][:130], *list(tensors.values())[1:]]
    path = tmp_path / "model.bin"
    path.write_bytes(header + b"".join(values.tobytes() for values in unpadded))
    found, read = read_checkpoint(path)
    assert (found.version, found.dtype, found.config) == (1, "fp32", SMALL)
    for name, values in tensors.items():
        np.testing.assert_array_equal(read[name], values)


DAMAGE = [
    ("cut short", lambda raw: raw[:-1]),
    ("cut short", lambda raw: raw[:HEADER]),
    ("cut short", lambda raw: raw[:500]),
    ("is not a model checkpoint", lambda raw: b""),
    ("is not a model checkpoint", lambda raw: b"\x01"),
    ("too long", lambda raw: raw + b"\0"),
    ("is not a model checkpoint", lambda raw: b"From fairest creatures we desire increase"),
    ("begins with GGUF", lambda raw: b"GGUF" + raw[4:]),
    ("checksum", lambda raw: raw[:2000] + bytes([raw[2000] ^ 1]) + raw[2001:]),
    ("checksum", lambda raw: raw[:-1] + bytes([raw[-1] ^ 128])),
    ("checksum", lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]),
]


@pytest.mark.parametrize(("reason", "damage"), DAMAGE)
def test_a_damaged_file_is_refused_in_one_sentence(
    model: Path, reason: str, damage: object
) -> None:
    assert callable(damage)
    model.write_bytes(damage(model.read_bytes()))
    with pytest.raises(BadData, match=reason) as caught:
        read_checkpoint(model)
    assert caught.value.exit_code == ExitCode.BAD_DATA
    assert str(model) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reason", "ints"),
    [
        ("holds tokens", {0: 20240520}),
        ("holds tokens", {0: 20240801}),
        ("of version 2", {1: 2}),
        ("of version -1", {1: -1}),
        ("context must be at least 1", {2: 0}),
        ("vocab_size must be at least 1", {3: -130}),
        ("layers must be at least 1", {4: -2}),
        ("heads must be at least 1", {5: 0}),
        ("3 heads do not divide", {5: 3}),
        ("channels must be at least 1", {6: 0}),
        ("padded to 256, not 130", {7: 130}),
        ("at most 16,777,216", {3: 2**31 - 1}),
        ("padded to 16777216, not", {3: 2**24}),
        ("cut short", {2: 2**24, 4: 2**12, 6: 2**20}),
        ("too long", {4: 1}),
        ("newer llmc", {9: 3}),
        ("its checksum is", {11: 41}),
        ("neither llm.c's nor llmc's", {8: 0}),
    ],
)
def test_a_header_that_cannot_be_is_refused(model: Path, reason: str, ints: dict[int, int]) -> None:
    with pytest.raises(BadData, match=reason) as caught:
        read_header(patched(model, ints))
    assert str(model) in str(caught.value)


@given(st.binary(max_size=200), st.integers(0, HEADER))
def test_no_header_whatsoever_does_worse_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.bin"
    good = struct.pack("<8i", 20240326, 3, 16, 130, 2, 2, 8, 256).ljust(HEADER, b"\0")
    path.write_bytes((good[:at] + junk + good[at + len(junk) :])[:HEADER])
    with pytest.raises(BadData):
        read_header(path)


def test_a_model_that_is_not_there_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingOutput, match="llmc export-weights"):
        read_header(tmp_path / "model.bin")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot read the model"):
        read_header(tmp_path)


def test_tensors_of_another_model_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    tensors = list(small_tensors().items())
    for wrong in (
        tensors[::-1],
        tensors[:-1],
        [*tensors, ("more", np.zeros(1, np.float32))],
        [(name, values[:1]) for name, values in tensors],
    ):
        with pytest.raises(ValueError, match=r"expected|end before"):
            write_checkpoint(path, SMALL, wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_and_keeps_what_was(model: Path) -> None:
    before = model.read_bytes()

    def until_full() -> Iterator[tuple[str, Floats]]:
        yield "wte", small_tensors()["wte"]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(LlmcError, match="disk is full") as caught:
        write_checkpoint(model, SMALL, until_full())
    assert caught.value.exit_code == ExitCode.BAD_DATA
    assert [path.name for path in model.parent.iterdir()] == ["model.bin"]
    assert model.read_bytes() == before


def test_a_checkpoint_that_a_run_replaces_meanwhile_stays_what_it_was(tmp_path: Path) -> None:
    """Else an export would mix the tensors of two steps."""
    path, newer = tmp_path / "model.bin", tmp_path / "newer.bin"
    write_checkpoint(path, SMALL, iter(small_tensors().items()), step=1)
    opened = CheckpointModel(path)
    write_checkpoint(newer, SMALL, ((n, t + 1) for n, t in small_tensors().items()), step=2)
    newer.replace(path)
    assert CheckpointModel(path).origin.step == 2
    assert opened.origin.step == 1
    for name, tensor in opened.tensors():  # and their checksum is that of their header
        expected = small_tensors()[name]
        np.testing.assert_array_equal(tensor, expected[: len(tensor)])


def test_one_tensor_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_types, "BLOCK_ELEMENTS", 100)
    made: list[weakref.ref[Floats]] = []

    def one(shape: tuple[int, ...]) -> Floats:
        assert not any(array() is not None for array in made)
        made.append(weakref.ref(array := np.ones(shape, np.float32)))
        return array

    shapes = tensor_shapes(SMALL).items()
    write_checkpoint(tmp_path / "model.bin", SMALL, ((name, one(shape)) for name, shape in shapes))
    assert len(made) == 16
    read_checkpoint(tmp_path / "model.bin")
