"""Datasets of conversations: their tokens, their mask, their split, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.errors import BadData, Usage
from llmc.paths import Workspace
from llmc.text.conversations import Message
from llmc.text.source import Reading
from llmc.tokens.dataset import find_tokenized, tokenize
from llmc.tokens.files import read_mask, read_tokens
from llmc.tokens.manifest import Manifest, load_manifest, verify
from llmc.tokens.masks import CONVERSATION, COUNTS
from llmc.tokens.options import TokenizeOptions
from tests.helpers.tokenizing import tokenized

TABLES = ("csv", "tsv")
TALKS = [(f"What is {n} + {n}?", f"It is {2 * n}, said {'slowly ' * (n % 7)}.") for n in range(80)]


def messages(talk: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), talk, strict=True)
    ]


def write(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def made(tmp_path: Path, records: list[Any], **options: Any) -> Manifest:
    text = write(tmp_path / "talk.jsonl", records)
    return tokenized(Workspace(tmp_path), text, **options)


def conversations(manifest: Manifest, split: str) -> list[tuple[list[int], list[int]]]:
    """Return the ids and marks of every conversation of a split."""
    ids, marks = (
        np.concatenate([read(file.path) for file in manifest.token_files(split)])
        for read in (read_tokens, read_mask)
    )
    starts = [*np.flatnonzero(marks & CONVERSATION), len(ids)]
    return [(ids[a:b].tolist(), marks[a:b].tolist()) for a, b in pairwise(starts)]


@pytest.mark.parametrize("template", ["chatml", "plain"])
@pytest.mark.parametrize("shard_tokens", [100_000, 700])
def test_the_splits_hold_every_conversation_whole(
    tmp_path: Path, template: str, shard_tokens: int
) -> None:
    records = [{"messages": messages(talk)} for talk in TALKS]
    manifest = made(tmp_path, records, template=template, shard_tokens=shard_tokens)
    assert load_manifest(manifest.folder) == manifest
    written = json.loads((manifest.folder / "manifest.json").read_text())
    assert written["tokenizer"]["template"] == template
    assert all(len(shard["mask_sha256"]) == 64 for shard in written["train"] + written["val"])
    tokenizer = manifest.load_tokenizer()
    assert tokenizer.template is not None and tokenizer.template.name == template
    found = [each for split in ("train", "val") for each in conversations(manifest, split)]
    wanted = [
        tokenizer.template.marked_ids(
            tokenizer, [Message("user", asked, counts=False), Message("assistant", answer)]
        )
        for asked, answer in TALKS
    ]
    assert sorted(found) == sorted((ids, [*marks]) for ids, marks in wanted)
    assert manifest.val.tokens > 0
    assert manifest.text_bytes == sum(len(a) + len(b) + 1 for a, b in TALKS)


def test_no_conversation_is_cut_for_validation(tmp_path: Path) -> None:
    few = [{"messages": messages(talk)} for talk in TALKS[:3]]
    manifest = made(tmp_path, few)
    assert len(conversations(manifest, "train")) == 3 and not manifest.val.shards
    long = [{"messages": messages((asked * 900, answer))} for asked, answer in TALKS[:1]]
    manifest = made(tmp_path, [*few * 20, *long], force=True)
    found = [each for split in ("train", "val") for each in conversations(manifest, split)]
    assert len(found) == 61 and 0 < manifest.val.tokens < manifest.train.tokens / 9
    assert all(marks.count(0) > 4 and marks[0] & CONVERSATION for _, marks in found)
    assert len(conversations(manifest, "train")) > 50


def test_records_of_every_kind_give_the_same_tokens(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    forms: list[list[dict[str, Any]]] = [
        [{"messages": messages(talk)} for talk in TALKS],
        [{"prompt": asked, "completion": answer} for asked, answer in TALKS],
        [{"instruction": a, "input": "", "output": b} for a, b in TALKS],
        [
            {"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]}
            for a, b in TALKS
        ],
    ]
    hashes = set()
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "Question", "Answer"), *((0, *t) for t in TALKS)])
    with (tmp_path / "table.tsv").open("w", newline="") as file:
        rows = [("messages",), *((json.dumps(messages(talk)),) for talk in TALKS)]
        csv.writer(file, delimiter="\t").writerows(rows)
    lines = write(tmp_path / "lines.txt", forms[0])
    for text, kind in ((lines, "record"), *((str(tmp_path / f"table.{e}"), None) for e in TABLES)):
        options = TokenizeOptions(tokenizer="byte", reading=Reading(documents=kind))
        manifest = tokenize(Workspace(tmp_path), [text], replace(options, force=True)).manifest
        hashes.add((manifest.train.shards[0].sha256, manifest.train.shards[0].mask_sha256))
    for number, records in enumerate(forms):
        pq.write_table(pa.Table.from_pylist(records), tmp_path / f"{number}.parquet")
        (tmp_path / f"{number}.json").write_text(json.dumps(records))
        lines = write(tmp_path / f"{number}.jsonl", records)
        for text in (lines, *(str(tmp_path / f"{number}.{end}") for end in ("parquet", "json"))):
            options = TokenizeOptions(tokenizer="byte", force=True)
            manifest = tokenize(Workspace(tmp_path), [text], options).manifest
            hashes.add((manifest.train.shards[0].sha256, manifest.train.shards[0].mask_sha256))
    assert len(hashes) == 1


def test_a_trained_vocabulary_has_the_tokens_of_the_template(tmp_path: Path) -> None:
    records = [{"messages": messages(talk)} for talk in TALKS]
    manifest = made(tmp_path, records, tokenizer="bpe:300")
    tokenizer = manifest.load_tokenizer()
    assert manifest.tokenizer.vocab_size == tokenizer.vocab_size == 300
    assert [*tokenizer.special_tokens] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert len(tokenizer.encode("assistant\n")) < 4
    with pytest.raises(Usage, match="bpe:260 or more"):
        made(tmp_path, records, tokenizer="bpe:259", force=True)


def test_the_same_conversations_are_found_again(tmp_path: Path) -> None:
    records = [{"messages": messages(talk)} for talk in TALKS]
    manifest = made(tmp_path, records)
    text, workspace = str(tmp_path / "talk.jsonl"), Workspace(tmp_path)
    for options, found in (
        (TokenizeOptions(tokenizer="byte"), manifest),
        (TokenizeOptions(tokenizer="byte", template="chatml"), manifest),
        (TokenizeOptions(tokenizer="byte", template="plain"), None),
        (TokenizeOptions(tokenizer="bpe:300"), None),
    ):
        assert find_tokenized(workspace, [text], options) == found
    with pytest.raises(Usage, match="--force"):
        made(tmp_path, records, template="plain")


def test_text_beside_conversations_counts_everywhere(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    write(folder / "a.jsonl", [{"messages": messages(talk)} for talk in TALKS])
    (folder / "b.txt").write_text("User: this is text\n" * 20)
    options = TokenizeOptions(tokenizer="byte", val_tokens=0)
    manifest = tokenize(Workspace(tmp_path), [str(folder)], options).manifest
    *_, (ids, marks) = conversations(manifest, "train")
    assert ids[1:] == list(b"User: this is text\n" * 20)
    assert marks[0] == CONVERSATION and set(marks[1:]) == {COUNTS}


def test_one_file_of_conversations_among_many_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(150):
        write(folder / f"{number:03}.jsonl", [{"text": "a text"}])
    write(folder / "077-talk.jsonl", [{"messages": messages(talk)} for talk in TALKS])
    options = TokenizeOptions(tokenizer="byte")
    manifest = tokenize(Workspace(tmp_path), [str(folder)], options).manifest
    assert manifest.tokenizer.template == "chatml"


def test_a_field_makes_text_of_conversations(tmp_path: Path) -> None:
    records = [{"messages": messages(talk)} for talk in TALKS]
    manifest = made(tmp_path, records, reading=Reading(field="messages"))
    assert manifest.train.shards[0].mask_sha256 is None and manifest.tokenizer.template is None


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    talk = {"messages": messages(TALKS[0])}
    broken = {"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}
    with pytest.raises(BadData, match=r"talk\.jsonl, line 2: messages\[0\] has no text"):
        made(tmp_path, [talk, broken])
    with pytest.raises(BadData, match=r"talk\.jsonl: it holds conversations after other text"):
        made(tmp_path, [{"text": "a text"}, talk])
    (tmp_path / "broken.csv").write_text("prompt,messages\n,x\n")
    with pytest.raises(BadData, match=r"broken\.csv, line 2: 'messages' should be"):
        tokenize(Workspace(tmp_path), [str(tmp_path / "broken.csv")], TokenizeOptions())
    with pytest.raises(Usage, match="--template is for conversations"):
        made(tmp_path, [{"text": "a text"}] * 40, template="chatml")
    with pytest.raises(Usage, match="no chat template 'llama'"):
        made(tmp_path, [talk], template="llama")
    with pytest.raises(Usage, match="--allow-special"):
        made(tmp_path, [talk], special=True)


def test_a_changed_mask_is_noticed(tmp_path: Path) -> None:
    manifest = made(tmp_path, [{"messages": messages(talk)} for talk in TALKS])
    mask = manifest.folder / "train.mask"
    mask.write_bytes(mask.read_bytes()[:-1] + b"\1")
    with pytest.raises(BadData, match=r"train\.mask"):
        verify(manifest)


def test_token_files_of_conversations_need_their_dataset(tmp_path: Path) -> None:
    manifest = made(tmp_path, [{"messages": messages(talk)} for talk in TALKS])
    with pytest.raises(Usage, match="conversations"):
        tokenize(Workspace(tmp_path), [str(manifest.folder / "train.bin")], TokenizeOptions())
