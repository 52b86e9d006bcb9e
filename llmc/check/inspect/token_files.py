"""Token files: llm.c's two with a header, and headerless ones where a width is given."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from llmc.check.inspect.description import Description, byte_count, quoted
from llmc.check.inspect.manifests import Record, record_of
from llmc.check.inspect.reading import Asked, Reading, file_size, head_of
from llmc.check.inspect.statistics import MOST_IDS, TokenCounts
from llmc.errors import LlmcError
from llmc.tokens.files import (
    HEADER_BYTES,
    MAGIC16,
    MAGIC32,
    VERSION16,
    VERSION32,
)
from llmc.tokens.tokenizer import Tokenizer

FIRST_TOKENS = 64
FREQUENT = 12
SAMPLES, SAMPLE_BYTES = 64, 1 << 21
WIDTHS = {"uint16": 2, "int32": 4, "uint32": 4}
GPT2_EOT = 50256


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a file lie: ``count`` of ``width`` bytes, as far as they are there."""

    path: Path
    start: int
    width: int
    count: int

    @property
    def stop(self) -> int:
        """The first byte after the tokens."""
        return self.start + self.width * self.count


def describe_tokens(path: Path, asked: Asked) -> Description:
    """Describe a token file, with a header or, where ``asked.dtype`` says so, without.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "tokens", "token file")
    layout = with_header(made) if asked.dtype is None else _headerless(made, asked.dtype)
    if layout is None:
        return made
    record = record_of(path) if asked.dtype is None else None
    tokenizer = _tokenizer(made, asked, record)
    counts = TokenCounts(eot=tokenizer.eot if tokenizer is not None else None)
    sha256 = count_tokens(layout, counts, asked.reading)
    counts.close()
    _say_sha256(made, sha256, record, layout)
    say_first(made, layout, tokenizer)
    say_counts(made, counts, layout.count, tokenizer)
    if tokenizer is None and counts.largest == GPT2_EOT and not counts.beyond:
        width = f" --dtype {asked.dtype}" if asked.dtype is not None else ""
        made.hints.append(f"llmc inspect {shlex.quote(str(path))}{width} --tokenizer gpt2")
    return made


def with_header(made: Description) -> Layout | None:
    """Say what the header tells, and what is wrong with it; None: there are no tokens to read."""
    import numpy as np

    raw, size = head_of(made.path, HEADER_BYTES), file_size(made.path)
    made.say("bytes", size, byte_count(size))
    header = np.frombuffer(raw.ljust(HEADER_BYTES, b"\0"), "<u4")
    magic, version, count = (int(value) for value in header[:3])
    width, wanted = (2, VERSION16) if magic == MAGIC16 else (4, VERSION32)
    name = "uint16" if width == 2 else "uint32"
    made.title = f"token file, {name}, with llm.c's header"
    made.say("format", name, f"magic {magic}, version {version}: {name} after {HEADER_BYTES} bytes")
    made.note("magic", magic)
    made.note("version", version)
    made.note("width", width)
    if len(raw) < HEADER_BYTES:
        made.wrong(
            f"the header is cut short: {len(raw)} of its {HEADER_BYTES} bytes are there; "
            "make the file again with 'llmc tokenize'"
        )
        return None
    if version != wanted:
        made.wrong(
            f"its version is {version}, and of magic {magic if magic in (MAGIC16, MAGIC32) else 0} "
            f"only version {wanted} is known; make the file again with 'llmc tokenize'"
        )
    made.say("tokens", count)
    expected = HEADER_BYTES + count * width
    there = max(0, min(count, (size - HEADER_BYTES) // width))
    made.note("expected_bytes", expected)
    if size < expected:
        made.wrong(
            f"it is cut short: the header promises {count:,} tokens in {expected:,} bytes, and "
            f"{expected - size:,} bytes are missing; make the file again with 'llmc tokenize'"
        )
    elif size > expected:
        made.wrong(
            f"it is too long: the header promises {count:,} tokens in {expected:,} bytes, and "
            f"{size - expected:,} more follow; make the file again with 'llmc tokenize'"
        )
    else:
        made.say("size", "as the header says", "as the header says")
    if header[3:].any():
        first = 3 + int(np.flatnonzero(header[3:])[0])
        made.tell("header", f"int {first} is {int(header[first])}, not 0; readers ignore it")
    return Layout(made.path, HEADER_BYTES, width, there)


def _headerless(made: Description, dtype: str) -> Layout:
    size, width = file_size(made.path), WIDTHS[dtype]
    made.title = f"token file, {dtype}, without a header"
    made.say("bytes", size, byte_count(size))
    made.say("format", dtype, f"{dtype} from the first byte on, because --dtype says so")
    made.note("width", width)
    made.say("tokens", size // width)
    if size % width:
        made.wrong(
            f"its {size:,} bytes are no whole number of {dtype} tokens: it is cut short, "
            "or --dtype is wrong"
        )
    return Layout(made.path, 0, width, size // width)


def _tokenizer(made: Description, asked: Asked, record: Record | None) -> Tokenizer | None:
    """Return the tokenizer that was named, or the one that the manifest beside the file names."""
    if asked.tokenizer is not None:
        made.say("tokenizer", asked.tokenizer.name, f"{asked.tokenizer.name}, as --tokenizer says")
        return asked.tokenizer
    if record is None:
        made.say("tokenizer", None, "not known: no manifest beside it; --tokenizer names one")
        return None
    return record.load_tokenizer(made)


def count_tokens(layout: Layout, counts: TokenCounts, reading: Reading) -> str | None:
    """Count the tokens of a file; return its payload's SHA-256, None where only a sample was read.

    The stream stays open: the next file may go on with the last document.

    Raises:
        OSError: it cannot be read.
    """
    import numpy as np

    dtype = np.dtype("<u2" if layout.width == 2 else "<u4")
    size = layout.stop - layout.start
    if reading.whole(size):
        digest = hashlib.sha256()
        for data in reading.pieces(layout.path, layout.start, layout.stop):
            digest.update(data)
            counts.add(np.frombuffer(data[: len(data) // layout.width * layout.width], dtype))
        return digest.hexdigest()
    step = max(1, size // SAMPLES // layout.width) * layout.width
    stretch = min(SAMPLE_BYTES, max(layout.width, step // 2 // layout.width * layout.width))
    for start in range(layout.start, layout.stop, step):
        counts.skip()
        for data in reading.pieces(layout.path, start, min(start + stretch, layout.stop)):
            counts.add(np.frombuffer(data[: len(data) // layout.width * layout.width], dtype))
    counts.skip()
    return None


def _say_sha256(
    made: Description, sha256: str | None, record: Record | None, layout: Layout
) -> None:
    """Say the checksum of the payload, and whether it is the manifest's."""
    if sha256 is None:
        made.say("sha256", None, "not computed: the file is large; --full reads all of it")
        return
    if record is None:
        made.say("sha256", sha256)
        return
    split = record.entry
    made.note("manifest", str(record.path))
    if sha256 == split.sha256 and layout.count == split.tokens:
        made.say("sha256", sha256, f"{sha256[:16]}…, as {record.path.name} says")
        return
    made.say("sha256", sha256)
    if layout.count != split.tokens:
        made.wrong(
            f"{record.path} says that {layout.path.name} holds {split.tokens:,} tokens, and there "
            f"are {layout.count:,}: run 'llmc tokenize' again"
        )
    else:
        made.wrong(
            f"the checksum of {layout.path.name} is not the one in {record.path}: its tokens were "
            "changed, run 'llmc tokenize' again"
        )


