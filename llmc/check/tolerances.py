"""How far the engine may be from its PyTorch twin: the one table of it.

A distance is ‖ours − torch‖ / ‖torch‖, of one tensor as a whole, torch computing in float32. Where
torch itself is farther than the bound from a twin in float64, it is the arithmetic that runs out of
digits, not the engine: there a small multiple of torch's own distance is the bound.
"""

from __future__ import annotations

FORWARD_AND_BACKWARD = 1e-5  # loss, logits, gradients
AFTER_TEN_STEPS = 1e-4  # losses and parameters
TIMES_TORCHS_OWN = 3.0

BF16_STEP = 0.02
BF16_STEPS = 0.05
"""With ``--dtype bf16``, from PyTorch in float64. What it is held to is PyTorch's autocast:"""

TIMES_AUTOCASTS = 1.1
"""No gradient is farther from float64 than autocast's times this, nor all of them together than
autocast's."""

BF16_LOSS_CURVE = 0.01
"""How far a loss of a run in bf16 may be from that of the same run in fp32."""

STEPS = 10
"""Updates by AdamW that a comparison of parameters covers."""

GREEDY_LOGIT = 1e-4
"""By how much a token chosen greedily may lie below the twin's most likely one: rounding decides
between equals."""

TORCHS_OWN_124M = {"qkvb": 1.4e-3}
"""Torch's own distances after ten steps of GPT-2 124M, those above the bound, as measured by
``python -m tests.programs.parity``."""
