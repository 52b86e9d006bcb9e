"""Tokenizers' files: llm.c's tokenizer.bin, and tiktoken's text form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmc.check.inspect.description import Description, quoted, safe_text
from llmc.check.inspect.reading import Options
from llmc.errors import LlmcError
from llmc.parsing import LARGEST_TEXT
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_bin import MAGIC, TokenTable
from llmc.tokens.tokenizer_files import decoding_tokenizer

SHOWN = 16
NAMED = {50257: "gpt2", 257: "byte"}  # built-in vocabularies, by size


def say_tokenizer_bin(made: Description, table: TokenTable | None, _options: Options) -> None:
    """Add what llm.c's tokenizer.bin holds."""
    if table is None:
        return
    made.note(magic=MAGIC)
    made.say("version", table.version)
    made.say("vocab_size", table.count)
    made.say("eot", table.eot)
    made.say("tokens", len(table.tokens), f"{len(table.tokens):,} are there")
    if not made.problems:
        made.say("size", "as the header says")
        _say_name(made, table.tokens[:-1] if table.eot == table.count - 1 else table.tokens)
    _say_tokens(made, table.tokens)


def scan_tiktoken(path: Path) -> tuple[Tokenizer | None, list[str]]:
    """Read a tokenizer in tiktoken's form; return it, or None and the problem."""
    if (size := path.stat().st_size) > LARGEST_TEXT:
        return None, [f"{size:,} bytes are more than any tokenizer has ({LARGEST_TEXT:,})"]
    try:
        return decoding_tokenizer(str(path)), []
    except LlmcError as error:
        return None, [safe_text(str(error), None)]


def say_tiktoken(made: Description, tokenizer: Tokenizer | None, _options: Options) -> None:
    """Add what a tokenizer in tiktoken's text form holds."""
    if tokenizer is None:
        return
    made.fields(tokenizer, vocab_size="{:,}, <|endoftext|> included", eot="", fingerprint="")
    tokens = tokenizer.tokens()
    _say_name(made, tokens)
    _say_tokens(made, tokens)


def _say_name(made: Description, tokens: Sequence[bytes]) -> None:
    """Add whether the tokens are GPT-2's or the single bytes."""
    name = NAMED.get(len(tokens) + 1)
    if name is None:
        return
    try:
        same = load_tokenizer(name).tokens() == list(tokens)
    except LlmcError:
        return  # GPT-2's vocabulary is not on this machine
    made.say("same_as", name if same else None, name if same else f"not {name}'s tokens")


def _say_tokens(made: Description, tokens: Sequence[bytes]) -> None:
    if not tokens:
        return
    lengths = [len(token) for token in tokens]
    sizes = {"min": min(lengths), "mean": sum(lengths) / len(tokens), "max": max(lengths)}
    made.say("token_bytes", sizes, "min {min}, mean {mean:.1f}, max {max}".format(**sizes))
    last, longest = list(tokens[-SHOWN:]), sorted(tokens, key=len)[: -SHOWN // 2 - 1 : -1]
    made.say("last_tokens", last, " ".join(map(quoted, last)))
    made.say("longest_tokens", longest, " ".join(quoted(token, 40) for token in longest))
