"""Time training in several processes: ``python tools/ranks_bench.py``.

An update of GPT-2 124M (random weights, random tokens, T = 64) in three ways: N ranks over MPI, one
process with as many threads as they have together, and PyTorch's DistributedDataParallel over gloo
in as many processes as there are ranks. All make the same updates: forward, backward, the norm of
the gradient, AdamW, of the same number of tokens. Every measurement is a process of its own, or one
``mpirun``; the three alternate, and who begins changes from round to round. Two updates warm up,
and the median of the next ones counts. Ratios are taken within a round.

Every round is kept in docs/measured/ranks.json as soon as it is there, by CPU and shape; a stopped
call continues when it is repeated. ``--print`` makes the tables of docs/measured/ranks.md from what
is kept. ``--network`` prints the table of docs/guide/cluster.md, which is a formula.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

KEPT = Path(__file__).resolve().parents[1] / "docs" / "measured" / "ranks.json"
T, WARMUP = 64, 2
SIDES = ("ranks", "alone", "torch")

Round = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What is compared: so many ranks, threads of each, rows of a batch, batches of an update."""

    ranks: int
    threads: int
    B: int
    batches: int

    @property
    def update(self) -> int:
        """Tokens of an update."""
        return self.ranks * self.B * T * self.batches

    @property
    def key(self) -> str:
        """The name under which it is kept."""
        return f"{self.ranks}x{self.threads} B={self.B} batches={self.batches}"


