"""The names of a GPT-2's tensors in Hugging Face's form, whatever a program put before them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import BadData
from llmc.weights.foreign import ADAPTER

if TYPE_CHECKING:
    from llmc.weights.base import Tensor

PREFIX = "transformer."
HEAD, EMBEDDING, POSITIONS = "lm_head.weight", "wte.weight", "wpe.weight"
MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")
SEEN = 8  # names of a file in a message
# What compiled, distributed and checkpointed modules put before a name, and inside it.
WRAPPER = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
ADAPTED = re.compile(r"\.(lora_[A-Za-z_]+|modules_to_save|base_layer|ia3_l|prompt_embeddings)\b")


def short_names(entries: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors under the names of ``huggingface.NAMES``; masks are left out.

    What stands before ``wpe.weight`` in its name is left out of all names. Where only the head is
    stored, which equals the embedding, it is the embedding.

    Raises:
        BadData: they are an adapter of peft, or two tensors have one name; ``path`` is the file.
    """
    if adapted := [name for name in entries if ADAPTED.search(name)]:
        what = ADAPTER.replace("FOLDER", str(path.parent))
        raise BadData(f"{path} is, or has in it ({adapted[0]}), {what}")
    bare = {name: WRAPPER.sub("", name) for name in entries}
    ends = (name for name in bare.values() if f".{name}".endswith(f".{POSITIONS}"))
    before = next(ends, POSITIONS).removesuffix(POSITIONS)
    outer = before.removesuffix(PREFIX)
    found: dict[str, Tensor] = {}
    for name, entry in entries.items():
        start = before if bare[name].startswith(before) else outer
        short = bare[name].removeprefix(start).removeprefix(PREFIX)
        if MASK.fullmatch(short):
            continue
        short = HEAD if short.endswith(f".{HEAD}") else short
        if short in found:
            raise BadData(f"{path} has two tensors {short}: it holds more than one model")
        found[short] = entry
    if EMBEDDING not in found and HEAD in found:
        found[EMBEDDING] = found.pop(HEAD)
    return found


def listed(names: Iterable[str]) -> str:
    """Return the first names of a file as a message lists them."""
    found = sorted(map(repr, names))
    more = f" and {len(found) - SEEN:,} more" if len(found) > SEEN else ""
    return ", ".join(found[:SEEN]) + more
