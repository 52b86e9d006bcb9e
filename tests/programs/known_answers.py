"""The known answers of ``llmc doctor``, computed by PyTorch in float64.

``python -m tests.programs.known_answers`` writes ``llmc/check/known_answers.json`` anew: after a
change of the model in ``llmc/check/known_answers.py``, and for no other reason.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch

from llmc.check.known_answers import ANSWERS, MODEL, TRAIN, Answers, answers_of, tensors, tokens
from llmc.check.torch_model import GPT2

DIGITS = 12  # of the 16 that float64 has: what the last ones are, the machine decides


def torchs_answers(dtype: torch.dtype = torch.float64) -> Answers:
    """Run the twin through the steps."""
    model = GPT2(MODEL).to(dtype).load(tensors())
    optimizer = model.adamw(TRAIN)
    B, T = TRAIN.batch_size, TRAIN.seq_len
    gradients, losses = {}, []
    for step in range(TRAIN.steps):
        run = torch.from_numpy(tokens()[step * B * T : (step + 1) * B * T + 1])
        loss = model(run[:-1].view(B, T), run[1:].view(B, T))[1]
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {name: gradient.copy() for name, gradient in model.gradients().items()}
        optimizer.step()
        losses.append(loss.item())
    return answers_of(losses, gradients, model.tensors())


def shown(answers: Answers) -> str:
    """Return the answers as JSON, a tensor a line."""

    def row(values: list[float]) -> str:
        return json.dumps([float(f"{value:.{DIGITS}g}") for value in values])

    def table(rows: dict[str, list[float]]) -> str:
        return "{\n" + ",\n".join(f'  "{name}": {row(rows[name])}' for name in rows) + "\n }"

    fields = {k: table(v) if isinstance(v, dict) else row(v) for k, v in asdict(answers).items()}
    return "{\n" + ",\n".join(f' "{name}": {value}' for name, value in fields.items()) + "\n}\n"


if __name__ == "__main__":
    ANSWERS.write_text(shown(torchs_answers()), encoding="utf-8")
