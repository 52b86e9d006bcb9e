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
from llmc.weights.names import listed
from llmc.weights.number_types import Stored
from llmc.weights.safetensors import INDEX_SUFFIX, read_parts

# Keys of the tensors in trainers' checkpoints.
WRAPPERS = ("model_state_dict", "state_dict", "model_state", "module", "model", "weights")
# torch's name of a type -> ours.
KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class TorchTensor:
    """A tensor that torch has loaded, and its type by its name in safetensors."""

    dtype: str
    shape: tuple[int, ...]
    tensor: Any

    def stored(self) -> Stored:
        """Return the tensor, in torch's memory."""
        import torch

        tensor = self.tensor.detach()
        bits = tensor.view(torch.uint16) if self.dtype == "BF16" else tensor
        return Stored(self.dtype, bits.numpy())


def load_tensors(path: Path) -> dict[str, TorchTensor]:
    """Return the tensors of a state dict in one file, or in several behind an index.

    Raises:
        MissingOutput: there is no such file.
        BadData: it is not a state dict, is damaged, or torch is not installed.
    """

    def read(file: Path) -> dict[str, TorchTensor]:
        return tensors_in(file, load_pickle(file))

    return read_parts(path, read) if path.name.endswith(INDEX_SUFFIX) else read(path)


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
        if mapped:
            _check_sizes(path)
        with torch.serialization.safe_globals(_inert_globals(path) if mapped else []):
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, pickle's errors, EOFError …
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]  # not torch's advice
        raise BadData(
            f"{path} cannot be read as tensors and plain values alone "
            f"({type(error).__name__}: {reason}): get it again, or as .safetensors; if it holds "
            "objects of a program's own, save its tensors alone there: "
            "torch.save(model.state_dict(), FILE)"
        ) from error


def _check_sizes(path: Path) -> None:
    """Refuse an archive that grows as it is read; torch stores its files as they are.

    Raises:
        ValueError: it does.
    """
    with zipfile.ZipFile(path) as archive:
        items = archive.infolist()
    if any(item.compress_type != zipfile.ZIP_STORED for item in items):
        raise ValueError("its files are compressed, which torch never does")
    if sum(item.file_size for item in items) > path.stat().st_size:
        raise ValueError("its files are larger than it is")


class _Inert(type):
    """The type of classes that stand for a program's own, such as a trainer's configuration.

    They keep the attributes of an object and run no code. A pickle that calls one, as code would
    be called, is refused; only paths are made so.
    """

    def __call__(cls, *args: Any) -> Any:
        if not cls.__name__.startswith("pathlib"):
            raise ValueError(f"it would call {cls.__name__}")
        return super().__call__()


def _inert_globals(path: Path) -> list[Any]:
    """Return a class that does nothing for each class of a file that torch does not know."""
    import torch

    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    # "torch." are storages and modules: a whole model is more than its weights.
    inert = {"__new__": lambda cls, *args: object.__new__(cls)}
    return [(_Inert(name, (), inert), name) for name in names if not name.startswith("torch.")]


def state_in(loaded: Any) -> Any:
    """Return the state dict that a trainer saved beside other things, else what was given."""
    import torch

    while isinstance(loaded, Mapping):
        if any(
            isinstance(value, torch.Tensor) and "." in str(name) for name, value in loaded.items()
        ):
            break
        inner = [loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    return loaded


def tensors_in(path: Path, loaded: Any) -> dict[str, TorchTensor]:
    """Return the state dict in a loaded file, under its own names.

    Raises:
        BadData: it is not a state dict.
    """
    import torch

    loaded = state_in(loaded)
    if not isinstance(loaded, Mapping) or not loaded:
        raise BadData(f"{path} holds no named tensors: it is not a model's weights")
    found = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise BadData(
                f"{path} holds {name!r}, which is not a tensor, so the file is not a "
                f"model's weights. It holds {len(loaded)} things: {listed(map(str, loaded))}"
            )
        dense = value.layout == torch.strided
        if dense and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise BadData(
                f"{path}: {name} has the shape {tuple(value.shape)}, and fewer numbers than that"
            )
        kind = str(value.dtype if dense else value.layout).removeprefix("torch.")
        found[name] = TorchTensor(KINDS.get(kind, kind), tuple(value.shape), value)
    return found
