"""GPT-2 in PyTorch, written to be read: the oracle of the C engine, and its rival in benchmarks.

B batch, T time, C channels, V vocabulary, Vp padded vocabulary, L layers, NH heads, HS head size.
The model of Radford et al. 2019: pre-norm blocks, GELU by its tanh formula, learned positions, and
one matrix for the token embedding and the classifier. It computes in the type of its weights;
float64 shows how far float32 itself is off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from llmc.config import TrainConfig
from llmc.model import ModelConfig, tensor_shapes

# llmc's name of a tensor -> its attribute of a block, or of the whole model.
OF_BLOCK = {
    "ln1w": "ln1.weight",
    "ln1b": "ln1.bias",
    "qkvw": "qkv.weight",
    "qkvb": "qkv.bias",
    "attprojw": "attproj.weight",
    "attprojb": "attproj.bias",
    "ln2w": "ln2.weight",
    "ln2b": "ln2.bias",
    "fcw": "fc.weight",
    "fcb": "fc.bias",
    "fcprojw": "fcproj.weight",
    "fcprojb": "fcproj.bias",
}
OF_MODEL = {"wte": "wte.weight", "wpe": "wpe.weight", "lnfw": "lnf.weight", "lnfb": "lnf.bias"}


class Block(nn.Module):
    """Attention, then a perceptron of width 4C, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.channels
        self.heads = config.heads
        self.ln1 = nn.LayerNorm(C, eps=1e-5)
        self.qkv = nn.Linear(C, 3 * C)
        self.attproj = nn.Linear(C, C)
        self.ln2 = nn.LayerNorm(C, eps=1e-5)
        self.fc = nn.Linear(C, 4 * C)
        self.fcproj = nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream (B,T,C) after this layer."""
        x = x + self.attproj(self.attention(self.qkv(self.ln1(x))))
        out: Tensor = x + self.fcproj(functional.gelu(self.fc(self.ln2(x)), approximate="tanh"))
        return out

    def attention(self, qkv: Tensor) -> Tensor:
        """Return causal attention (B,T,C) over queries, keys and values, side by side (B,T,3C)."""
        B, T, C3 = qkv.shape
        q, k, v = qkv.view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (B,NH,T,HS)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(B, T, C3 // 3)


class GPT2(nn.Module):
    """The whole model, its weights not set: :meth:`load` gives them values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.channels)
        self.wpe = nn.Embedding(config.context, config.channels)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.lnf = nn.LayerNorm(config.channels, eps=1e-5)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return logits (B,T,V) and, given targets (B,T), the mean cross-entropy over B·T."""
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.lnf(x), self.wte.weight)
        if targets is None:
            return logits, None
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def adamw(self, train: TrainConfig, *, fused: bool = False) -> torch.optim.AdamW:
        """Return the optimizer: decay on matrices only, both embeddings among them."""
        parameters = list(self.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": train.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        betas = (train.beta1, train.beta2)
        return torch.optim.AdamW(groups, lr=train.lr, betas=betas, eps=train.eps, fused=fused)

    def named(self, name: str) -> list[nn.Parameter]:
        """Return what llmc stacks under ``name``: one parameter per layer, or the only one."""
        if name in OF_MODEL:
            return [self.get_parameter(OF_MODEL[name])]
        return [self.get_parameter(f"blocks.{i}.{OF_BLOCK[name]}") for i in range(len(self.blocks))]

    @torch.no_grad()
    def load(self, tensors: Mapping[str, NDArray[np.floating]]) -> GPT2:
        """Take the tensors of a checkpoint, without the padding of the vocabulary; return self."""
        for name in tensor_shapes(self.config):
            mine = self.named(name)
            stacked = torch.tensor(tensors[name]).reshape(len(mine), -1, *mine[0].shape[1:])
            for parameter, values in zip(mine, stacked, strict=True):
                parameter.copy_(values[: parameter.shape[0]])
        return self

    def tensors(self) -> dict[str, NDArray[np.floating]]:
        """Return the parameters under llmc's names, in llmc's shapes, wte padded with zeros."""
        return {name: self._stacked(name, self.named(name)) for name in tensor_shapes(self.config)}

    def gradients(self) -> dict[str, NDArray[np.floating]]:
        """Return the gradients likewise; call after ``loss.backward()``."""
        return {
            name: self._stacked(name, [p.grad for p in self.named(name) if p.grad is not None])
            for name in tensor_shapes(self.config)
        }

    def _stacked(self, name: str, parts: Sequence[Tensor]) -> NDArray[np.floating]:
        shape = tensor_shapes(self.config)[name]
        whole = torch.zeros(shape, dtype=parts[0].dtype)
        flat = torch.cat([part.detach() for part in parts]).reshape(-1, *shape[1:])
        whole[: flat.shape[0]] = flat
        return whole.numpy()
