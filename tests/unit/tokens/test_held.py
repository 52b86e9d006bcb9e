from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

import llmc.tokens.tokenizer as under_test
from llmc.errors import BadData
from llmc.tokens.encode import batches, cuts_of, exact_encoder
from llmc.tokens.recorded import (
    HELD_FILE,
    file_of,
    load_recorded,
    record_tokenizer,
    recorded_tokenizer,
    save_tokenizer,
)
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_json import Unheld, read_folder

TEXT = "\n".join(path.read_text() for path in Path(under_test.__file__).parent.glob("t*.py"))
SAMPLES = [
    "",
    " ",
    "plain words and  two  spaces",
    "naïve café — 東京 🙂",
    "tabs\t\nnewlines\n\n\n  x = 12345",
    "<|endoftext|> is text, </s> too, and [PAD]",
]
Make = Callable[[], Library]


def trained(first: list[str], alphabet: list[str] | None = None, prefix: bool = False) -> Library:
    """Return a BPE of 400 tokens that Hugging Face's library trained."""
    made = Library(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet is None else alphabet
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=first, initial_alphabet=letters, show_progress=False
    )
    made.train_from_iterator(TEXT.split("\n"), trainer)
    return made


def end_first() -> Library:
    return trained(["<|endoftext|>"])


def specials_first() -> Library:
    return trained(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])


def prefix_space() -> Library:
    return trained(["</s>"], prefix=True)


def added_tokens() -> Library:
    made = trained([])
    made.add_special_tokens([AddedToken("<|endoftext|>"), AddedToken("[PAD]")])
    made.add_tokens(["newlines", AddedToken("two", single_word=True), " = 12"])
    return made


def few_bytes() -> Library:
    return trained(["<|endoftext|>"], alphabet=[])


def other_pattern() -> Library:
    made = trained(["<|endoftext|>"])
    pattern = Regex(r"\p{L}+|\p{N}{1,2}|\s+|[^\s\p{L}\p{N}]+")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def id_gaps() -> Library:
    table = json.loads(trained(["<|endoftext|>"]).to_str())
    vocabulary = table["model"]["vocab"]
    table["model"]["vocab"] = {name: token + 7 * (token > 50) for name, token in vocabulary.items()}
    return Library.from_str(json.dumps(table))


def ids_in_any_order() -> Library:
    table = json.loads(trained(["<|endoftext|>"]).to_str())
    vocabulary = table["model"]["vocab"]
    last = max(vocabulary.values())
    table["model"]["vocab"] = {name: last - token for name, token in vocabulary.items()}
    table["added_tokens"][0]["id"] = last
    return Library.from_str(json.dumps(table))


KINDS = [
    end_first,
    specials_first,
    prefix_space,
    added_tokens,
    few_bytes,
    other_pattern,
    id_gaps,
    ids_in_any_order,
]


def held(folder: Path, library: Library) -> Tokenizer:
    library.save(str(folder / "tokenizer.json"))
    return load_tokenizer(str(folder))


@pytest.mark.parametrize("make", KINDS)
def test_every_id_is_the_library_s(make: Make, tmp_path: Path) -> None:
    library = make()
    ours = held(tmp_path, library)
    assert ours.name == "huggingface"
    for text in [*SAMPLES, TEXT]:
        theirs = library.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special=True) == theirs
        library.encode_special_tokens = True
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids
        library.encode_special_tokens = False
        decoded = ours.detokenize(theirs).decode(errors="replace")
        assert decoded == library.decode(theirs, skip_special_tokens=False)