class Bench:
    """The files, the launcher and the engine of all measurements."""

    def __init__(self, folder: Path, launch: str, steps: int) -> None:
        """Make random weights and tokens in ``folder``."""
        from llmc.engine.build import ensure_native
        from llmc.tokens.files import write_tokens

        self.binary, self.launch, self.steps = ensure_native(), shlex.split(launch), steps
        self.model, self.data = folder / "random.bin", folder / "tokens.bin"
        words = ["--quiet", "export-weights", "random:gpt2-124m", "--out", str(self.model)]
        subprocess.run([sys.executable, "-m", "llmc", *words], check=True)
        tokens = np.random.default_rng(1).integers(0, 50257, 1 << 18)
        write_tokens(self.data, [tokens], 50257)

    def engine(self, shape: Shape, *, alone: bool) -> list[float]:
        """Return the seconds of each update that counts."""
        ranks = 1 if alone else shape.ranks
        flags = {
            "model": self.model,
            "data": self.data,
            "batch-size": shape.B * (shape.ranks if alone else 1),
            "seq-len": T,
            "total-batch-size": shape.update,
            "shares": ranks,
            "threads": shape.threads * (shape.ranks if alone else 1),
            "steps": WARMUP + self.steps,
            "events": "json",
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        front = [] if alone else [*self.launch, "-n", str(ranks)]
        return self.told([*front, str(self.binary), "train", *words], "step_ms", 1e-3)

    def torch(self, shape: Shape) -> list[float]:
        """Return the same of PyTorch."""
        argv = [sys.executable, __file__, "--ddp", json.dumps(asdict(shape))]
        return self.told([*argv, "--steps", str(self.steps)], "seconds", 1)

    def told(self, argv: list[str], name: str, unit: float) -> list[float]:
        """Run a program to its end; return what it told of its updates but the first."""
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
        found = [line[name] * unit for line in lines if "event" not in line and name in line]
        assert len(found) == WARMUP + self.steps, (argv, done.stdout)
        return found[WARMUP:]

    def round(self, shape: Shape, number: int) -> Round:
        """Measure all three in turn."""
        sides: dict[str, Callable[[], list[float]]] = {
            "ranks": lambda: self.engine(shape, alone=False),
            "alone": lambda: self.engine(shape, alone=True),
            "torch": lambda: self.torch(shape),
        }
        found: Round = {"load": round(os.getloadavg()[0], 2)}
        first = number % len(SIDES)
        for side in SIDES[first:] + SIDES[:first]:
            found[side] = [round(seconds, 4) for seconds in sides[side]()]
        return found


def ddp_rank(rank: int, shape: Shape, steps: int, port: int) -> None:
    """Train in one of PyTorch's processes; the first prints the seconds of each update."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel
    from torch.nn.utils import get_total_norm

    from llmc.check.torch_model import GPT2
    from llmc.config import TrainConfig
    from llmc.preset import load_preset

    torch.set_num_threads(shape.threads)
    torch.manual_seed(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    distributed.init_process_group("gloo", rank=rank, world_size=shape.ranks)
    config = load_preset("gpt2-124m").model
    model = GPT2(config)
    run = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = model.adamw(TrainConfig(), fused=True)
    parameters = list(model.parameters())
    for _ in range(WARMUP + steps):
        batches = torch.randint(0, config.vocab_size, (shape.batches, 2, shape.B, T))
        distributed.barrier()
        began = time.perf_counter()
        optimizer.zero_grad()
        for number, (ids, targets) in enumerate(batches):
            run.require_backward_grad_sync = number == shape.batches - 1  # what no_sync() sets
            (run(ids, targets)[1] / shape.batches).backward()
        get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        optimizer.step()
        if rank == 0:
            print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
    distributed.destroy_process_group()


def ddp(shape: Shape, steps: int) -> None:
    """Start PyTorch's processes and wait for them."""
    import socket

    from torch import multiprocessing

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    multiprocessing.spawn(ddp_rank, (shape, steps, port), nprocs=shape.ranks)


def ratios(rounds: list[Round], other: str) -> list[float]:
    """Return how many times as fast the ranks were as another side, in each round."""
    return [
        statistics.median(each[other]) / statistics.median(each["ranks"])
        for each in rounds
        if other in each
    ]


def table(kept: dict[str, dict[str, list[Round]]]) -> list[str]:
    """Return docs/measured/ranks.md's table."""
    lines = [
        "| CPU | ranks × threads | batches of a rank | ranks | one process | "
        "ratio | PyTorch DDP | ratio |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for cpu, shapes in kept.items():
        for key, rounds in shapes.items():
            name, B, batches = key.replace("x", " × ").split(" B=")[0], *key.split(" ")[1:]
            cells = [cpu, name, f"{batches.split('=')[1]} of {B}", _seconds(rounds, "ranks")]
            for side in SIDES[1:]:
                found = ratios(rounds, side)
                cells += [
                    _seconds(rounds, side),
                    f"**{statistics.median(found):.2f}** ({min(found):.2f} to {max(found):.2f})",
                ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _seconds(rounds: list[Round], side: str) -> str:
    return f"{statistics.median(statistics.median(each[side]) for each in rounds):.2f} s"


# ---- what a network leaves, by formula ---------------------------------------------------------

NETWORKS = {  # bytes a second that are usually reached
    "1 Gbit Ethernet": 0.112e9,
    "10 Gbit Ethernet": 1.15e9,
    "25 Gbit Ethernet": 2.8e9,
    "100 Gbit InfiniBand": 11.5e9,
}
P = 124.48e6  # parameters
SPEED = 0.85 * 16 * 264  # tokens/s of 124M on 16 cores in fp32: 264 on a core are measured
CASES = [(f"512K tokens, {name}", 512 << 10, name) for name in NETWORKS] + [
    ("64K tokens, 10 Gbit Ethernet", 64 << 10, "10 Gbit Ethernet"),
    ("8K tokens, 10 Gbit Ethernet", 8 << 10, "10 Gbit Ethernet"),
]
NODES = (2, 4, 8, 16, 32, 64)


def efficiency(tokens: int, nodes: int, bandwidth: float) -> float:
    """Return the speed of so many nodes relative to as many times that of one."""
    computing = tokens / nodes / SPEED
    messages = 2 * 4 * P * (nodes - 1) / nodes / bandwidth
    return computing / (computing + messages)


def network_table() -> list[str]:
    """Return docs/guide/cluster.md's table."""
    lines = [
        f"| GPT-2 124M, tokens of an update | {' | '.join(map(str, NODES))} machines |",
        f"| --- |{' ---: |' * len(NODES)}",
    ]
    for name, tokens, network in CASES:
        cells = [f"{efficiency(tokens, nodes, NETWORKS[network]):.0%}" for nodes in NODES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--batch-size", type=int, default=2, help="rows of a batch of a rank")
    parser.add_argument("--batches", default="1,8", help="of a rank in an update; several numbers")
    parser.add_argument("--steps", type=int, default=4, help="updates that count")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no round after so long")
    parser.add_argument("--launch", default="mpirun", help="what starts the ranks; -n N is added")
    parser.add_argument("--keep", type=Path, default=KEPT, help="where results are kept")
    parser.add_argument("--print", action="store_true", help="measure nothing")
    parser.add_argument("--network", action="store_true", help="print the formula's table")
    parser.add_argument("--ddp", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, keep, print."""
    from llmc.engine.machine import cpu_name

    args = parsed()
    if args.ddp:
        ddp(Shape(**json.loads(args.ddp)), args.steps)
        return
    if args.network:
        print("\n".join(network_table()))
        return
    kept = json.loads(args.keep.read_text()) if args.keep.is_file() else {}
    if not args.print:
        began = time.monotonic()
        shapes = kept.setdefault(cpu_name(), {})
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), args.launch, args.steps)
            for number in range(args.rounds):
                for batches in map(int, args.batches.split(",")):
                    shape = Shape(args.ranks, args.threads, args.batch_size, batches)
                    rounds = shapes.setdefault(shape.key, [])
                    if len(rounds) > number or time.monotonic() - began > args.seconds:
                        continue
                    rounds.append(bench.round(shape, number))
                    print(shape.key, rounds[-1], file=sys.stderr, flush=True)
                    args.keep.write_text(json.dumps(kept, indent=1) + "\n")
    print("\n".join(table(kept)))


if __name__ == "__main__":
    main()
