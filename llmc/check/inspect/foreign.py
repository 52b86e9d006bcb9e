"""safetensors files, and the folder of a Hugging Face model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, byte_count, safe_text
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.reading import Asked, read_json
from llmc.check.inspect.tensors import say_shape, say_tensors, say_types
from llmc.errors import LlmcError
from llmc.weights.base import TensorPlace
from llmc.weights.huggingface import CONFIG_FILE, PICKLE, SAFETENSORS, HuggingFaceModel
from llmc.weights.safetensors import INDEX_SUFFIX, index_parts, scan_safetensors

INDEX = SAFETENSORS + INDEX_SUFFIX
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
MOST_FILES = 1000
SHOWN_KEYS = (
    *("model_type", "architectures", "n_layer", "n_head", "n_embd", "n_positions", "n_ctx"),
    *("vocab_size", "activation_function", "layer_norm_epsilon", "torch_dtype", "dtype"),
    "transformers_version",
)


def describe_safetensors(path: Path, asked: Asked) -> Description:
    """Describe a safetensors file, and whether it is a whole GPT-2.

    Raises:
        OSError: it cannot be read.
    """
    made, entries = _describe_file(path, asked)
    if entries is not None:
        _say_gpt2(made)
    return made


def _describe_file(
    path: Path, asked: Asked
) -> tuple[Description, Mapping[str, TensorPlace] | None]:
    """Describe one file, which may be a part of a model; return its tensors as well."""
    made = Description(path, "safetensors", "safetensors file")
    made.say_bytes()
    header, problems = scan_safetensors(path)
    made.problems += problems
    if header is None:
        return made, None
    entries, metadata = header.entries, header.metadata
    made.say("header_bytes", header.size)
    if metadata:
        pairs = [f"{safe_text(str(k), 40)}={safe_text(str(v), 60)}" for k, v in metadata.items()]
        more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
        made.say("metadata", metadata, ", ".join(pairs[:8]) + more)
    if entries and not problems:
        made.say("size", "as the header says")
    say_types(made, entries)
    say_tensors(made, entries, asked)
    return made, entries


def _say_gpt2(made: Description) -> str | None:
    """Add whether a file or folder is a GPT-2 that llmc reads; return why not, or None."""
    try:
        model = HuggingFaceModel(made.path)
    except (LlmcError, RecursionError) as error:
        reason = safe_text(str(error).replace(f"{made.path}/", "").replace(f"{made.path}", "it"))
        made.say("gpt2", False, f"no: {reason}")
        return reason
    folder = made.path if made.path.is_dir() else made.path.parent
    taken = "" if (folder / CONFIG_FILE).is_file() else "; heads of 64 channels are assumed"
    made.say("gpt2", True, f"yes, every tensor of one is there{taken}")
    say_shape(made, model.config)
    made.hints.append(f"llmc export-weights {shlex.quote(str(made.path))}")
    return None


def describe_model_folder(folder: Path, asked: Asked) -> Description:
    """Describe a Hugging Face model.

    Raises:
        OSError: a file cannot be read.
    """
    made = Description(folder, "huggingface", "Hugging Face model")
    config = _config(made)
    tensors = 0
    for name in _files(made):
        if not (folder / name).is_file():
            made.wrong(f"{folder / name} is gone, and the model's index names it: get it again")
            continue
        if kind_of(folder / name) != "safetensors":
            made.wrong(f"{folder / name} is no safetensors file: get it again")
            continue
        part, entries = _describe_file(folder / name, asked)
        made.parts.append(part)
        tensors += len(entries or ())
    reason = _say_gpt2(made) if tensors else None
    if reason is not None and config.get("model_type") == "gpt2" and not made.all_problems():
        made.wrong(f"{CONFIG_FILE} and the tensors do not make a GPT-2 that llmc reads: {reason}")
    there = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    made.say("tokenizer_files", there, ", ".join(there) or "none")
    return made


def _config(made: Description) -> dict[str, Any]:
    try:
        config = read_json(made.path / CONFIG_FILE)
    except FileNotFoundError:
        made.say("config", None, f"no {CONFIG_FILE}")
        return {}
    except ValueError as error:
        made.wrong(f"{CONFIG_FILE} is broken JSON ({safe_text(str(error))}): get it again")
        return {}
    if not isinstance(config, dict):
        made.wrong(f"{CONFIG_FILE} is no table of settings: get it again")
        return {}
    made.note("config", config)
    shown = [f"{key} {safe_text(str(config[key]), 40)}" for key in SHOWN_KEYS if key in config]
    made.tell("settings", ", ".join(shown) or "none that llmc knows")
    return config


def _files(made: Description) -> list[str]:
    """Return the names of the safetensors files, from the index or the folder."""
    folder = made.path
    if (folder / INDEX).is_file():
        try:
            names = sorted(index_parts(folder / INDEX))
        except (LlmcError, RecursionError) as error:
            made.wrong(safe_text(str(error), None))
            return []
        if len(names) > MOST_FILES:
            made.wrong(f"{INDEX} names {len(names):,} files, more than any model has")
            return []
        made.say("files", len(names), f"{len(names):,}, named by {INDEX}")
        return names
    if (folder / SAFETENSORS).is_file():
        return [SAFETENSORS]
    for name in (PICKLE, PICKLE + INDEX_SUFFIX):
        if (folder / name).is_file():
            size = (folder / name).stat().st_size
            made.say("weights", name, f"{name}, {byte_count(size)}, a pickle, not opened")
            return []
    made.say("weights", None, f"none: there is no {SAFETENSORS}")
    return []
