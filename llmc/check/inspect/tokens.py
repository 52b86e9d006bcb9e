"""Token files: llm.c's two with a header, and files without one whose type is given."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from llmc.check.inspect.description import Description, quoted
from llmc.check.inspect.manifests import ManifestEntry, manifest_entry, say_recorded
from llmc.check.inspect.reading import Asked, ReadBudget
from llmc.check.inspect.statistics import MOST_IDS, TokenCounts
from llmc.errors import LlmcError
from llmc.tokens.files import (
    HEADER_BYTES,
    MAGIC16,
    MAGIC32,
    TokenLayout,
    scan_headerless,
    scan_tokens,
)
from llmc.tokens.tokenizer import Tokenizer

FIRST_TOKENS = 64
FREQUENT = 12
SAMPLES, SAMPLE_BYTES = 64, 1 << 21
GPT2_EOT = 50256


def describe_tokens(path: Path, asked: Asked) -> Description:
    """Describe a token file, with a header, or without one if ``asked.dtype`` is given.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "tokens", "token file")
    layout = say_layout(made) if asked.dtype is None else _say_headerless(made, asked.dtype)
    if layout is None:
        return made
    record = manifest_entry(path) if asked.dtype is None else None
    tokenizer = _tokenizer(made, asked, record)
    counts = TokenCounts(eot=tokenizer.eot if tokenizer is not None else None)
    sha256 = count_tokens(path, layout, counts, asked.reading)
    counts.close()
    _say_sha256(made, sha256, record, layout)
    say_first(made, path, layout, tokenizer)
    say_counts(made, counts, layout.there, tokenizer)
    if tokenizer is None and counts.largest == GPT2_EOT and not counts.beyond:
        width = f" --dtype {asked.dtype}" if asked.dtype is not None else ""
        made.hints.append(f"llmc inspect {shlex.quote(str(path))}{width} --tokenizer gpt2")
    return made


def say_layout(made: Description) -> TokenLayout | None:
    """Add the header of a token file and its problems; return None without a whole header."""
    size = made.say_bytes()
    layout, problems = scan_tokens(made.path)
    made.problems += problems
    if layout is None:
        return None
    magic = MAGIC16 if layout.width == 2 else MAGIC32
    made.title = f"token file, {layout.dtype}, with llm.c's header"
    shown = f"magic {magic}, version {layout.version}: {layout.dtype} after {HEADER_BYTES} bytes"
    made.say("format", layout.dtype, shown)
    made.note("magic", magic)
    made.note("version", layout.version)
    made.note("width", layout.width)
    made.say("tokens", layout.count)
    expected = layout.start + layout.count * layout.width
    made.note("expected_bytes", expected)
    if size == expected:
        made.say("size", "as the header says")
    return layout


def _say_headerless(made: Description, dtype: str) -> TokenLayout:
    layout, problems = scan_headerless(made.path, dtype)
    made.problems += problems
    made.title = f"token file, {dtype}, without a header"
    made.say_bytes()
    made.say("format", dtype, f"{dtype} from the first byte on, because --dtype says so")
    made.note("width", layout.width)
    made.say("tokens", layout.count)
    return layout


def _tokenizer(made: Description, asked: Asked, record: ManifestEntry | None) -> Tokenizer | None:
    """Return the tokenizer of ``--tokenizer``, or the one in the manifest beside the file."""
    if asked.tokenizer is not None:
        made.say("tokenizer", asked.tokenizer.name, f"{asked.tokenizer.name}, as --tokenizer says")
        return asked.tokenizer
    if record is None:
        made.say("tokenizer", None, "not known: no manifest beside it; --tokenizer names one")
        return None
    return say_recorded(made, record.path.parent, record.fields)


def count_tokens(
    path: Path, layout: TokenLayout, counts: TokenCounts, reading: ReadBudget
) -> str | None:
    """Count the tokens of a file; return its payload's SHA-256, or None for a sample.

    The stream stays open: the next file may continue the last document.

    Raises:
        OSError: it cannot be read.
    """
    import numpy as np

    dtype = np.dtype("<u2" if layout.width == 2 else "<u4")
    size = layout.there * layout.width
    stop = layout.start + size
    if reading.whole(size):
        digest = hashlib.sha256()
        for data in reading.pieces(path, layout.start, stop):
            digest.update(data)
            counts.add(np.frombuffer(data[: len(data) // layout.width * layout.width], dtype))
        return digest.hexdigest()
    step = max(1, size // SAMPLES // layout.width) * layout.width
    stretch = min(SAMPLE_BYTES, max(layout.width, step // 2 // layout.width * layout.width))
    for start in range(layout.start, stop, step):
        counts.skip()
        for data in reading.pieces(path, start, min(start + stretch, stop)):
            counts.add(np.frombuffer(data[: len(data) // layout.width * layout.width], dtype))
    counts.skip()
    return None


def _say_sha256(
    made: Description, sha256: str | None, record: ManifestEntry | None, layout: TokenLayout
) -> None:
    """Add the checksum of the payload, and compare it with the manifest's."""
    if sha256 is None:
        made.say("sha256", None, "not computed: the file is large; --full reads all of it")
        return
    if record is None:
        made.say("sha256", sha256)
        return
    made.note("manifest", str(record.path))
    same = sha256 == record.shard.sha256 and layout.there == record.shard.tokens
    made.say("sha256", sha256, f"{sha256[:16]}…, as {record.path.name} says" if same else None)
    if layout.there != record.shard.tokens:
        made.wrong(
            f"{record.path} says that {made.path.name} holds {record.shard.tokens:,} tokens, and "
            f"there are {layout.there:,}: run 'llmc tokenize' again"
        )
    elif not same:
        made.wrong(
            f"the checksum of {made.path.name} is not the one in {record.path}: its tokens were "
            "changed, run 'llmc tokenize' again"
        )


def say_first(
    made: Description, path: Path, layout: TokenLayout, tokenizer: Tokenizer | None
) -> None:
    """Add the first tokens, as text if the tokenizer is known."""
    import numpy as np

    stop = layout.start + min(layout.there, FIRST_TOKENS) * layout.width
    data = next(ReadBudget().pieces(path, layout.start, stop, stop - layout.start), b"")
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
    """Add statistics of ``total`` tokens, counted from a sample or from all."""
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
        made.say("documents", None, "not known without a tokenizer: <|endoftext|> separates them")
    elif lengths is None:
        made.say("documents", 0, f"none{about}")
    else:
        made.say("documents", counts.documents, f"{counts.documents:,}{about}")
        parts = [
            f"{key} {value:,.{0 if value == int(value) else 1}f}" for key, value in lengths.items()
        ]
        made.say("document_lengths", lengths, f"{', '.join(parts)} tokens")


def token_bytes(tokenizer: Tokenizer | None, token: int) -> bytes | None:
    """Return the bytes of a token; None for an unknown token or without a tokenizer."""
    if tokenizer is None or token >= tokenizer.vocab_size:
        return None
    try:
        return tokenizer.detokenize([token])
    except (LlmcError, KeyError):
        return None
