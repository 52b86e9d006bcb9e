"""Weights that llmc does not read: whose they are, and the way to what it reads."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

LOAD = "GPT2LMHeadModel.from_pretrained"
SAVE = "save_pretrained('OUT'), then 'llmc export-weights OUT'"
WITH_4 = "convert them with transformers 4 and {0}, " + LOAD
TENSORFLOW = f"TensorFlow's weights: {WITH_4.format('TensorFlow')}('FOLDER', from_tf=True).{SAVE}"
CHECKPOINT = (
    f"a TensorFlow checkpoint: {WITH_4.format('TensorFlow').replace('them', 'it')}"
    f"('FOLDER/model.ckpt.index', from_tf=True, config=GPT2Config(…)).{SAVE}; hparams.json "
    "beside it has the shape"
)
FLAX = f"Flax's weights: {WITH_4.format('Flax')}('FOLDER', from_flax=True).{SAVE}"
ADAPTER = (
    "an adapter of peft: merge it with its model, PeftModel.from_pretrained(MODEL, 'FOLDER')"
    f".merge_and_unload().{SAVE}"
)
DISTRIBUTED = (
    "a checkpoint in pieces: join them with 'python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER out.pt', then "
    "'llmc export-weights out.pt'"
)
DEEPSPEED = (
    "a checkpoint of DeepSpeed in pieces: join them with 'python FOLDER/zero_to_fp32.py FOLDER "
    "OUT', then name the file in OUT"
)
COMPILED = (
    "a model for another runtime: get its .safetensors or pytorch_model.bin from where it came"
)
# Names of files, and what they are.
OTHERS = (
    ("*.ckpt*.index", CHECKPOINT),
    ("*.ckpt*.data-*-of-*", CHECKPOINT),
    ("*.ckpt*.meta", CHECKPOINT),
    ("tf_model*.h5", TENSORFLOW),
    ("saved_model.pb", TENSORFLOW),
    ("*.msgpack", FLAX),
    ("adapter_model.*", ADAPTER),
    ("*.distcp", DISTRIBUTED),
    ("zero_to_fp32.py", DEEPSPEED),
    ("*.onnx", COMPILED),
    ("*.tflite", COMPILED),
    ("openvino_model.*", COMPILED),
)
# Beginnings of files under any name.
STARTS = ((b"\x89HDF\r\n", TENSORFLOW), (b"model_checkpoint_path:", CHECKPOINT))
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.safetensors|\.bin)")
FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".gguf", ".bin")  # that may be a model


def foreign_file(path: Path, head: bytes = b"") -> str | None:
    """Return a sentence on a file of weights that llmc does not read; None if it may read it.

    It is another program's, or one of several files of a model. ``head`` are its first bytes.
    """
    if (match := SHARD.fullmatch(path.name)) is not None and int(match[2]) > 1:
        index = path.with_name(f"{match[1]}{match[3]}.index.json")
        one = f"{path} is one of {int(match[2])} files of a model"
        if index.is_file():
            return f"{one}: name their index {index}, or the folder"
        return f"{one}, and their index {index.name} is not there: get it too"
    found = [what for pattern, what in OTHERS if fnmatch(path.name, pattern)]
    found += [what for start, what in STARTS if head.startswith(start)]
    return f"{path} is {_in(found[0], path.parent)}" if found else None


def foreign_folder(folder: Path) -> str | None:
    """Return a sentence on a folder whose weights llmc does not find; None if it has none."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for pattern, what in OTHERS:
        if any(fnmatch(each.name, pattern) for each in entries):
            return f"{folder} holds {_in(what, folder)}"
    for each in entries:
        if SHARD.fullmatch(each.name):
            return foreign_file(each)
    models = [each for each in entries if each.suffix in FILES and each.is_file()]
    models += [each for each in entries if each.is_dir() and (each / "config.json").is_file()]
    if not models:
        return None
    several = f" (it has {len(models)})" if len(models) > 1 else ""
    return f"{folder} is not a model's folder, but has one in it: name {models[-1]}{several}"


def _in(what: str, folder: Path) -> str:
    return what.replace("FOLDER", str(folder))
