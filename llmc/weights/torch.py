"""PyTorch's files: ``pytorch_model.bin``, ``.pt``, ``.pth``, ``.ckpt``.

A pickle can run code, so only torch reads them, and only tensors and plain values
(``weights_only=True``). No other reader imports torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.errors import BadData, MissingOutput
from llmc.installation import install_command
from llmc.kinds import HEAD_BYTES, not_data
from llmc.weights.base import Stored
from llmc.weights.safetensors import INDEX_SUFFIX, index_parts

# torch's name of a type -> ours.
KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class TorchTensor:
    """The type of a tensor in a pickle, by its name in safetensors, and its shape."""

    dtype: str
    shape: tuple[int, ...]


class TorchTensors:
    """Named tensors that torch has loaded, with the interface of ``SafetensorsFile``.

    Attributes:
        path: the file or the index.
        entries: by name.
        metadata: none.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Any]) -> None:
        """Wrap the tensors of a loaded file."""
        self.path = path
        self._tensors = tensors
        self.metadata: dict[str, str] = {}
        self.entries = {name: _entry(tensor) for name, tensor in tensors.items()}

    def stored(self, name: str) -> Stored:
        """Return a tensor, in torch's memory."""
        import torch

        tensor, kind = self._tensors[name].detach(), self.entries[name].dtype
        bits = tensor.view(torch.uint16) if kind == "BF16" else tensor
        return Stored(kind, bits.numpy())


def load_tensors(path: Path) -> TorchTensors:
    """Return the tensors of a state dict in one file, or in several behind an index.

    Raises:
        BadData: it is no state dict, is damaged, or torch is not installed.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return TorchTensors(path, tensors_in(path, load_pickle(path)))
    tensors = {}
    for file, names in index_parts(path).items():
        part = path.with_name(file)
        found = tensors_in(part, load_pickle(part))
        for name in names:
            if name not in found:
                raise BadData(f"{part} has no tensor {name}, which {path.name} promises")
            tensors[name] = found[name]
    return TorchTensors(path, tensors)


def load_pickle(path: Path) -> Any:
    """Return the contents of a PyTorch file, memory-mapped if its format allows.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is damaged or holds more than tensors and plain values, or torch is missing.
    """
    if not path.is_file():
        raise MissingOutput(f"there is no file {path}")
    with path.open("rb") as file:
        if (sentence := not_data(file.read(HEAD_BYTES), str(path))) is not None:
            raise BadData(sentence)
    try:
        import torch
    except ImportError as error:
        raise BadData(
            f"{path} is a pickle, which only PyTorch reads safely: {install_command('torch')}, or "
            "get the same weights as .safetensors"
        ) from error
    try:
        # Files of torch before 1.6 are no zip archives and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, pickle's errors, EOFError …
        reason = str(error).strip().partition("\n")[0]
        raise BadData(
            f"{path} cannot be read as tensors and plain values alone "
            f"({type(error).__name__}: {reason}): get it again, or as .safetensors"
        ) from error


def tensors_in(path: Path, loaded: Any) -> dict[str, Any]:
    """Return the state dict in a loaded file.

    Raises:
        BadData: it is no state dict.
    """
    import torch

    if not isinstance(loaded, Mapping) or not loaded:
        raise BadData(f"{path} holds no named tensors: it is not a model's weights")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise BadData(f"{path} holds {name!r}, which is no tensor: it is not a model's weights")
    return dict(loaded)


def _entry(tensor: Any) -> TorchTensor:
    dense = str(tensor.layout) == "torch.strided"
    name = str(tensor.dtype if dense else tensor.layout).removeprefix("torch.")
    return TorchTensor(KINDS.get(name, name), tuple(tensor.shape))
