"""Record what every command prints, returns and writes, to compare two versions of llmc.

``python -m tests.programs.golden record FILE`` runs the commands in a temporary workspace and
writes their exit codes, stdout, stderr and the SHA-256 of every file they made. Run it before and
after a change of structure; ``python -m tests.programs.golden compare BEFORE AFTER`` prints what
differs. The bits of a run depend on the CPU's instruction set: compare records of one machine.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Record = dict[str, Any]

PRESET = """
[model]
layers = 2
heads = 2
channels = 32
context = 64
[train]
steps = 12
batch_size = 2
seq_len = 32
val_every = 4
save_every = 5
sample_every = 6
lr = 1e-3
"""
COMMANDS = [
    "prepare",
    "train",
    "sample",
    "serve",
    "eval",
    "decode",
    "runs",
    "plot",
    "fetch",
    "tokenize",
    "export-weights",
    "inspect",
    "bench",
    "build",
    "doctor",
]
TRAIN = "train --config tiny.toml --threads"
WORK = [
    "--json prepare notes --tokenizer bpe:300 --model random:tiny.toml",
    "--json prepare notes --tokenizer bpe:300 --model random:tiny.toml",
    f"--json {TRAIN} 2 --run a",
    f"{TRAIN} 1 --run b --dtype bf16 --grad-clip 1 --schedule cosine --warmup 2 "
    "--optimizer-state 8bit --recompute",
    f"{TRAIN} 1 --run c --steps 7",
    "train --resume --run c --steps 12 --threads 3",
    "--json train --config tiny.toml --dry-run",
    "--json runs",
    "runs",
    "--json sample --run a --prompt dogs --tokens 20 --seed 3",
    "sample --run a --tokens 20 --seed 3",
    "sample --run a --decode --tokens 20 --seed 3",
    "--json eval a",
    "--json inspect runs/a",
    "inspect runs/a",
    "--json inspect data/notes",
    "inspect --tensors runs/a/model.bin",
    "--json inspect .",
    "--json export-weights a --to hf",
    "--json export-weights a --to gguf --dtype q8_0",
    "export-weights a --to llm.c",
    "--json inspect models/a-hf",
    "--json inspect models/a-gguf",
    "plot a",
    "plot a b --out losses.html",
]
MISTAKES = [
    "train --run nothing --resume",
    "train --nosuch",
    "trian",
    "train --lr -1",
    "inspect nothing.bin",
    "tokenize notes --tokenizer nope",
    "fetch nothing",
    "--workspace empty train",
    "--workspace empty runs",
    "--workspace empty sample",
]
# Parts of the output that differ from one call to the next.
VARYING = re.compile(
    r"\d+(\.\d+)?( ?(ms|s|h|min|MB|GB|kB|tok/s|tokens/s|GF/s|%))|\d{4}-\d\d-\d\dT\S+"
)
# Of metrics.jsonl only these are the same from one call to the next.
METRICS = ("step", "loss", "val_loss", "lr", "grad_norm")


def record() -> Record:
    """Run all commands in a temporary workspace and return what they printed and made."""
    found: Record = {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        notes = workspace / "notes"
        notes.mkdir()
        for number in range(6):
            sentence = f"The {number} quick brown foxes jump over lazy dogs, again and again. "
            (notes / f"{number}.txt").write_text(sentence * 80 + "\n")
        (workspace / "tiny.toml").write_text(PRESET)
        lines = [f"{name} --help".strip() for name in ("", *COMMANDS)] + WORK + MISTAKES
        for number, line in enumerate(lines):
            found[f"{number:02} llmc {line}"] = run(line, workspace)
        found["files"] = {
            str(path.relative_to(workspace)): fingerprint(path)
            for path in sorted(workspace.rglob("*"))
            if path.is_file()
        }
    return found


def run(line: str, workspace: Path) -> Record:
    """Run one command and return its exit code and output."""
    done = subprocess.run(
        [sys.executable, "-m", "llmc", *line.split()],
        cwd=workspace,
        env={**os.environ, "LLMC_OFFLINE": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    print(f"{done.returncode:3} llmc {line}", file=sys.stderr)
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def fingerprint(path: Path) -> str:
    """Return a file's SHA-256; of metrics.jsonl that of what is the same in every run."""
    data = path.read_bytes()
    if path.name == "metrics.jsonl":
        steps = [json.loads(line) for line in data.splitlines()]
        kept = [{key: step[key] for key in METRICS if key in step} for step in steps]
        data = json.dumps(kept).encode()
    return hashlib.sha256(data).hexdigest()


def compare(before: Record, after: Record) -> bool:
    """Print what differs, times and sizes aside; return whether nothing does."""
    same = True
    for key in sorted({*before, *after}):
        old, new = (
            VARYING.sub("#", json.dumps(side.get(key), indent=1).replace("\\n", "\n")).splitlines()
            for side in (before, after)
        )
        difference = list(difflib.unified_diff(old, new, "before", "after", n=0, lineterm=""))
        if difference:
            same = False
            print(f"==== {key}", *difference[2:], sep="\n")
    return same


def main() -> None:
    """Record, or compare two records."""
    parser = argparse.ArgumentParser(description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("record").add_argument("file", type=Path)
    comparing = actions.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.action == "record":
        args.file.write_text(json.dumps(record(), indent=1) + "\n")
    else:
        sides = (json.loads(path.read_text()) for path in (args.before, args.after))
        sys.exit(0 if compare(*sides) else 1)


if __name__ == "__main__":
    main()
