"""Weights in other programs' formats: safetensors, GGUF, and the folder of a Hugging Face model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, byte_count, safe_text
from llmc.check.inspect.reading import Options, kind_of, read_json
from llmc.check.inspect.tensors import MOST_ROWS, say_model, say_tensors, say_types
from llmc.errors import LlmcError
from llmc.weights.gguf import GgufModel
from llmc.weights.gguf_header import GgufArray, GgufHeader
from llmc.weights.huggingface import CONFIG_FILE, PICKLE, SAFETENSORS, HuggingFaceModel
from llmc.weights.safetensors import (
    INDEX_SUFFIX,
    SafetensorsHeader,
    index_parts,
    scan_safetensors,
)

INDEX = SAFETENSORS + INDEX_SUFFIX
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
)
MOST_FILES = 1000
SHOWN_KEYS = (
    *("model_type", "architectures", "n_layer", "n_head", "n_embd", "n_positions", "n_ctx"),
    *("vocab_size", "activation_function", "layer_norm_epsilon", "torch_dtype", "dtype"),
    "transformers_version",
)
FIRST = 5  # items of an array that are shown


def say_safetensors(made: Description, header: SafetensorsHeader | None, options: Options) -> None:
    """Add the tensors of a safetensors file, and whether they are a whole GPT-2."""
    if header is not None:
        _say_part(made, header, options)
        _say_gpt2(made)


def _say_part(made: Description, header: SafetensorsHeader, options: Options) -> None:
    """Add the tensors of a file that may be a part of a model."""
    made.say("header_bytes", header.size)
    if header.metadata:
        items = list(header.metadata.items())
        pairs = [f"{safe_text(str(k), 40)}={safe_text(str(v), 60)}" for k, v in items[:8]]
        more = f" and {len(items) - 8} more" if len(items) > 8 else ""
        made.say("metadata", header.metadata, ", ".join(pairs) + more)
    if header.entries and not made.problems:
        made.say("size", "as the header says")
    made.say("tensor_count", len(header.entries))
    say_types(made, header.entries)
    say_tensors(made, header.entries, options)


def _say_gpt2(made: Description) -> str | None:
    """Add whether a file or folder is a GPT-2 that llmc reads; return why not, or None."""
    reason = say_model(made, lambda: HuggingFaceModel(made.path))
    if reason is None:
        folder = made.path if made.path.is_dir() else made.path.parent
        if not (folder / CONFIG_FILE).is_file():
            made.tell("heads", f"there is no {CONFIG_FILE}; heads of 64 channels are assumed")
        made.hints.append(f"llmc export-weights {shlex.quote(str(made.path))}")
    return reason


def describe_model_folder(folder: Path, options: Options) -> Description:
    """Describe a Hugging Face model."""
    made = Description(folder, "huggingface", "Hugging Face model")
    config = _say_config(made)
    tensors = 0
    for name in _files(made):
        path = folder / name
        if not path.is_file():
            made.wrong(f"{path} is gone, and the model's index names it: get it again")
        elif kind_of(path) != "safetensors":
            made.wrong(f"{path} is not a safetensors file: get it again")
        else:
            part = Description(path, "safetensors", "safetensors file")
            made.parts.append(part)
            part.say("bytes", size := path.stat().st_size, byte_count(size))
            header, part.problems = scan_safetensors(path)
            if header is not None:
                _say_part(part, header, options)
                tensors += len(header.entries)
    reason = _say_gpt2(made) if tensors else None
    if reason is not None and config.get("model_type") == "gpt2" and not made.all_problems():
        made.wrong(f"{CONFIG_FILE} and the tensors do not make a GPT-2 that llmc reads: {reason}")
    there = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    made.say("tokenizer_files", there, ", ".join(there) or "none")
    return made


def _say_config(made: Description) -> dict[str, Any]:
    try:
        config = read_json(made.path / CONFIG_FILE)
    except FileNotFoundError:
        made.say("config", None, f"no {CONFIG_FILE}")
        return {}
    except ValueError as error:
        made.wrong(f"{CONFIG_FILE} is broken JSON ({safe_text(str(error))}): get it again")
        return {}
    if not isinstance(config, dict):
        made.wrong(f"{CONFIG_FILE} is not a table of settings: get it again")
        return {}
    made.note(config=config)
    shown = [f"{key} {safe_text(str(config[key]), 40)}" for key in SHOWN_KEYS if key in config]
    made.tell("settings", ", ".join(shown) or "none that llmc knows")
    return config


def _files(made: Description) -> list[str]:
    """Return the names of the safetensors files, from the index or the folder."""
    folder = made.path
    if (folder / INDEX).is_file():
        try:
            names = sorted(index_parts(folder / INDEX))
        except LlmcError as error:
            made.wrong(safe_text(str(error), None))
            return []
        if len(names) > MOST_FILES:
            made.wrong(f"{INDEX} names {len(names):,} files, more than any model has")
            return []
        made.say("files", len(names), f"{len(names):,}, named by {INDEX}")
        return names
    if (folder / SAFETENSORS).is_file():
        return [SAFETENSORS]
    pickles = [name for name in (PICKLE, PICKLE + INDEX_SUFFIX) if (folder / name).is_file()]
    if pickles:
        size = byte_count((folder / pickles[0]).stat().st_size)
        made.say("weights", pickles[0], f"{pickles[0]}, {size}, a pickle, not opened")
    else:
        made.say("weights", None, f"none: there is no {SAFETENSORS}")
    return []


def say_gguf(made: Description, header: GgufHeader, options: Options) -> None:
    """Add the key-values and the tensors of a GGUF file, and whether they are a GPT-2."""
    made.say("version", header.version)
    architecture = header.metadata.get("general.architecture")
    if isinstance(architecture, str):
        made.say("architecture", architecture)
    made.fields(header, tensor_count="", key_count="")
    _say_file_type(made, header.metadata.get("general.file_type"))
    say_types(made, header.entries)
    if header.entries and len(header.entries) == header.tensor_count:
        if not made.problems:
            made.say("size", "holds every tensor")
        reason = say_model(made, lambda: GgufModel(made.path, header))
        if reason is not None and architecture == "gpt2":
            made.wrong(f"its architecture is gpt2, and llmc cannot read it: {reason}")
    _say_tokenizer(made, header.metadata)
    keys = [(key, _plain(value)) for key, value in header.metadata.items()][:MOST_ROWS]
    forms = {"key": lambda key: safe_text(key, 60), "value": _shown}
    made.table("keys", ("key", "value"), keys, total=len(header.metadata), forms=forms)
    say_tensors(made, header.entries, options)


def _say_file_type(made: Description, number: object) -> None:
    from gguf import LlamaFileType

    if type(number) is int:
        known = [item.name for item in LlamaFileType if item.value == number]
        shown = f"{number}: {known[0].removeprefix('MOSTLY_')}" if known else None
        made.say("file_type", number, shown)


def _say_tokenizer(made: Description, metadata: Mapping[str, Any]) -> None:
    model, pre, tokens, merges, eos = (
        metadata.get(f"tokenizer.ggml.{key}")
        for key in ("model", "pre", "tokens", "merges", "eos_token_id")
    )
    if not isinstance(model, str) or not isinstance(tokens, GgufArray):
        made.say("tokenizer", None, "none in the file")
        return
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
    """Return the value of a key for JSON: of an array, the first items."""
    if isinstance(value, GgufArray):
        first = list(value.items[:FIRST])
        return {"array_of": value.kind, "count": len(value.items), "first": first}
    return value


def _shown(value: Any) -> str:
    """Return a value of :func:`_plain` for a person."""
    if isinstance(value, dict):
        texts = value["array_of"] == "string"
        items = [f'"{safe_text(item, 20)}"' if texts else f"{item}" for item in value["first"]]
        more = ["…"] if value["count"] > FIRST else []
        return f"{value['count']:,}: {', '.join(items + more)}"
    if isinstance(value, str):
        return safe_text(value, 120)
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"
