"""Train a byte-level BPE on a text of any size, in bounded memory; Ctrl-C ends it at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain

from llmc.errors import BadData
from llmc.parsing import from_json
from llmc.report import SILENT, Report
from llmc.text.utf8 import well_formed
from llmc.tokens import bpe_child
from llmc.tokens.byte_level import unspelled
from llmc.tokens.encode import CUT_ANYWHERE, pieces
from llmc.tokens.tokenizer import Tokenizer, plain_tokenizer
from llmc.tokens.vocabulary import ranks_of, single_bytes

# The library takes about 40 bytes for each byte of a piece, and some pieces at a time.
PIECE_CHARACTERS = 1 << 16
# A longer run of letters, digits or other characters, such as DNA, is cut: the library's time grows
# with the square of its length.
LONGEST_WORD = 1 << 12
SMALL = 1 << 20  # so many characters take less time than starting a process

# The bytes of text from which on a vocabulary of so many tokens is the best.
VOCABULARIES = ((20_000, 512), (400_000, 1024), (1_000_000, 2048), (5_000_000, 4096))
MOST_BYTES = VOCABULARIES[-1][0]  # more make no difference


def tokenizer_for(text_bytes: int | None) -> str:
    """Return the tokenizer for a model that is trained from scratch on a text of so many bytes.

    A larger vocabulary makes fewer tokens of the text, but each of them is seen less often. The
    sizes are measured: ``docs/guide/dial.md``. None: the bytes are not known.
    """
    if text_bytes is None:
        return f"bpe:{VOCABULARIES[-1][1]}"
    fitting = [size for least, size in VOCABULARIES if text_bytes >= least]
    return f"bpe:{fitting[-1]}" if fitting else "byte"


def bytes_of(texts: Iterable[str | tuple[bool, str]]) -> int:
    """Return the bytes of texts for :func:`tokenizer_for`, of a long text so many as matter."""
    total = 0
    for each in texts:
        text = each if isinstance(each, str) else each[1]
        total += len(well_formed(text).encode())
        if total >= MOST_BYTES:
            break
    return total


def train_bpe(
    texts: Iterable[str | tuple[bool, str]],
    vocab_size: int,
    *,
    or_fewer: bool = False,
    total: int | None = None,
    report: Report = SILENT,
) -> Tokenizer:
    """Train a byte-level BPE of ``vocab_size`` tokens in all; the same text gives the same one.

    Ids 0 to 255 are the bytes, then come the merges in the order in which they were learnt, then
    ``<|endoftext|>``.

    ``texts`` are documents, or their pieces, each with whether it begins a document; ``total`` is
    their size in bytes, for progress. With ``or_fewer``, a text that is too uniform for so many
    tokens gives as many as it yields.

    Raises:
        BadData: the text is too small or too uniform for so many tokens, without ``or_fewer``.
    """
    stream = _words(texts)
    first: list[str] = []
    size = 0
    while size <= SMALL and (piece := next(stream, None)) is not None:
        first.append(piece)
        size += len(piece)
    if size <= SMALL:
        learnt = bpe_child.learn(first, vocab_size - 1)
    else:
        learnt = _learn_in_child(chain(first, stream), vocab_size - 1, total, report)
    tokens = single_bytes() + [token for token in map(unspelled, learnt) if len(token) > 1]
    if len(tokens) < vocab_size - 1 and not or_fewer:
        raise BadData(
            f"the text yields a vocabulary of {len(tokens) + 1}, not {vocab_size}: "
            f"choose a smaller one (--tokenizer bpe:{max(258, len(tokens) + 1)}, or byte), "
            "or add text"
        )
    return plain_tokenizer("bpe", ranks_of(tokens))


def _words(texts: Iterable[str | tuple[bool, str]]) -> Iterator[str]:
    """Yield the text in pieces between which the split pattern cuts it anyway."""
    for _, piece in pieces(texts, CUT_ANYWHERE, PIECE_CHARACTERS):
        for part in _cut_words(piece):
            yield well_formed(part)


def _cut_words(piece: str) -> Iterator[str]:
    """Yield a text in parts without a run of more than ``LONGEST_WORD`` characters of one kind."""
    start = 0
    if max(map(len, piece.split()), default=0) > LONGEST_WORD:  # else there is nothing to look for
        kinds = (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)")
        runs = "|".join(rf"(?<!{kind}){kind}{{{LONGEST_WORD + 1},}}" for kind in kinds)
        for run in re.finditer(runs, piece):
            for at in range(run.start() + LONGEST_WORD, run.end(), LONGEST_WORD):
                yield piece[start:at]
                start = at
    yield piece[start:]


def _learn_in_child(
    texts: Iterable[str], count: int, total: int | None, report: Report
) -> list[str]:
    """Return what :func:`bpe_child.learn` returns; any exception here ends the child process."""
    command = [sys.executable, "-P", bpe_child.__file__, str(count)]
    last = b""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        try:
            with report.bar("reading the text", total) as advance:
                for text in texts:
                    data = text.encode()
                    child.stdin.write(len(data).to_bytes(bpe_child.LENGTH_BYTES, "big") + data)
                    advance(len(data))
                child.stdin.write(bytes(bpe_child.LENGTH_BYTES))
                child.stdin.close()
            with report.bar("training the tokenizer", count, "tokens") as advance:
                done = 0
                for last in child.stdout:
                    if last.startswith(b'{"stage":"Compute merges"'):
                        step = from_json(last)["current"] - done
                        done += step
                        advance(step)
        except BrokenPipeError:
            last = child.stdout.read()
        finally:
            child.kill()
            with suppress(OSError):
                child.stdin.close()  # what it holds has no reader any more
    if last.startswith(b'{"tokens"'):
        tokens: list[str] = from_json(last)["tokens"]
        return tokens
    reason = last.decode(errors="replace").strip().rpartition("\n")[2]
    raise BadData(
        f"training the tokenizer failed ({reason or f'signal {-child.returncode}'}): "
        "train on less text, or choose a smaller vocabulary"
    )
