"""Muon in PyTorch: the formulas of torch.optim.Muon, whose products are in ``train.dtype``."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from llmc.check.torch_model import GPT2
from llmc.config import TrainConfig
from llmc.model import HIDDEN_MATRICES

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Optimizer(Protocol):
    """What both optimizers have."""

    param_groups: list[dict[str, Any]]  # each with its "lr"

    def step(self) -> Any:
        """Update the weights by their gradients."""


def orthogonal(x: Tensor) -> Tensor:
    """Return five steps of Newton-Schulz from x (m,n), divided by its norm."""
    a, b, c = COEFFICIENTS
    out: Tensor = x.T if x.shape[0] > x.shape[1] else x
    out = out / out.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = out @ out.T
        out = a * out + (b * gram + c * gram @ gram) @ out
    return out.T if x.shape[0] > x.shape[1] else out


def matrices(name: str, x: Tensor) -> list[Tensor]:
    """Return the matrices that a layer's tensor is for Muon: qkvw is queries, keys and values."""
    return list(x.chunk(3)) if name == "qkvw" else [x]


def scale(x: Tensor) -> float:
    """Return what an update is multiplied by besides the rate (Liu et al. 2025)."""
    return 0.2 * math.sqrt(max(x.shape))


class Muon:
    """Momentum, made orthogonal, of each layer's hidden matrices."""

    def __init__(self, model: GPT2, train: TrainConfig) -> None:
        self.train = train
        self.dtype = torch.bfloat16 if train.dtype == "bf16" else torch.float32
        self.param_groups: list[dict[str, Any]] = [{"lr": train.lr}]
        self.named = [(name, p) for name in HIDDEN_MATRICES for p in model.named(name)]
        self.momenta = [torch.zeros_like(p) for _, p in self.named]

    @torch.no_grad()
    def step(self) -> None:
        """Update the hidden matrices by their gradients."""
        lr, decay = self.param_groups[0]["lr"], self.train.weight_decay
        for (name, parameter), momentum in zip(self.named, self.momenta, strict=True):
            assert parameter.grad is not None
            momentum.lerp_(parameter.grad, 1 - MOMENTUM)
            wanted = parameter.grad.lerp(momentum, MOMENTUM)
            parameter.mul_(1 - lr * decay)
            for part, x in zip(matrices(name, parameter), matrices(name, wanted), strict=True):
                part.sub_(lr * scale(x) * orthogonal(x.to(self.dtype)))


def beside(adamw: torch.optim.AdamW, model: GPT2, train: TrainConfig) -> list[Optimizer]:
    """Return AdamW without the hidden matrices, and Muon with them."""
    muon = Muon(model, train)
    hidden = {id(parameter) for _, parameter in muon.named}
    for group in adamw.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in hidden]
    return [adamw, muon]
