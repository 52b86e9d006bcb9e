"""The options of ``llmc tokenize``, which ``llmc prepare`` takes too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from llmc.cli.options import count, in_group, with_options
from llmc.errors import Usage
from llmc.fetch.compression import MOST_RATIO
from llmc.text.encodings import encoding_named
from llmc.text.reading import Reading
from llmc.text.source import VAL_FRACTION
from llmc.tokens import tokenizer as tokenizers
from llmc.tokens.divide import MOST_VAL_TOKENS
from llmc.tokens.merge import read_shard
from llmc.tokens.options import DEFAULT_TOKENIZER, TokenizeOptions
from llmc.tokens.shards import SHARD_TOKENS
from llmc.tokens.template import TEMPLATES

of_tokens = in_group("Tokens")
of_reading = in_group("What is read")
of_parts = in_group("Token files and parts")

Tokenizer = Annotated[
    str | None,
    of_tokens(
        f"Default: {DEFAULT_TOKENIZER}. bpe:N trains a vocabulary of N tokens on the "
        "text, auto one of a size that fits it; NAME is a tiktoken encoding, such as cl100k_base; "
        "PATH a tokenizer's file or folder.",
        "gpt2|byte|bpe:N|auto|NAME|PATH",
    ),
]
Pattern = Annotated[
    str | None,
    of_tokens("Split pattern of a FILE.tiktoken that does not say it.", "gpt2|cl100k|o200k|REGEX"),
]
ValTokens = Annotated[
    int | None,
    of_tokens("Validate on about N tokens, in whole documents (0: none).", "N", parser=count),
]
ValFraction = Annotated[
    float | None,
    of_tokens(
        "Validate on a sample of about this fraction of the tokens. Default: "
        f"{VAL_FRACTION}, at most {MOST_VAL_TOKENS:,} tokens.",
        "F",
    ),
]
Out = Annotated[Path | None, of_tokens("Output folder. Default: data/<name>.", "DIR")]
Force = Annotated[
    bool,
    of_tokens("Replace a dataset that was made from other text or tokens.", names=("--force",)),
]
ShardTokens = Annotated[int, of_tokens("Maximum tokens in one token file.", "N", parser=count)]
AllowSpecial = Annotated[
    bool,
    of_tokens(
        "Encode text such as <|endoftext|> in a document as that token.", names=("--allow-special",)
    ),
]
Fast = Annotated[
    bool | None,
    of_tokens(
        "Encode with gigatoken, after comparing it with tiktoken. Default: if installed.",
        names=("--fast/--no-fast",),
    ),
]
Workers = Annotated[int | None, of_tokens("Threads. Default: one per core.", "N", 1)]
Include = Annotated[
    list[str] | None, of_reading("Read only matching files of folders and archives.", "PATTERN")
]
Exclude = Annotated[list[str] | None, of_reading("Skip matching files and folders.", "PATTERN")]
Documents = Annotated[
    str | None,
    of_reading(
        "What a document is. Default: a record of .jsonl, .json, .csv and .parquet; in other "
        "text the file, or what lines of <|endoftext|> separate.",
        "file|line|record|blank-line|endoftext|SEPARATOR",
    ),
]
Field = Annotated[
    list[str] | None,
    of_reading(
        "The field or column of a record that holds its text; a path such as a.b or a[].b "
        "reaches nested ones. Of several --field, the first that a record has counts.",
        "NAME",
    ),
]
Template = Annotated[
    str | None,
    of_reading(
        "Chat template of conversations. Default: the tokenizer's, else chatml.",
        "|".join(TEMPLATES),
    ),
]
Encoding = Annotated[
    str | None,
    of_reading(
        "Encoding of text that is not UTF-8, such as cp1252 or utf-16; auto recognises it.", "NAME"
    ),
]
Newlines = Annotated[
    Literal["lf", "keep"],
    of_reading("Turn the line ends CR LF and CR into LF, or keep them."),
]
AnyRatio = Annotated[
    bool,
    of_reading(
        f"Read compressed files that grow to more than {MOST_RATIO} times their size.",
        names=("--any-ratio",),
    ),
]
Dtype = Annotated[
    Literal["uint16", "int32"] | None,
    of_parts("INPUT are token files without a header: nanoGPT's, llm.c's first."),
]
ValData = Annotated[
    str | None, of_parts("Token files to validate on, if INPUT are token files.", "FILE")
]
Shard = Annotated[
    str | None, of_parts("Tokenize the I-th of N parts, to be joined by --merge.", "I/N")
]
Merge = Annotated[
    bool, of_parts("Join parts: INPUT are their folders, or the one above.", names=("--merge",))
]
# An option's name in Python, its annotation and its default.
OPTIONS: Mapping[str, tuple[Any, Any]] = {
    "tokenizer": (Tokenizer, None),
    "pattern": (Pattern, None),
    "val_tokens": (ValTokens, None),
    "val_fraction": (ValFraction, None),
    "out": (Out, None),
    "force": (Force, False),
    "include": (Include, None),
    "exclude": (Exclude, None),
    "documents": (Documents, None),
    "field": (Field, None),
    "template": (Template, None),
    "encoding": (Encoding, None),
    "newlines": (Newlines, "lf"),
    "any_ratio": (AnyRatio, False),
    "workers": (Workers, None),
    "shard_tokens": (ShardTokens, SHARD_TOKENS),
    "allow_special": (AllowSpecial, False),
    "fast": (Fast, None),
    "dtype": (Dtype, None),
    "val_data": (ValData, None),
    "shard": (Shard, None),
    "merge": (Merge, False),
}


# Gives a command these options; it takes them in ``**given``, for :func:`options_of`.
with_tokenizing = partial(with_options, options=OPTIONS)


def with_pattern(tokenizer: str | None, pattern: str | None) -> str | tokenizers.Tokenizer | None:
    """Return what ``--tokenizer`` and ``--pattern`` name together.

    Raises:
        Usage: the tokenizer takes no pattern, or the pattern is not a regular expression.
    """
    if pattern is None:
        return tokenizer
    if tokenizer is None:
        raise Usage("--pattern is the split pattern of a FILE.tiktoken: name it with --tokenizer")
    return tokenizers.load_tokenizer(tokenizer, pattern=pattern)


def options_of(given: Mapping[str, Any]) -> TokenizeOptions:
    """Return how to tokenize, from the values of the options.

    Raises:
        Usage: one has no such value.
    """
    values = dict(given)
    values["tokenizer"] = with_pattern(values["tokenizer"], values.pop("pattern"))
    fields = tuple(values.pop("field") or ())
    encoding, newlines = values.pop("encoding"), values.pop("newlines")
    reading = Reading(
        tuple(values.pop("include") or ()),
        tuple(values.pop("exclude") or ()),
        values.pop("documents"),
        fields[0] if len(fields) == 1 else fields or None,
        encoding_named(encoding) if encoding is not None else None,
        newlines if newlines != "lf" else None,
        values.pop("any_ratio"),
    )
    shard = values.pop("shard")
    part = read_shard(shard) if shard is not None else None
    special = values.pop("allow_special")
    return TokenizeOptions(reading=reading, part=part, special=special, **values)
