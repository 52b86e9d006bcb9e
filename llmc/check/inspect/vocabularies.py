"""Tokenizers' files: llm.c's tokenizer.bin, and tiktoken's text form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmc.check.inspect.description import Description, quoted, safe_text
from llmc.check.inspect.reading import LARGEST_TEXT, Asked
from llmc.errors import LlmcError
from llmc.tokens.tokenizer import load_tokenizer
from llmc.tokens.tokenizer_bin import MAGIC, scan_tokenizer_bin

SHOWN = 16
NAMED = {50257: "gpt2", 257: "byte"}  # built-in vocabularies, by size


def describe_tokenizer_bin(path: Path, asked: Asked) -> Description:
    """Describe llm.c's tokenizer.bin.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "tokenizer.bin", "tokenizer, llm.c's form (decoding only)")
    made.say_bytes()
    table, problems = scan_tokenizer_bin(path)
    made.problems += problems
    if table is None:
        return made
    made.note("magic", MAGIC)
    made.say("version", table.version)
    made.say("vocab_size", table.count)
    made.say("eot", table.eot)
    made.say("tokens", len(table.tokens), f"{len(table.tokens):,} are there")
    if not problems:
        made.say("size", "as the header says")
        _say_name(made, table.tokens[:-1] if table.eot == table.count - 1 else table.tokens)
    _say_tokens(made, table.tokens)
    return made


def describe_tiktoken(path: Path, asked: Asked) -> Description:
    """Describe a tokenizer in tiktoken's text form.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "tokenizer.tiktoken", "tokenizer, tiktoken's form")
    size = made.say_bytes()
    if size > LARGEST_TEXT:
        made.wrong(f"{size:,} bytes are more than any tokenizer has ({LARGEST_TEXT:,})")
        return made
    try:
        tokenizer = load_tokenizer(str(path))
    except LlmcError as error:
        made.wrong(safe_text(str(error), None))
        return made
    size_shown = f"{tokenizer.vocab_size:,}, <|endoftext|> included"
    made.say("vocab_size", tokenizer.vocab_size, size_shown)
    made.say("eot", tokenizer.eot)
    made.say("fingerprint", tokenizer.fingerprint)
    tokens = tokenizer.tokens()
    _say_name(made, tokens)
    _say_tokens(made, tokens)
    return made


def _say_name(made: Description, tokens: Sequence[bytes]) -> None:
    """Add whether the tokens are GPT-2's or the single bytes."""
    name = NAMED.get(len(tokens) + 1)
    if name is None:
        return
    try:
        same = load_tokenizer(name).tokens() == list(tokens)
    except LlmcError:
        return  # GPT-2's vocabulary is not on this machine
    made.say("same_as", name if same else None, f"{name}" if same else f"not {name}'s tokens")


def _say_tokens(made: Description, tokens: Sequence[bytes]) -> None:
    if not tokens:
        return
    lengths = [len(token) for token in tokens]
    made.say(
        "token_bytes",
        {"min": min(lengths), "mean": sum(lengths) / len(tokens), "max": max(lengths)},
        f"min {min(lengths)}, mean {sum(lengths) / len(tokens):.1f}, max {max(lengths)}",
    )
    last = tokens[-SHOWN:]
    made.say("last_tokens", [t.decode(errors="replace") for t in last], " ".join(map(quoted, last)))
    longest = sorted(tokens, key=len)[: -SHOWN // 2 - 1 : -1]
    shown = " ".join(quoted(token, 40) for token in longest)
    made.say("longest_tokens", [t.decode(errors="replace") for t in longest], shown)
