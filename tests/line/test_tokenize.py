from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.cli.context import Context
from llmc.errors import BadData, MissingOutput, Usage
from llmc.tokens.dataset import find_tokenized
from llmc.tokens.files import read_tokens
from llmc.tokens.manifest import Manifest, load_manifest, verify
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.tokenizing import tokenized
from tests.helpers.workspace import ok

EOT = 256


def text_of(manifest: Manifest) -> tuple[bytes, bytes]:
    """Return the bytes of both splits, validation first."""
    tokenizer = manifest.load_tokenizer()
    val, train = (
        read_tokens(manifest.folder / "val.bin"),
        read_tokens(manifest.folder / "train.bin"),
    )
    return tokenizer.detokenize(val.tolist()), tokenizer.detokenize(train.tolist())


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of twenty documents of nine characters each."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index in range(20):
        (folder / f"{index:02}.txt").write_text(f"document{chr(ord('a') + index)}")
    return folder


def test_tinyshakespeare_is_llm_c_s_to_the_bit(
    here: Context, llmc: Llmc, tinyshakespeare: Path, gpt2: Tokenizer
) -> None:
    assert gpt2.eot == 50256
    llmc("fetch", "tinyshakespeare", "--source", tinyshakespeare)
    done = llmc("tokenize", "tinyshakespeare", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["folder"] == "data/tinyshakespeare"
    manifest = load_manifest(llmc.workspace / "data" / "tinyshakespeare")
    verify(manifest)
    assert (manifest.train.tokens, manifest.val.tokens) == (305_260, 32_768)
    assert manifest.val.shards[0].sha256 == (
        "d5ad4a9d91976783859c221697e3e0488675d095f676fe3fedac339caa4c193a"
    )
    assert manifest.train.shards[0].sha256 == (
        "25f64f50080b1237d8d70e36d9ae43ca00855bbb7d5dcac6118c3cb75eeb7b2f"
    )
    assert manifest.text_bytes == 1_115_394


def test_documents_are_framed_and_split_between_them(here: Context, corpus: Path) -> None:
    manifest = tokenized(here.workspace, corpus)
    val, train = text_of(manifest)
    begin = b"<|endoftext|>document"
    names = [split.split(begin)[1:] for split in (val, train)]
    assert all(part == sorted(part) for part in names)
    assert sorted(names[0] + names[1]) == [b"%c" % (ord("a") + index) for index in range(20)]
    assert len(names[0]) == 2 and names[0] != [b"a", b"b"]
    assert val.startswith(begin) and train.startswith(begin)
    record = manifest.split
    assert record is not None
    assert (record.rule, record.seed, record.documents, record.runs) == ("sample", 1337, 2, 0)
    assert read_tokens(manifest.train_path)[0] == EOT
    assert manifest.folder == here.workspace.data / "corpus"
    assert (manifest.dataset, manifest.text_bytes) == ("corpus", 180)
    assert sorted(path.name for path in manifest.folder.iterdir()) == [
        "manifest.json",
        "train.bin",
        "val.bin",
    ]


def test_val_tokens_are_whole_documents_or_none(here: Context, corpus: Path) -> None:
    manifest = tokenized(here.workspace, corpus, val_tokens=13)
    assert (manifest.val.tokens, manifest.train.tokens) == (10, 190)
    manifest = tokenized(here.workspace, corpus, val_tokens=0)
    assert (manifest.val.tokens, manifest.train.tokens) == (0, 200)
    assert manifest.val_path is None and not (manifest.folder / "val.bin").exists()
    assert manifest.split is not None and manifest.split.rule == "none"


@pytest.mark.parametrize(
    ("fraction", "documents"), [(0.05, 1), (0.07, 1), (0.08, 2), (0.5, 10), (0.93, 19)]
)
def test_val_fraction_goes_to_the_nearest_document(
    here: Context, corpus: Path, fraction: float, documents: int
) -> None:
    assert tokenized(here.workspace, corpus, val_fraction=fraction).val.tokens == 10 * documents


def test_one_document_is_cut_where_the_fraction_falls(here: Context, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("0123456789" * 10)
    manifest = tokenized(here.workspace, tmp_path / "one.txt", val_fraction=0.25)
    assert (manifest.val.tokens, manifest.train.tokens) == (25, 76)
    val, train = text_of(manifest)
    assert val in b"0123456789" * 10 and train.startswith(b"<|endoftext|>0")


@pytest.mark.parametrize("slices", [1, 7, 1 << 20])
def test_copying_in_slices_changes_nothing(
    here: Context, corpus: Path, monkeypatch: pytest.MonkeyPatch, slices: int
) -> None:
    whole = tokenized(here.workspace, corpus)
    monkeypatch.setattr("llmc.tokens.divide.SLICE", slices)
    monkeypatch.setattr("llmc.tokens.split.SLICE", slices)
    assert tokenized(here.workspace, corpus) == whole
    payload = read_tokens(whole.train_path).tobytes()
    assert whole.train.shards[0].sha256 == hashlib.sha256(payload).hexdigest()


def test_the_default_tokenizer_is_gpt2(here: Context, corpus: Path, gpt2: Tokenizer) -> None:
    manifest = tokenized(here.workspace, corpus, tokenizer=None)
    assert manifest.tokenizer.name == "gpt2"
    assert manifest.tokenizer.fingerprint == gpt2.fingerprint
    assert manifest.tokenizer.file is None


def test_a_trained_tokenizer_travels_with_the_data(here: Context, corpus: Path) -> None:
    manifest = tokenized(here.workspace, corpus, tokenizer="bpe:262")
    record = manifest.tokenizer
    assert (record.name, record.vocab_size, record.eot) == ("bpe", 262, 261)
    assert record.file == "tokenizer.tiktoken"
    assert b"".join(text_of(manifest)).count(b"<|endoftext|>") == 20
    tokens = manifest.load_tokenizer().tokens()
    assert sorted(tokens[256:], key=len) == sorted(tokens[256:], key=tokens.index)
    other = tokenized(
        here.workspace,
        corpus,
        tokenizer=str(manifest.folder / "tokenizer.tiktoken"),
        out=here.workspace.data / "other",
    )
    assert other.tokenizer == record
    assert other.train == manifest.train
    assert (other.folder / "tokenizer.tiktoken").is_file()


def test_a_larger_vocabulary_than_uint16_is_written_as_uint32(
    here: Context, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmc.tokens.files.UINT16_VOCAB", 256)
    manifest = tokenized(here.workspace, corpus)
    assert read_tokens(manifest.train_path).dtype == np.uint32


def test_another_tokenizer_leaves_no_file_of_the_last(here: Context, corpus: Path) -> None:
    tokenized(here.workspace, corpus, tokenizer="bpe:262")
    manifest = tokenized(here.workspace, corpus, tokenizer="byte", force=True)
    assert not (manifest.folder / "tokenizer.tiktoken").exists()


def test_tinystories_keeps_its_own_validation_text(here: Context) -> None:
    folder = here.workspace.data / "tinystories"
    folder.mkdir(parents=True)
    (folder / "TinyStoriesV2-GPT4-train.txt").write_text("\nOne.\n<|endoftext|>\nTwo.\n")
    (folder / "TinyStoriesV2-GPT4-valid.txt").write_text("Three.\n<|endoftext|>\n")
    manifest = tokenized(here.workspace, "tinystories")
    assert text_of(manifest) == (b"<|endoftext|>Three.", b"<|endoftext|>One.<|endoftext|>Two.")
    assert (manifest.text_bytes, len(manifest.source)) == (14, 2)
    with pytest.raises(Usage, match="validation text of its own"):
        tokenized(here.workspace, "tinystories", val_tokens=5)


def test_endoftext_written_in_a_document_is_text(here: Context, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a<|endoftext|>b" * 4)
    manifest = tokenized(here.workspace, tmp_path / "x.txt")
    ids = np.concatenate(
        [read_tokens(manifest.folder / "val.bin"), read_tokens(manifest.folder / "train.bin")]
    )
    assert np.count_nonzero(ids == EOT) == 1


@pytest.mark.parametrize(
    ("text", "val_tokens"), [("", None), ("0123456789", 10), ("0123456789", 5000)]
)
def test_too_little_text_is_refused_and_leaves_nothing(
    here: Context, tmp_path: Path, text: str, val_tokens: int | None
) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(BadData, match="'x' is too little text"):
        tokenized(here.workspace, tmp_path / "x.txt", val_tokens=val_tokens)
    assert not (here.workspace.data / "x").exists()


def test_a_failure_keeps_the_dataset_that_was_there(here: Context, corpus: Path) -> None:
    before = tokenized(here.workspace, corpus)
    with pytest.raises(BadData):
        tokenized(here.workspace, corpus, val_tokens=500)
    assert load_manifest(before.folder) == before
    verify(before)
    assert len(list(before.folder.iterdir())) == 3


def test_a_full_disk_leaves_no_manifest_that_lies(
    here: Context, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tokenized(here.workspace, corpus).folder

    def full(*_args: object) -> None:
        raise BadData("the disk is full")

    monkeypatch.setattr("llmc.tokens.shards.save_tokenizer", full)
    with pytest.raises(BadData, match="the disk is full"):
        tokenized(here.workspace, corpus, tokenizer="bpe:262", force=True)
    with pytest.raises(MissingOutput):
        load_manifest(folder)


def test_out_that_is_a_file_is_refused(here: Context, corpus: Path) -> None:
    with pytest.raises(BadData, match=r"cannot write the dataset .*00\.txt"):
        tokenized(here.workspace, corpus, out=corpus / "00.txt")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"val_tokens": 5, "val_fraction": 0.5}, "exclude each other"),
        ({"val_tokens": 1}, "--val-tokens must be 0"),
        ({"val_fraction": 0.0}, "--val-fraction must lie between 0 and 1"),
        ({"val_fraction": 1.0}, "--val-fraction must lie between 0 and 1"),
        ({"val_fraction": float("nan")}, "--val-fraction must lie between 0 and 1"),
        ({"tokenizer": "bpe:12"}, "258"),
        ({"tokenizer": "gpt3"}, "no tokenizer 'gpt3'"),
    ],
)
def test_flags_that_make_no_sense_are_usage_errors(
    here: Context, corpus: Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(Usage, match=message):
        tokenized(here.workspace, corpus, **flags)
    assert not here.workspace.data.exists()


def test_a_wrong_flag_ends_in_one_sentence(llmc: Llmc, corpus: Path) -> None:
    error = assert_one_sentence(llmc("tokenize", corpus, "--val-fraction", "2"), 2)
    assert "--val-fraction must lie between 0 and 1, not be 2" in error


def test_what_was_not_fetched_names_the_command(llmc: Llmc) -> None:
    error = assert_one_sentence(llmc("tokenize", "tinyshakespeare"), 3)
    assert "run 'llmc fetch tinyshakespeare' first" in error


def test_the_command_says_what_it_chose(llmc: Llmc, corpus: Path, gpt2: Tokenizer) -> None:
    assert gpt2.name == "gpt2"
    done = llmc("tokenize", corpus)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "tokenizer: gpt2 (the default" in done.stderr
    assert "validation: a sample of documents, 10% of the tokens" in done.stderr
    assert "next: llmc prepare data/corpus --model random:" in done.stderr  # there is no model
    quiet = llmc("tokenize", corpus, "--quiet", "--json")
    assert quiet.stderr == ""
    assert json.loads(quiet.stdout)["dataset"] == "corpus"


def test_work_that_is_done_is_recognized(here: Context, corpus: Path) -> None:
    inputs = [str(corpus)]

    def done(tokenizer: str) -> Path | None:
        made = find_tokenized(here.workspace, inputs, TokenizeOptions(tokenizer=tokenizer))
        return made.folder if made is not None else None

    assert done("byte") is None
    manifest = tokenized(here.workspace, corpus)
    assert done("byte") == manifest.folder
    assert done("bpe:262") is None
    tokenized(here.workspace, corpus, tokenizer="bpe:262", force=True)
    assert done("bpe:262") == manifest.folder
    assert done("bpe:261") is None
    assert done("byte") is None
    (corpus / "00.txt").write_text("documentA")
    assert done("bpe:262") is None
    manifest = tokenized(here.workspace, corpus, force=True)
    assert done("byte") == manifest.folder
    flip = manifest.folder / "val.bin"
    flip.write_bytes(flip.read_bytes()[:-1])
    assert done("byte") is None


def test_stdlib_needs_no_fetching(here: Context) -> None:
    manifest = tokenized(here.workspace, "stdlib")
    share = manifest.val.tokens / (manifest.val.tokens + manifest.train.tokens)
    assert 0.05 < share < 0.15
    assert b"def __init__(self" in text_of(manifest)[0]


def test_the_byte_tokenizer_is_its_own_record(here: Context, corpus: Path) -> None:
    assert tokenized(here.workspace, corpus).load_tokenizer().fingerprint == (
        load_tokenizer("byte").fingerprint
    )


def test_what_is_left_out_is_listed_and_recorded(llmc: Llmc) -> None:
    folder = llmc.workspace / "notes"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"some text\r\n" * 20)
    for index in range(12):
        (folder / f"{index:02}.png").write_bytes(b"\x89PNG\0")
    said = ok(llmc("tokenize", "notes", "--tokenizer", "byte")).stderr
    assert "left out 12 files:\n  notes/00.png is not UTF-8 text (it is an image)\n" in said
    assert "  notes/09.png" in said
    assert "  notes/10.png" not in said
    assert "  and 2 more, which manifest.json lists\n" in said
    assert said.count("--newlines keep") == 1
    left_out = load_manifest(llmc.workspace / "data" / "notes").left_out
    assert [each["file"] for each in left_out] == [f"notes/{index:02}.png" for index in range(12)]
    assert_one_sentence(llmc("tokenize", "notes/00.png", "--tokenizer", "byte"), 1)


@pytest.mark.parametrize(
    "flags", [("--field", "a"), ("--include", "*"), ("--encoding", "auto"), ("--newlines", "keep")]
)
def test_options_for_text_are_refused_with_token_files(llmc: Llmc, flags: tuple[str, str]) -> None:
    ids = np.arange(200, dtype=np.uint16) % 256
    (llmc.workspace / "x.bin").write_bytes(ids.tobytes())
    done = llmc("tokenize", "x.bin", "--dtype", "uint16", "--tokenizer", "byte", *flags)
    assert done.returncode == 2
    assert flags[0] in done.stderr


@pytest.mark.parametrize(
    ("separator", "occurs"),
    [("paragraph", False), ("blank-line", False), ("end", True), ("line", True), ("file", True)],
)
def test_a_separator_that_occurs_nowhere_is_said(
    llmc: Llmc, separator: str, *, occurs: bool
) -> None:
    """A word for a unit that llmc does not know is a separator like any other."""
    (llmc.workspace / "one.txt").write_text("a text and its end")
    (llmc.workspace / "two.txt").write_text("another text, " * 9)
    words = ("--documents", separator, "--tokenizer", "byte", "--out", "data/apart")
    said = ok(llmc("tokenize", "one.txt", "two.txt", *words)).stderr
    assert (f"'{separator}' (--documents) occurs nowhere" in said) != occurs


def test_the_fitting_tokenizer_follows_the_size_of_the_text_not_of_its_file(
    here: Context, llmc: Llmc, tmp_path: Path
) -> None:
    source = Path(json.__file__).with_name("decoder.py").read_text() * 4
    large, small = source[:45_000], source[:9_000]
    (tmp_path / "large.txt").write_text(large)
    (tmp_path / "large.txt.gz").write_bytes(gzip.compress(large.encode()))
    padded = [{"text": line, "from": "x" * 200} for line in small.splitlines()]
    (tmp_path / "small.jsonl").write_text("\n".join(map(json.dumps, padded)))
    assert (
        (tmp_path / "large.txt.gz").stat().st_size
        < 20_000
        < (tmp_path / "small.jsonl").stat().st_size
    )
    sizes = {"large.txt": 512, "large.txt.gz": 512, "small.jsonl": 257}
    for name, size in sizes.items():
        out = tmp_path / "made" / name
        ok(llmc("tokenize", tmp_path / name, "--tokenizer", "auto", "--out", out, "--quiet"))
        assert load_manifest(out).tokenizer.vocab_size == size, name
