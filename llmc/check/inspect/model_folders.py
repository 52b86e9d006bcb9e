"""A model's folder as Hugging Face lays it out: config.json and safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmc.check.inspect.description import Description, byte_count, safe_text
from llmc.check.inspect.detect import kind_of
from llmc.check.inspect.manifests import read_json
from llmc.check.inspect.reading import Asked, file_size
from llmc.check.inspect.safetensors_files import describe_file, say_gpt2

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
MOST_FILES = 1000
SHOWN_KEYS = (
    "model_type",
    "architectures",
    "n_layer",
    "n_head",
    "n_embd",
    "n_positions",
    "n_ctx",
    "vocab_size",
    "activation_function",
    "layer_norm_epsilon",
    "torch_dtype",
    "dtype",
    "transformers_version",
)


def describe_model_folder(folder: Path, asked: Asked) -> Description:
    """Describe a Hugging Face model.

    Raises:
        OSError: a file cannot be read.
    """
    made = Description(folder, "huggingface", "Hugging Face model")
    config = _config(made)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in _files(made):
        if not (folder / name).is_file():
            made.wrong(f"{folder / name} is gone, and the model's index names it: get it again")
            continue
        if kind_of(folder / name) != "safetensors":
            made.wrong(f"{folder / name} is no safetensors file: get it again")
            continue
        part, tensors = describe_file(folder / name, asked)
        made.parts.append(part)
        shapes |= {name: item.shape for name, item in (tensors or {}).items()}
    if shapes:
        heads = config.get("n_head")
        say_gpt2(made, shapes, heads if type(heads) is int and heads > 0 else None)
        _compare(made, config)
    there = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    made.say("tokenizer_files", there, ", ".join(there) or "none")
    return made


def _config(made: Description) -> dict[str, Any]:
    try:
        config = read_json(made.path / CONFIG)
    except FileNotFoundError:
        made.say("config", None, f"no {CONFIG}")
        return {}
    except ValueError as error:
        made.wrong(f"{CONFIG} is broken JSON ({safe_text(str(error))}): get it again")
        return {}
    if not isinstance(config, dict):
        made.wrong(f"{CONFIG} is no table of settings: get it again")
        return {}
    made.note("config", config)
    shown = [f"{key} {safe_text(str(config[key]), 40)}" for key in SHOWN_KEYS if key in config]
    made.tell("settings", ", ".join(shown) or "none that llmc knows")
    return config


def _files(made: Description) -> list[str]:
    """Return the names of the safetensors files, as the index or the folder tells."""
    folder = made.path
    if (folder / INDEX).is_file():
        try:
            index = read_json(folder / INDEX)
            names = sorted(set(index["weight_map"].values()))
            if len(names) > MOST_FILES or not all(_beside(name) for name in names):
                raise ValueError("it names files that do not lie beside it, or very many")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            made.wrong(f"{INDEX} is broken ({safe_text(str(error))}): get it again")
            return []
        made.say("files", len(names), f"{len(names):,}, named by {INDEX}")
        return names
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    for name in PICKLES:
        if (folder / name).is_file():
            size = file_size(folder / name)
            made.say("weights", name, f"{name}, {byte_count(size)}, a pickle, not opened")
            return []
    made.say("weights", None, f"none: there is no {WEIGHTS}")
    return []


def _beside(name: object) -> bool:
    """Say whether a name is that of a file in the same folder."""
    if not isinstance(name, str) or name in ("", "..") or "\0" in name:
        return False
    return Path(name).name == name


def _compare(made: Description, config: dict[str, Any]) -> None:
    """Hold the shape of the tensors against the config."""
    shape = made.known("shape")
    if shape is None:
        return
    told = {
        "layers": config.get("n_layer"),
        "channels": config.get("n_embd"),
        "context": config.get("n_positions", config.get("n_ctx")),
        "vocab_size": config.get("vocab_size"),
    }
    for key, value in told.items():
        if value is not None and value != shape[key]:
            made.wrong(
                f"{CONFIG} tells of {key} {safe_text(str(value), 40)}, and the tensors have "
                f"{shape[key]:,}"
            )
