"""The tolerances between the engine and PyTorch.

The distance of a tensor is ‖ours − torch‖ / ‖torch‖, with PyTorch in float32. Where PyTorch itself
is farther than the bound from its own result in float64, float32 has too few digits; there the
bound is a small multiple of PyTorch's own distance.
"""

from __future__ import annotations

FORWARD_AND_BACKWARD = 1e-5  # loss, logits, gradients
AFTER_TEN_STEPS = 1e-4  # losses and parameters
TIMES_TORCHS_OWN = 3.0

BF16_STEP = 0.02
BF16_STEPS = 0.05
"""Bounds for ``--dtype bf16``, from PyTorch in float64."""

TIMES_AUTOCASTS = 1.1
"""The largest distance of a bf16 gradient from float64, in units of PyTorch autocast's distance;
all gradients together must be no farther than autocast's."""

BF16_LOSS_CURVE = 0.01
"""The largest difference between the losses of a run in bf16 and in fp32."""

STEPS = 10
"""Steps of AdamW before parameters are compared."""

GREEDY_LOGIT = 1e-4
"""How far the logit of a greedy token may be below PyTorch's largest one: rounding decides between
equal logits."""

TORCHS_OWN_124M = {"qkvb": 1.4e-3}
"""PyTorch's own distances above the bound after ten steps of GPT-2 124M, measured by
``python -m tests.programs.parity``."""
