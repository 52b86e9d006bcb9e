"""Tokenizers as other programs' files hold them, against their own libraries and files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Theirs

from llmc.errors import BadData, MissingOutput
from llmc.text.documents import ENDOFTEXT
from llmc.tokens.bpe import train_bpe
from llmc.tokens.byte_level import Vocabulary, merges_of, spelled, unspelled
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_bin import TokenTable, read_tokenizer_bin, write_tokenizer_bin
from llmc.tokens.tokenizer_json import Unheld, read_folder, write_tokenizer_json
from llmc.tokens.vocabulary import gpt2_file
from tests.conftest import Llmc
from tests.helpers.workspace import ok

SAMPLE = "for i in range(10):\n    print('größer', i)\n\n日本語 🙂 naïve\n" * 30


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    tokens = tokenizer.tokens()
    return Vocabulary((*tokens, ENDOFTEXT.encode()), (tokenizer.eot,), merges_of(tokens))


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe([SAMPLE], 300)


def test_gpt2s_merges_are_the_published_ones(gpt2: Tokenizer, tmp_path: Path) -> None:
    published = gpt2_file("vocab.bpe").decode().strip().splitlines()[1:]
    assert list(merges_of(gpt2.tokens())) == published
    write_tokenizer_json(tmp_path, vocabulary(gpt2), 1024)
    assert json.loads((tmp_path / "vocab.json").read_text()) == json.loads(
        gpt2_file("encoder.json")
    )
    written = (tmp_path / "merges.txt").read_text().splitlines()
    assert written[0].startswith("#version")
    assert written[1:] == published


def test_learnt_merges_are_those_that_were_learnt(tmp_path: Path) -> None:
    from tokenizers import models, pre_tokenizers, trainers

    trained = Theirs(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        [SAMPLE],
        trainers.BpeTrainer(vocab_size=299, show_progress=False, initial_alphabet=alphabet),
    )
    merges = json.loads(trained.to_str())["model"]["merges"]
    assert list(merges_of(train_bpe([SAMPLE], 300).tokens())) == [" ".join(m) for m in merges]


@given(st.binary(max_size=40))
def test_spelling_loses_no_byte(token: bytes) -> None:
    assert unspelled(spelled(token)) == token
    assert len(spelled(token)) == len(token)
    assert not any(c.isspace() for c in spelled(token))


def test_a_token_that_nothing_makes_is_refused() -> None:
    letters = [bytes([byte]) for byte in range(256)]
    assert merges_of([*letters, b"ab", b"abc"]) == ("a b", "ab c")
    with pytest.raises(BadData, match=r"token 257 \(b'xyz'\) is not a merge of two others"):
        merges_of([*letters, b"ab", b"xyz"])
    with pytest.raises(BadData, match="not spelled as GPT-2's"):
        unspelled("日")


@pytest.mark.parametrize("name", ["bpe", "byte"])
def test_what_is_written_is_read(name: str, tmp_path: Path, bpe: Tokenizer) -> None:
    ours = bpe if name == "bpe" else load_tokenizer(name)
    write_tokenizer_json(tmp_path, vocabulary(ours), 64)
    assert read_folder(tmp_path) == ours
    library = Theirs.from_file(str(tmp_path / "tokenizer.json"))
    text = "print('größer 日本語') 🙂" + SAMPLE
    assert library.encode(text).ids == ours.encode(text)
    assert library.decode(library.encode(text).ids) == text
    (tmp_path / "tokenizer.json").unlink()
    assert read_folder(tmp_path) == ours
    (tmp_path / "vocab.json").unlink()
    assert read_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", {"type": "Metaspace"}),
        ("pre_tokenizer", None),
        ("model", {"type": "WordPiece", "vocab": {}}),
        ("model", {"type": "Unigram", "vocab": [["a", 0.0]]}),
    ],
)
def test_a_tokenizer_that_cannot_be_held_has_a_reason_and_a_fingerprint(
    key: str, value: object, tmp_path: Path, bpe: Tokenizer
) -> None:
    write_tokenizer_json(tmp_path, vocabulary(bpe), 64)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    found = read_folder(tmp_path)
    assert isinstance(found, Unheld)
    assert found.reason
    assert len(bytes.fromhex(found.fingerprint)) == 32
    assert found.fingerprint != bpe.fingerprint
    with pytest.raises(BadData, match="cannot hold"):
        load_tokenizer(str(path))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.model", b"\n\x0e\n\x05<unk>"),
        ("spiece.model", b"\n\x0e\n\x05<unk>"),
        ("vocab.txt", b"[PAD]\n[UNK]\nhello\n"),
        ("tekken.json", b'{"config": {}, "vocab": []}'),
    ],
)
def test_a_file_of_another_tokenizer_that_is_named_is_called_that(
    name: str, data: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadData, match=f"cannot hold .*{name}: .*sentencepiece, WordPiece"):
        load_tokenizer(str(tmp_path / name))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 3}', '{"model": {"vocab": {"a": 0}}}'])
def test_a_broken_tokenizer_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    cut = '"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "model"'
    (tmp_path / "tokenizer.json").write_text(text.replace('"model"', cut))
    with pytest.raises(BadData, match="cannot read the tokenizer"):
        read_folder(tmp_path)


def test_tokenizer_bin_there_and_back(tmp_path: Path, bpe: Tokenizer) -> None:
    path = tmp_path / "tokenizer.bin"
    tokens = vocabulary(bpe).tokens
    write_tokenizer_bin(path, tokens, bpe.eot)
    assert read_tokenizer_bin(path) == TokenTable(tokens, bpe.eot, len(tokens), 2)
    assert b"\0" in tokens
    whole = path.read_bytes()
    for keep in (0, 10, 1023, 1024, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(BadData):
            read_tokenizer_bin(path)
    for broken in (
        whole + b"\0",
        b"x" + whole[1:],
        struct.pack("<4i", 20240328, 2, 300, 300) + whole[16:],
    ):
        path.write_bytes(broken)
        with pytest.raises(BadData):
            read_tokenizer_bin(path)
    with pytest.raises(MissingOutput):
        read_tokenizer_bin(tmp_path / "none")


def test_tokenizer_bin_holds_no_long_token(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.bin"
    write_tokenizer_bin(path, [b"a" * 255, b"end"], 1)
    assert read_tokenizer_bin(path).tokens[0] == b"a" * 255
    with pytest.raises(BadData, match="token 1 has 256 bytes"):
        write_tokenizer_bin(path, [b"a", b"a" * 256], 1)
    with pytest.raises(BadData, match="token 0 has 0 bytes"):
        write_tokenizer_bin(path, [b"", b"a"], 1)


def test_a_tokenizer_that_came_with_weights_is_found_again(llmc: Llmc) -> None:
    """From a run to Hugging Face's folder, to another workspace, where its text can be read."""
    import shutil

    (llmc.workspace / "text.txt").write_text(SAMPLE)
    shape = ["--layers", "1", "--heads", "1", "--channels", "16", "--context", "8"]
    ok(llmc("tokenize", "text.txt", "--tokenizer", "bpe:300"))
    spec = "data/text/tokenizer.tiktoken"
    flags = [*shape, "--vocab-size", "300", "--tokenizer", spec]
    ok(llmc("export-weights", "random", *flags, "--to", "hf", "--out", "poet"))
    shutil.rmtree(llmc.workspace / "data")
    ok(llmc("export-weights", "poet"))
    done = ok(llmc("sample", "--model", "models/poet.bin", "--decode", "--tokens", "5"))
    assert "models/poet.tiktoken" in {
        str(path.relative_to(llmc.workspace)) for path in llmc.workspace.glob("models/*")
    }
    assert done.stdout
