"""The PyTorch side of ``llmc bench``: the same work, timed in the same way.

``python -m llmc.check.torch_bench`` reads one JSON object per line of stdin. It prints events and
fails like the engine, with one sentence on stderr and an exit code. bf16 is PyTorch's own mixed
precision: autocast around the forward pass, parameters and optimizer in float32.
"""

from __future__ import annotations

import functools
import itertools
import json
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from llmc.config import TrainConfig
from llmc.errors import BadData, CompileFailed, LlmcError
from llmc.model import ModelConfig
from llmc.parsing import from_json

if TYPE_CHECKING:
    import torch

    from llmc.check.torch_model import GPT2

WARMUP = 2


@functools.lru_cache(maxsize=1)
def _trained(config: ModelConfig) -> tuple[GPT2, torch.optim.Optimizer]:
    from llmc.check.torch_model import GPT2

    model = GPT2(config)
    return model, model.adamw(TrainConfig(), fused=True)


@functools.lru_cache(maxsize=1)
def _compiled(config: ModelConfig) -> Any:
    import torch

    return torch.compile(_trained(config)[0])


def time_steps(
    config: ModelConfig, *, B: int, T: int, steps: int, dtype: str, compiled: bool
) -> None:
    """Train on random tokens, (B,T), and print each step's seconds as a line of JSON.

    A step is the same as the engine's: forward, backward, global norm of the gradient (the first
    half of ``clip_grad_norm_``, in one foreach call) and fused AdamW. Two more steps come before,
    untimed.
    """
    import torch
    from torch.nn.utils import get_total_norm

    model, optimizer = _trained(config)
    run = _compiled(config) if compiled else model
    parameters = list(model.parameters())
    for step in range(WARMUP + steps):
        ids, targets = torch.randint(0, config.vocab_size, (2, B, T))
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = run(ids, targets)[1]
        loss.backward()
        get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        optimizer.step()
        if step >= WARMUP:
            _print_event("step", seconds=time.perf_counter() - start)


def time_attention(config: ModelConfig, *, B: int, T: int, steps: int, dtype: str) -> None:
    """Time causal attention forward and backward, and print each call's seconds.

    Only ``scaled_dot_product_attention`` is timed, on queries, keys and values in its preferred
    layout (B,NH,T,HS); the engine's time includes reading them from (B,T,3C). Each step makes one
    call per layer; two more steps come before, untimed.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    shape = B, config.heads, T, config.channels // config.heads
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    layers = [[torch.randn(shape, dtype=kind) for _ in range(4)] for _ in range(config.layers)]
    for step, (q, k, v, dy) in itertools.product(range(WARMUP + steps), layers):
        inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
        start = time.perf_counter()
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(y, inputs, dy)
        if step >= WARMUP:
            _print_event("step", seconds=time.perf_counter() - start)


def _print_event(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _run(what: str, compiled: bool, config: dict[str, int], threads: int, **work: Any) -> None:
    import torch

    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise BadData(f"PyTorch takes {torch.get_num_threads()} threads, not {threads}")
    _print_event("start", torch=torch.__version__, threads=torch.get_num_threads())
    if what == "steps":
        time_steps(ModelConfig(**config), compiled=compiled, **work)
    else:
        time_attention(ModelConfig(**config), **work)
    _print_event("end", peak_memory_bytes=_peak_memory())


def _sentence(error: Exception, *, compiled: bool) -> LlmcError:
    """Return a failure of PyTorch as one sentence with an exit code."""
    if isinstance(error, LlmcError):
        return error
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if compiled:
        return CompileFailed(
            f"torch.compile failed ({text}): it needs a C++ compiler, g++ or what CXX names; "
            "--against torch needs none"
        )
    return BadData(f"PyTorch failed ({text})")


def main() -> None:
    """Run the requests of stdin, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once, not after torch.compile
    for line in sys.stdin:
        request = from_json(line)
        try:
            _run(**request)
        except Exception as error:
            failure = _sentence(error, compiled=request["compiled"])
            sys.stderr.write(f"error: {failure}\n")
            sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()