def say_first(made: Description, layout: Layout, tokenizer: Tokenizer | None) -> None:
    """Show the first tokens, as text where the tokenizer is known."""
    import numpy as np

    data = next(
        Reading().pieces(layout.path, layout.start, layout.stop, FIRST_TOKENS * layout.width), b""
    )
    dtype = np.dtype("<u2" if layout.width == 2 else "<u4")
    ids = np.frombuffer(data[: len(data) // layout.width * layout.width], dtype).tolist()
    if not ids:
        return
    made.say("first_tokens", ids, " ".join(map(str, ids[:16])) + (" …" if len(ids) > 16 else ""))
    if tokenizer is not None:
        text = b"".join(token_bytes(tokenizer, token) or b"" for token in ids)
        made.say("first_text", text.decode(errors="replace"), quoted(text))


def say_counts(
    made: Description, counts: TokenCounts, total: int, tokenizer: Tokenizer | None
) -> None:
    """Say what the counts of ``total`` tokens tell: a sample of them, or all."""
    sample = counts.tokens < total
    about = ""
    if sample:
        about = f" (in a sample of {counts.tokens / total:.2%})"
        made.say(
            "looked_at",
            counts.tokens,
            f"{counts.tokens:,} of {total:,} tokens, in evenly spaced samples; --full counts all",
        )
    if not counts.tokens:
        return
    known = f" of {tokenizer.vocab_size:,}" if tokenizer is not None else ""
    made.say("distinct", counts.distinct, f"{counts.distinct:,}{known} ids are used{about}")
    if counts.beyond:
        made.say("largest", None, f"{MOST_IDS:,} or more, as no vocabulary has")
        made.wrong(
            f"{counts.beyond:,} tokens are {MOST_IDS:,} or more (or negative), which no vocabulary "
            "holds: the file is damaged, or --dtype is wrong"
        )
    else:
        made.say("largest", counts.largest)
    if tokenizer is not None and (outside := counts.above(tokenizer.vocab_size)):
        made.wrong(
            f"{outside:,} tokens lie outside the vocabulary of the tokenizer {tokenizer.name} "
            f"({tokenizer.vocab_size:,}): it is another one's file"
        )
    _say_documents(made, counts, tokenizer, about)
    rows, shown = [], []
    for token, times in counts.most_frequent(FREQUENT):
        text = token_bytes(tokenizer, token)
        share = times / counts.tokens
        rows.append((token, times, share, None if text is None else text.decode(errors="replace")))
        shown.append(
            (f"{token}", f"{times:,}", f"{share:.2%}", "" if text is None else quoted(text))
        )
    known_text = 4 if tokenizer is not None else 3
    columns = (">id", ">times", ">share", "text")[:known_text]
    made.table(
        "most frequent",
        columns,
        [row[:known_text] for row in rows],
        shown=[row[:known_text] for row in shown],
    )


def _say_documents(
    made: Description, counts: TokenCounts, tokenizer: Tokenizer | None, about: str
) -> None:
    lengths = counts.document_lengths()
    if tokenizer is None:
        made.say("documents", None, "not known without a tokenizer: its <|endoftext|> divides them")
    elif lengths is None:
        made.say("documents", 0, f"none{about}")
    else:
        made.say("documents", counts.documents, f"{counts.documents:,}{about}")
        parts = [
            f"{key} {value:,.{0 if value == int(value) else 1}f}" for key, value in lengths.items()
        ]
        made.say("document_lengths", lengths, f"{', '.join(parts)} tokens")


def token_bytes(tokenizer: Tokenizer | None, token: int) -> bytes | None:
    """Return the bytes of a token, None where there is no such one or no tokenizer."""
    if tokenizer is None or token >= tokenizer.vocab_size:
        return None
    try:
        return tokenizer.detokenize([token])
    except (LlmcError, KeyError):
        return None
