"""GGUF files: key-values, a list of tensors, and their data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, quoted, safe_text
from llmc.check.inspect.reading import Asked
from llmc.check.inspect.tensors import MOST_ROWS, say_shape, say_tensors
from llmc.errors import LlmcError
from llmc.weights.gguf import GgufModel
from llmc.weights.gguf_header import GgufArray, GgufHeader, scan_gguf

FIRST = 5  # items of an array that are shown


def describe_gguf(path: Path, asked: Asked) -> Description:
    """Describe a GGUF file.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "gguf", "GGUF file")
    made.say_bytes()
    header, problems = scan_gguf(path)
    made.problems += problems
    made.say("version", header.version)
    architecture = header.metadata.get("general.architecture")
    if isinstance(architecture, str):
        made.say("architecture", architecture)
    made.say("tensor_count", header.tensor_count)
    made.say("key_count", header.key_count)
    _say_model(made, header)
    _say_tokenizer(made, header)
    keys = list(header.metadata.items())
    made.table(
        "keys",
        ("key", "value"),
        [(key, _plain(value)) for key, value in keys[:MOST_ROWS]],
        shown=[(safe_text(key, 60), _shown(value)) for key, value in keys[:MOST_ROWS]],
        left_out=max(0, len(keys) - MOST_ROWS),
    )
    say_tensors(made, header.entries, asked)
    return made


def _say_model(made: Description, header: GgufHeader) -> None:
    """Add the file type, and whether the tensors are a GPT-2's."""
    from gguf import LlamaFileType

    number = header.metadata.get("general.file_type")
    if type(number) is int:
        known = [item.name for item in LlamaFileType if item.value == number]
        shown = f"{number}: {known[0].removeprefix('MOSTLY_')}" if known else None
        made.say("file_type", number, shown)
    types: dict[str, int] = {}
    for place in header.entries.values():
        types[place.dtype] = types.get(place.dtype, 0) + 1
    made.say("types", types, ", ".join(f"{name} ({count:,})" for name, count in types.items()))
    made.say("values", sum(math.prod(place.shape) for place in header.entries.values()))
    if len(header.entries) < header.tensor_count or not header.entries:
        return
    if not made.problems:
        made.say("size", "holds every tensor")
    if header.metadata.get("general.architecture") != "gpt2":
        made.say("gpt2", False, "no: its architecture is another")
        return
    try:
        model = GgufModel(made.path, header)
    except LlmcError as error:
        reason = str(error).removeprefix(f"{made.path}: ").removeprefix(f"{made.path} ")
        made.say("gpt2", False, f"no: {safe_text(reason)}")
        made.wrong(f"its architecture is gpt2, and llmc cannot read it: {safe_text(reason, None)}")
        return
    made.say("gpt2", True, "yes, every tensor of one is there")
    say_shape(made, model.config)


def _say_tokenizer(made: Description, header: GgufHeader) -> None:
    model = header.metadata.get("tokenizer.ggml.model")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(model, str) or not isinstance(tokens, GgufArray):
        made.say("tokenizer", None, "none in the file")
        return
    merges = header.metadata.get("tokenizer.ggml.merges")
    eos = header.metadata.get("tokenizer.ggml.eos_token_id")
    pre = header.metadata.get("tokenizer.ggml.pre")
    fields = {
        "model": model,
        "pre": _plain(pre),
        "tokens": len(tokens.items),
        "merges": len(merges.items) if isinstance(merges, GgufArray) else 0,
        "eos": eos if type(eos) is int else None,
    }
    shown = f"{safe_text(model, 40)}, {fields['tokens']:,} tokens, {fields['merges']:,} merges"
    made.say("tokenizer", fields, shown + (f", ends with {eos:,}" if type(eos) is int else ""))


def _plain(value: Any) -> Any:
    """Return the value of a key for JSON."""
    if isinstance(value, GgufArray):
        first = list(value.items[:FIRST])
        return {"array_of": value.kind, "count": len(value.items), "first": first}
    return value


def _shown(value: Any) -> str:
    if isinstance(value, GgufArray):
        first = ", ".join(
            quoted(item.encode("utf-8", "surrogatepass"), 20)
            if isinstance(item, str)
            else f"{item}"
            for item in value.items[:FIRST]
        )
        more = ", …" if len(value.items) > FIRST else ""
        return f"{len(value.items):,}: {first}{more}"
    if isinstance(value, str):
        return safe_text(value, 120)
    return f"{value}" if not isinstance(value, float) else f"{value:.6g}"