@pytest.mark.parametrize("make", KINDS)
def test_documents_are_encoded_whole_however_they_are_cut(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmc.tokens.encode.BATCH_CHARACTERS", 20_000)
    ours = held(tmp_path, make())
    long = " ".join([TEXT] * 3)
    encode = exact_encoder(ours)
    made = [encode(batch).ids for batch in batches([long, "second"], cuts_of(ours))]
    assert len(made) > 1 or cuts_of(ours) is None
    wanted = [ours.eot, *ours.encode(long), ours.eot, *ours.encode("second")]
    np.testing.assert_array_equal(np.concatenate(made), wanted)


@pytest.mark.parametrize("make", KINDS)
def test_it_is_kept_and_found_again(make: Make, tmp_path: Path) -> None:
    ours = held(tmp_path, make())
    run = tmp_path / "run"
    run.mkdir()
    record_tokenizer(ours, run)
    assert file_of(ours) == HELD_FILE
    assert recorded_tokenizer(run) == load_tokenizer(str(run)) == ours
    assert load_recorded(run, ours.name, ours.fingerprint, HELD_FILE) == ours
    save_tokenizer(ours, tmp_path / "model.tokenizer.json")
    assert load_tokenizer(str(tmp_path / "model.tokenizer.json")) == ours


def test_the_end_is_the_one_that_the_folder_names(tmp_path: Path) -> None:
    library = specials_first()
    assert held(tmp_path, library).eot == 2  # </s>, by its name
    (tmp_path / "config.json").write_text('{"eos_token_id": 0}')
    assert held(tmp_path, library).eot == 0
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<mask>"}}')
    found = held(tmp_path, library)
    assert (found.eot, found.ends) == (4, True)


def test_without_an_end_the_newline_separates_and_nothing_ends(tmp_path: Path) -> None:
    found = held(tmp_path, trained([]))
    assert not found.ends
    assert found.detokenize([found.eot]) == b"\n"


def test_ids_without_token_are_ranges(tmp_path: Path) -> None:
    found = held(tmp_path, id_gaps())
    assert found.ids_without_token(407) == "51-57"
    assert found.ids_without_token(412) == "51-57,407-411"
    assert found.detokenize([52, 406]) == found.detokenize([406])


def test_bytes_that_the_alphabet_lacks_are_counted(tmp_path: Path) -> None:
    from llmc.tokens.encode import HeldEncoder

    found = held(tmp_path, few_bytes())
    encode = HeldEncoder(found, special=False)
    encode([(True, "def"), (True, "é" * 10)])
    assert encode.lost_bytes == 20


@pytest.mark.parametrize("make", [end_first, specials_first])
def test_the_older_files_are_the_same_tokenizer(make: Make, tmp_path: Path) -> None:
    library = make()
    ours = held(tmp_path, library)
    table = json.loads(library.to_str())
    pair = tmp_path / "older"
    pair.mkdir()
    (pair / "vocab.json").write_text(json.dumps(table["model"]["vocab"]))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in table["model"]["merges"])]
    (pair / "merges.txt").write_text("\n".join(lines) + "\n")
    specs = [pair, pair / "vocab.json", pair / "merges.txt", f"{pair}/vocab.json+{pair}/merges.txt"]
    for spec in specs:
        assert load_tokenizer(str(spec)) == ours
    (pair / "merges.txt").unlink()
    with pytest.raises(BadData, match=r"merges\.txt beside it"):
        load_tokenizer(str(pair / "vocab.json"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.model", b"\x0a\x0eunknown"),
        ("vocab.txt", b"[PAD]\n[CLS]\nword\n"),
        ("vocab.json", b'{"a": 0}'),
    ],
)
def test_files_of_other_tokenizers_leave_a_fingerprint(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    found = read_folder(tmp_path)
    assert isinstance(found, Unheld)
    assert name in found.reason
    (tmp_path / name).write_bytes(content + b" ")
    again = read_folder(tmp_path)
    assert isinstance(again, Unheld)
    assert again.fingerprint != found.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"llmc_tokenizer": 2},
        {"kind": "words"},
        {"tokenizer": {}},
        {"tokenizer": None},
        {"kind": "characters"},
        {"kind": "characters", "characters": {"ab": 0}},
    ],
)
def test_a_damaged_document_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.tokenizer.json"
    save_tokenizer(held(tmp_path, end_first()), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadData):
        load_tokenizer(str(path))
