"""Tokenizers' files: llm.c's tokenizer.bin, and tiktoken's text form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmc.check.inspect.description import Description, byte_count, quoted, safe_text
from llmc.check.inspect.reading import LARGEST_TEXT, Asked, file_size, head_of
from llmc.errors import LlmcError
from llmc.tokens import tokenizer_bin
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer

HEADER_BYTES = 1024
VERSIONS = (1, 2)
MOST_TOKENS = 1 << 24
GPT2_EOT = 50256
SHOWN = 16
NAMED = {50257: "gpt2", 257: "byte"}  # vocabularies that are known by heart, by size


def describe_tokenizer_bin(path: Path, asked: Asked) -> Description:
    """Describe llm.c's tokenizer.bin.

    Raises:
        OSError: it cannot be read.
    """
    import numpy as np

    made = Description(path, "tokenizer.bin", "tokenizer, llm.c's form (decoding only)")
    raw, size = head_of(path, HEADER_BYTES), file_size(path)
    made.say("bytes", size, byte_count(size))
    if len(raw) < HEADER_BYTES:
        made.wrong(f"the header is cut short: {len(raw)} of its {HEADER_BYTES} bytes are there")
        return made
    version, count, eot = (int(value) for value in np.frombuffer(raw, "<u4", 3, 4))
    made.note("magic", tokenizer_bin.MAGIC)
    made.say("version", version)
    if version not in VERSIONS:
        made.wrong(f"its version is {version}, and only 1 and 2 are known")
        return made
    eot = GPT2_EOT if version == 1 else eot  # version 1 knows GPT-2's alone
    made.say("vocab_size", count)
    made.say("eot", eot)
    if eot >= count:
        made.wrong(f"its end of text is token {eot:,}, outside its {count:,} tokens")
    if count > MOST_TOKENS or size > LARGEST_TEXT:
        made.wrong(f"{count:,} tokens in {size:,} bytes are more than any tokenizer has")
        return made
    tokens, end, problem = walk(path.read_bytes(), count)
    made.say("tokens", len(tokens), f"{len(tokens):,} are there")
    if problem is not None:
        made.wrong(problem)
    elif end < size:
        made.wrong(f"{size - end:,} bytes follow after the last token")
    else:
        made.say("size", "as the header says", "as the header says")
        _say_name(made, tokens[:-1] if eot == count - 1 else tokens)
    _say_tokens(made, tokens)
    return made


def walk(data: bytes, count: int) -> tuple[list[bytes], int, str | None]:
    """Return the tokens of a tokenizer.bin, where they end, and what is wrong with them."""
    at = HEADER_BYTES
    tokens: list[bytes] = []
    for number in range(count):
        length = data[at] if at < len(data) else None
        if length is None or at + 1 + length > len(data):
            return (
                tokens,
                at,
                (
                    f"it is cut short: the header promises {count:,} tokens, and it ends in token "
                    f"{number:,}; make it again"
                ),
            )
        if length == 0:
            return tokens, at, f"token {number:,} is empty, which no token may be"
        tokens.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return tokens, at, None


def describe_tiktoken(path: Path, asked: Asked) -> Description:
    """Describe a tokenizer in tiktoken's text form.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "tokenizer.tiktoken", "tokenizer, tiktoken's form")
    size = file_size(path)
    made.say("bytes", size, byte_count(size))
    if size > LARGEST_TEXT:
        made.wrong(f"{size:,} bytes are more than any tokenizer has ({LARGEST_TEXT:,})")
        return made
    try:
        tokenizer = load_tokenizer(str(path))
    except LlmcError as error:
        made.wrong(safe_text(str(error), None))
        return made
    say_tokenizer(made, tokenizer)
    tokens = tokenizer.tokens()
    _say_name(made, tokens)
    _say_tokens(made, tokens)
    return made


def say_tokenizer(made: Description, tokenizer: Tokenizer) -> None:
    """Say the size and the fingerprint of a tokenizer."""
    made.say(
        "vocab_size", tokenizer.vocab_size, f"{tokenizer.vocab_size:,}, <|endoftext|> included"
    )
    made.say("eot", tokenizer.eot)
    made.say("fingerprint", tokenizer.fingerprint)


def _say_name(made: Description, tokens: Sequence[bytes]) -> None:
    """Say whether the tokens are GPT-2's or the single bytes."""
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
