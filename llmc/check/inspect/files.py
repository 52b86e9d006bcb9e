"""Describe one file: the table of the kinds of files, each with its reader and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from llmc.check import debug_state
from llmc.check.inspect import checkpoints, foreign, masks, texts, tokens, vocabularies
from llmc.check.inspect.description import Description, byte_count
from llmc.check.inspect.reading import Options, kind_of, read_bytes
from llmc.errors import Usage
from llmc.kinds import HEAD_BYTES
from llmc.tokens import files as token_files
from llmc.tokens import masks as token_masks
from llmc.tokens.tokenizer_bin import scan_tokenizer_bin
from llmc.weights import checkpoint, gguf_header, safetensors, state
from llmc.weights.foreign import foreign_file


class Format(NamedTuple):
    """A binary format."""

    title: str  # one line for a person
    # The reader: returns what the file holds, and the problems, a sentence each.
    scan: Callable[[Path], tuple[Any, list[str]]]
    # Adds what the reader returned, None included, to a description.
    say: Callable[[Description, Any, Options], None]


FORMATS = {
    "tokens": Format("token file", token_files.scan_tokens, tokens.say_tokens),
    "mask": Format(
        "mask of a token file: where its loss counts", token_masks.scan_mask, masks.say_mask
    ),
    "checkpoint": Format(
        "model checkpoint, llm.c's format", checkpoint.scan_header, checkpoints.say_checkpoint
    ),
    "training_state": Format(
        "training state: AdamW's moments and a run's position",
        state.scan_training_state,
        checkpoints.say_training_state,
    ),
    "debug_state": Format(
        "debug state: what one batch does, llm.c's format",
        debug_state.scan_debug_state,
        checkpoints.say_debug_state,
    ),
    "tokenizer.bin": Format(
        "tokenizer, llm.c's form (decoding only)",
        scan_tokenizer_bin,
        vocabularies.say_tokenizer_bin,
    ),
    "tokenizer.tiktoken": Format(
        "tokenizer, tiktoken's form", vocabularies.scan_tiktoken, vocabularies.say_tiktoken
    ),
    "gguf": Format("GGUF file", gguf_header.scan_gguf, foreign.say_gguf),
    "safetensors": Format(
        "safetensors file", safetensors.scan_safetensors, foreign.say_safetensors
    ),
}
OTHERS: dict[str, tuple[str, Callable[[Description], None]]] = {
    "json": ("JSON", texts.say_json),
    "text": ("text", texts.say_text),
    "zip": ("zip archive", texts.say_zip),
}
WITH_HEADER = FORMATS.keys() - {"tokenizer.tiktoken"}


def describe_file(path: Path, options: Options) -> Description:
    """Describe a file.

    Raises:
        OSError: it cannot be read.
        Usage: ``options.dtype`` is given for a file with a header, or one that holds no tokens.
    """
    kind = kind_of(path)
    if options.dtype is not None:
        _check_headerless(path, kind)
        kind = "tokens"
    title, say = OTHERS.get(kind, ("a file that llmc does not know", texts.say_other))
    made = Description(path, kind, title)
    if kind == "special":
        made.title = "a device, a pipe or a socket"
        made.wrong("it is not a regular file: name a file or a folder")
        return made
    made.say("bytes", size := path.stat().st_size, byte_count(size))
    if kind not in FORMATS:
        if (sentence := foreign_file(path, read_bytes(path, 0, HEAD_BYTES))) is not None:
            made.title = "weights of another program"
            made.wrong(sentence.replace(str(path), "it", 1))
        else:
            say(made)
        return made
    made.title, scan, say_contents = FORMATS[kind]
    if options.dtype is not None:
        scan = partial(token_files.scan_headerless, dtype=options.dtype)
    contents, made.problems = scan(path)
    say_contents(made, contents, options)
    return made


def _check_headerless(path: Path, kind: str) -> None:
    if kind in WITH_HEADER:
        raise Usage(
            f"{path} has a header of its own ({kind}): leave out --dtype, which is for token "
            "files without one"
        )
    if kind in ("special", "empty"):
        raise Usage(f"{path} is {'empty' if kind == 'empty' else 'no regular file'}: no tokens")
