"""Token files, with llm.c's header or without one, and the folders of datasets."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from llmc.check.inspect.description import Description, quoted, safe_text
from llmc.check.inspect.masks import MaskCounts
from llmc.check.inspect.reading import NOT_READ, Options, kind_of, read_bytes, read_json
from llmc.check.inspect.statistics import MOST_IDS, TokenCounts
from llmc.errors import LlmcError
from llmc.tokens.files import MAGIC16, MAGIC32, TokenLayout, scan_tokens
from llmc.tokens.manifest import FILENAME, SPLITS, Shard, scan_manifest
from llmc.tokens.masks import HEADER_BYTES
from llmc.tokens.prepared import FILENAME as PREPARED
from llmc.tokens.recorded import load_recorded
from llmc.tokens.tokenizer import Tokenizer

FIRST_TOKENS = 64
FREQUENT = 12
SAMPLES, SAMPLE_BYTES = 64, 1 << 21
GPT2_EOT = 50256


def say_tokens(made: Description, layout: TokenLayout | None, options: Options) -> None:
    """Add what a token file holds, and compare it with the manifest beside it."""
    if layout is None:
        return
    path = made.path
    _say_layout(made, layout)
    record, shard = (None, None) if options.dtype is not None else _manifest_entry(path)
    if options.tokenizer is None and record is None:
        tokenizer = None
        made.say("tokenizer", None, "not known: no manifest beside it; --tokenizer names one")
    else:
        tokenizer = _say_tokenizer(made, path.parent, record or {}, options)
    counts = TokenCounts(eot=tokenizer.eot if tokenizer is not None else None)
    sha256 = _count(path, layout, counts, options)
    counts.close()
    if sha256 is None:
        made.say("sha256", None, f"not computed: {NOT_READ}")
    elif shard is None:
        made.say("sha256", sha256)
    else:
        made.note(manifest=str(path.parent / FILENAME))
        difference = _difference(path, layout, sha256, shard)
        made.say("sha256", sha256, None if difference else f"{sha256[:16]}…, as {FILENAME} says")
        made.problems += [difference] if difference else []
    _say_first(made, path, layout, tokenizer)
    _say_counts(made, counts, layout.there, tokenizer)
    if not made.problems:
        masks = MaskCounts()
        masks.take(made, path, layout, shard, options)
        masks.say(made)
    if tokenizer is None and counts.largest == GPT2_EOT and not counts.beyond:
        width = f" --dtype {options.dtype}" if options.dtype is not None else ""
        made.hints.append(f"llmc inspect {shlex.quote(str(path))}{width} --tokenizer gpt2")


def _say_layout(made: Description, layout: TokenLayout) -> None:
    dtype = layout.dtype
    made.note(width=layout.width)
    if not layout.start:
        made.title = f"token file, {dtype}, without a header"
        made.say("format", dtype, f"{dtype} from the first byte on, because --dtype says so")
        made.say("tokens", layout.count)
        return
    magic = MAGIC16 if layout.width == 2 else MAGIC32
    expected = layout.start + layout.count * layout.width
    made.title = f"token file, {dtype}, with llm.c's header"
    shown = f"magic {magic}, version {layout.version}: {dtype} after {HEADER_BYTES} bytes"
    made.say("format", dtype, shown)
    made.note(magic=magic, version=layout.version, expected_bytes=expected)
    made.say("tokens", layout.count)
    if made.known("bytes") == expected:
        made.say("size", "as the header says")


def _manifest_entry(path: Path) -> tuple[Mapping[str, Any] | None, Shard | None]:
    """Return the manifest beside a token file, and its entry in it; None if there is none."""
    with suppress(OSError):
        fields, _ = scan_manifest(path.parent / FILENAME)
        for entry in (*fields.get("train", ()), *fields.get("val", ())):
            if entry["file"] == path.name:
                return fields, Shard(**entry)
    return None, None


def _say_tokenizer(
    made: Description, folder: Path, fields: Mapping[str, Any], options: Options
) -> Tokenizer | None:
    """Add the tokenizer that the options name or a manifest records, and return it."""
    if options.tokenizer is not None:
        name = options.tokenizer.name
        made.say("tokenizer", name, f"{name}, as --tokenizer says")
        return options.tokenizer
    return say_recorded(made, folder, fields.get("tokenizer"))


def say_recorded(made: Description, folder: Path, record: object) -> Tokenizer | None:
    """Add the tokenizer that a manifest or a run records, and return it."""
    name, fingerprint, file, template = (
        record.get(key) if isinstance(record, dict) else None
        for key in ("name", "fingerprint", "file", "template")
    )
    if not isinstance(name, str) or not isinstance(fingerprint, str):
        made.say("tokenizer", None, "not named as llmc names one")
        return None
    if file is not None and (not isinstance(file, str) or "\0" in file or Path(file).name != file):
        made.wrong(f"the tokenizer's file {safe_text(repr(file))} does not lie beside it")
        return None
    shown = f"{safe_text(name)}, fingerprint {safe_text(fingerprint[:16])}…"
    made.note(tokenizer_fingerprint=fingerprint)
    try:
        tokenizer = load_recorded(folder, name, fingerprint, file, template)
    except LlmcError as error:
        made.say("tokenizer", name, f"{shown}, which cannot be loaded")
        if file is None and name == "gpt2":
            made.say("vocabulary", None, safe_text(str(error), None))  # no fault of this file
        else:
            made.wrong(safe_text(str(error), None))
        return None
    vocabulary = f"{tokenizer.vocab_size:,} tokens, the last <|endoftext|>"
    made.say("tokenizer", name, f"{shown}, found: {vocabulary}")
    if tokenizer.template is not None:
        made.say("template", tokenizer.template.name, tokenizer.template.name)
    return tokenizer


def _count(path: Path, layout: TokenLayout, counts: TokenCounts, options: Options) -> str | None:
    """Count the tokens of a file; return its payload's SHA-256, or None for a sample."""
    width, stop = layout.width, layout.start + layout.there * layout.width
    digest = hashlib.sha256()

    def add(start: int, stop: int) -> None:
        for data in options.pieces(path, start, stop):
            digest.update(data)
            counts.add(_ids(data, width))

    if options.may_read(stop - layout.start):
        add(layout.start, stop)
        return digest.hexdigest()
    step = max(1, (stop - layout.start) // SAMPLES // width) * width
    stretch = min(SAMPLE_BYTES, max(width, step // 2 // width * width))
    for start in range(layout.start, stop, step):
        counts.skip()
        add(start, min(start + stretch, stop))
    counts.skip()
    return None


def _ids(data: bytes, width: int) -> Any:
    return np.frombuffer(data[: len(data) // width * width], f"<u{width}")


def _difference(path: Path, layout: TokenLayout, sha256: str | None, shard: Shard) -> str | None:
    """Return a sentence about a token file that is not the one in its manifest, or None."""
    if layout.there != shard.tokens:
        return (
            f"{path} holds {layout.there:,} tokens, and its manifest says {shard.tokens:,}: "
            "run 'llmc tokenize PATH' again"
        )
    if sha256 not in (shard.sha256, None):
        return (
            f"the checksum of {path} is not the one in its manifest: its tokens were changed, "
            "run 'llmc tokenize PATH' again"
        )
    return None


def _say_first(
    made: Description, path: Path, layout: TokenLayout, tokenizer: Tokenizer | None
) -> None:
    """Add the first tokens, as text if the tokenizer is known."""
    size = min(layout.there, FIRST_TOKENS) * layout.width
    ids = _ids(read_bytes(path, layout.start, size), layout.width).tolist()
    if not ids:
        return
    made.say("first_tokens", ids, " ".join(map(str, ids[:16])) + (" …" if len(ids) > 16 else ""))
    if tokenizer is not None:
        made.say("first_text", b"".join(_text(tokenizer, token) or b"" for token in ids))


def _text(tokenizer: Tokenizer | None, token: int) -> bytes | None:
    """Return the bytes of a token; None for an unknown token or without a tokenizer."""
    if tokenizer is not None and token < tokenizer.vocab_size:
        with suppress(LlmcError, KeyError):
            return tokenizer.detokenize([token])
    return None


def _say_counts(
    made: Description, counts: TokenCounts, total: int, tokenizer: Tokenizer | None
) -> None:
    """Add statistics of ``total`` tokens, counted from a sample or from all."""
    about = ""
    if counts.tokens < total:
        about = f" (in a sample of {counts.tokens / total:.2%})"
        shown = (
            f"{counts.tokens:,} of {total:,} tokens, in evenly spaced samples; --full counts all"
        )
        made.say("looked_at", counts.tokens, shown)
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
    lengths = counts.document_lengths()
    if tokenizer is None:
        made.say("documents", None, "not known without a tokenizer: <|endoftext|> separates them")
    elif lengths is None:
        made.say("documents", 0, f"none{about}")
    else:
        made.say("documents", counts.documents, f"{counts.documents:,}{about}")
        parts = [f"{key} {n:,.{0 if n == int(n) else 1}f}" for key, n in lengths.items()]
        made.say("document_lengths", lengths, f"{', '.join(parts)} tokens")
    columns = (">id", ">times", ">share", *(("text",) if tokenizer is not None else ()))
    rows = [
        (token, times, times / counts.tokens, _text(tokenizer, token))[: len(columns)]
        for token, times in counts.most_frequent(FREQUENT)
    ]
    forms: dict[str, Callable[[Any], str]] = {
        ">id": str,
        ">share": "{:.2%}".format,
        "text": lambda text: quoted(text) if text is not None else "",
    }
    made.table("most frequent", columns, rows, forms=forms)


def describe_dataset(folder: Path, options: Options) -> Description:
    """Describe the dataset whose manifest lies in ``folder``; compare every file with it."""
    made = Description(folder, "dataset", "dataset")
    fields, problems = scan_manifest(folder / FILENAME, FILENAME)
    for problem in problems:
        made.wrong(safe_text(problem, None))
    if not fields:
        return made
    _say_manifest(made, fields)
    tokenizer = _say_tokenizer(made, folder, fields, options)
    try:
        prepared = read_json(folder / PREPARED)
        if isinstance(prepared, dict) and isinstance(prepared.get("model"), str):
            made.say("prepared_model", prepared["model"])
    except FileNotFoundError:
        pass
    except ValueError as error:
        made.wrong(
            f"{PREPARED} is broken JSON ({safe_text(str(error))}): run 'llmc prepare NAME' again"
        )
    for split in SPLITS:
        if shards := [Shard(**entry) for entry in fields[split]]:
            made.parts.append(_describe_split(folder, split, shards, tokenizer, options))
    if not made.all_problems():
        made.hints.append(f"llmc train --data {shlex.quote(str(folder))}")
    return made


def _say_manifest(made: Description, fields: Mapping[str, Any]) -> None:
    for key in ("dataset", "kind", "format", "created_by"):
        if isinstance(fields.get(key), str | int):
            made.say(key, fields[key])
    if type(text_bytes := fields.get("text_bytes")) is int:
        made.say("text_bytes", text_bytes)
    sources = fields.get("source")
    made.note(source=sources)
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict):
            pairs = [f"{safe_text(str(k), 20)} {safe_text(str(v), 64)}" for k, v in source.items()]
            made.tell("source", ", ".join(pairs))


def _describe_split(
    folder: Path, split: str, shards: list[Shard], tokenizer: Tokenizer | None, options: Options
) -> Description:
    """Describe the files of one split together; compare each with its entry."""
    made = Description(folder, "split", split)
    made.note(split=split)
    made.say("tokens", sum(shard.tokens for shard in shards))
    counts = TokenCounts(eot=tokenizer.eot if tokenizer is not None else None)
    masks = MaskCounts()
    states: list[str] = []
    there, first = 0, None
    for shard in shards:
        layout, state = _checked(made, folder / shard.file, shard, counts, masks, options=options)
        states.append(state)
        if layout is not None:
            there += layout.there
            first = first or (folder / shard.file, layout)
    counts.close()
    if len(shards) == 1:
        made.say("file", shards[0].file)
        made.say("checksum", states[0])
    else:
        whole = states.count("verified")
        made.say("files", len(shards), f"{len(shards):,}, {whole:,} of them verified")
        rows = [(shard.file, shard.tokens, s) for shard, s in zip(shards, states, strict=True)]
        made.table("shards", ("file", ">tokens", "checksum"), rows)
    if first is not None:
        _say_first(made, *first, tokenizer)
        _say_counts(made, counts, there, tokenizer)
        masks.say(made)
    return made


def _checked(
    made: Description,
    path: Path,
    shard: Shard,
    counts: TokenCounts,
    masks: MaskCounts,
    *,
    options: Options,
) -> tuple[TokenLayout | None, str]:
    """Count the tokens of one file; return its layout and how it compares with its entry."""
    try:
        is_tokens = kind_of(path) == "tokens"
    except OSError as error:
        made.wrong(
            f"{path} is gone or cannot be read ({error.strerror}): run 'llmc tokenize PATH' again"
        )
        return None, "gone"
    if not is_tokens:
        made.wrong(f"{path} is not a token file any more: run 'llmc tokenize PATH' again")
        return None, "no token file"
    layout, problems = scan_tokens(path, str(path))
    for problem in problems:
        made.wrong(problem)
    if layout is None:
        return None, "broken"
    sha256 = _count(path, layout, counts, options)
    difference = _difference(path, layout, sha256, shard)
    if difference is not None and not problems:
        made.wrong(difference)
    if not problems:
        masks.take(made, path, layout, shard, options)
    verified = "verified" if sha256 is not None else f"not verified: {NOT_READ}"
    return layout, "differs" if difference is not None else verified
