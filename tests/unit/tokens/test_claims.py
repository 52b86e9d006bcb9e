"""Tokenizers whose files claim ids that no table has room for."""

from __future__ import annotations

import base64
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest

from llmc.errors import LlmcError
from llmc.tokens.byte_level import Vocabulary
from llmc.tokens.tokenizer import load_tokenizer
from llmc.tokens.tokenizer_json import table_of
from llmc.tokens.vocabulary import check_ids, single_bytes

HUGE = (2**21, 2**24, 2**31 - 1, 2**32, 2**63, 10**19)
BYTES = single_bytes()


@pytest.mark.parametrize("largest", HUGE)
def test_ids_need_tokens(largest: int) -> None:
    with pytest.raises(ValueError, match="too large"):
        check_ids([*range(256), largest])
    for wrong in (-1, 1.5, "1", None, True):
        with pytest.raises(ValueError, match="whole numbers"):
            check_ids([wrong])  # type: ignore[list-item]
    check_ids([*range(256), 1_000_000])


def hugging_face(largest: int) -> dict[str, Any]:
    table = table_of(Vocabulary((*BYTES, b"<|endoftext|>"), (256,), ()))
    table["added_tokens"][0]["id"] = largest
    return table


@pytest.mark.parametrize("largest", HUGE)
def test_no_tokenizer_file_may_claim_an_id_beyond(largest: int, tmp_path: Path) -> None:
    lines = [f"{base64.b64encode(token).decode()} {i}" for i, token in enumerate(BYTES)]
    files = {
        "a.tiktoken": "\n".join([*lines, f"YWI= {largest}", ""]).encode(),
        "meta.pkl": pickle.dumps({"stoi": {"a": 0, "b": largest}}),
        "tokenizer.json": json.dumps(hugging_face(largest)).encode(),
        "held.json": json.dumps(
            {"llmc_tokenizer": 1, "kind": "characters", "eot": 0, "ends": False}
            | {"characters": {"a": 0, "b": largest}}
        ).encode(),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(LlmcError, match=str(path)):
            load_tokenizer(str(path), pattern="gpt2" if name == "a.tiktoken" else None)


def test_a_record_s_special_tokens_are_ids_with_tokens(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 2**31}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(LlmcError, match=r"vocab\.json"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "data",
    [
        b"r" + struct.pack("<I", 2**31 - 1),  # a memo of 2^31 places
        b"\x8d" + struct.pack("<Q", 2**40),
        b"\x8e" + struct.pack("<Q", 2**33),
        b"\x96" + struct.pack("<Q", 2**33),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"(" * 100_000,
    ],
)
def test_a_pickle_s_lengths_are_compared_with_it(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(b"\x80\x04}" + data + b".")
    with pytest.raises(LlmcError, match=str(path)):
        load_tokenizer(str(path))
