"""Make the seeds of the fuzz harnesses from real files: ``python -m tests.programs.fuzz_seeds``.

Each harness in ``native/tests/fuzz`` says how its input is built. Of a file's header only the ints
that mean something are kept, so that mutations meet them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from llmc.model import ModelConfig
from llmc.tokens.files import write_tokens
from llmc.tokens.masks import mask_path
from tests.helpers.engine import Flags, Native, build, succeeded
from tests.helpers.models import random_tokens, save_model, save_tokens
from tests.programs.fuzz import SEEDS

HEADER_BYTES = 1024
MODEL = ModelConfig(layers=1, heads=2, channels=4, context=8, vocab_size=20)
TOKEN_INTS, MASK_INTS, MODEL_INTS, STATE_INTS = 3, 4, 24, 64
MODEL_SUMS, STATE_SUMS = (10, 22), (2, 29)  # the ints of checksums: of the payload, of the header
ROWS_MAGIC = 20250917
FITTING, NO_CHECKSUMS, LIST = 16, 64, 32  # options of the harnesses


def cut(data: bytes, ints: int) -> bytes:
    """Return a file with so much of its header."""
    return data[: 4 * ints] + data[HEADER_BYTES:]


def counted(data: bytes) -> bytes:
    """Return a piece of an input with its length before it."""
    return len(data).to_bytes(2, "little") + data


def put(reader: str, name: str, *pieces: bytes | list[int]) -> None:
    """Write a seed of a reader."""
    path = SEEDS / reader / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(bytes(piece) for piece in pieces))


def words(command: int, *words: object) -> bytes:
    """Return a command line for the harness of arguments."""
    return bytes([command]) + b"".join(f"{word}\n".encode() for word in words)


def without_checksums(data: bytes, places: tuple[int, ...]) -> bytes:
    """Return a file with a 0 in place of the checksums at some ints of its header."""
    for at in places:
        data = data[: 4 * at] + bytes(4) + data[4 * at + 4 :]
    return data


def models(folder: Path) -> None:
    """Write seeds of checkpoints: the version with a padded vocabulary, with and without CRC."""
    model = save_model(folder / "model.bin", MODEL).read_bytes()
    for name, options in (("sampled", 0), ("int8", 2), ("bf16", 1), ("debug", 128)):
        put("checkpoint", name, [options], cut(model, MODEL_INTS))
        open_one = cut(without_checksums(model, MODEL_SUMS), MODEL_INTS)
        put("checkpoint", f"{name}-unchecked", [options | NO_CHECKSUMS], open_one)
    header = np.frombuffer(model[:HEADER_BYTES], "<i4").copy()
    values = np.frombuffer(model[HEADER_BYTES:], "<f4")
    header[1], header[8:] = 1, 0  # llm.c's first version: no rows pad the vocabulary
    padding = (MODEL.padded_vocab_size - MODEL.vocab_size) * MODEL.channels
    rows = MODEL.vocab_size * MODEL.channels
    unpadded = np.concatenate([values[:rows], values[rows + padding :]])
    put("checkpoint", "version1", [0], cut(header.tobytes() + unpadded.tobytes(), MODEL_INTS))
    header[1] = 5
    halves = (values.view("<u4") >> 16).astype("<u2")
    put("checkpoint", "version5", [0], cut(header.tobytes() + halves.tobytes(), MODEL_INTS))


def texts(folder: Path) -> None:
    """Write seeds of token files, lists of them, mixtures and rows."""
    V = MODEL.vocab_size

    def tokens(count: int, vocab_size: int = V) -> bytes:
        path = folder / f"tokens-{count}-{vocab_size}.bin"
        made = save_tokens(path, random_tokens(count, V, seed=count), vocab_size)
        return cut(made.read_bytes(), TOKEN_INTS)

    wide = tokens(60, 100_000)
    for name, options in (("one", 0), ("shuffled", 1 | 2), ("changing", 4 | 2)):
        put("tokens", name, [1, 3, V - 1, 0, options, 0], counted(tokens(90)), tokens(50))
    shards = [counted(tokens(count)) for count in (30, 0, 7, 55)]
    for name, options in (("list", LIST), ("shuffled-list", LIST | 1 | 2), ("fitting", LIST | 18)):
        put("tokens", name, [1, 6, V - 1, 0, options, 3], *shards)
    put("tokens", "wide", [2, 4, V - 1, 0, 1, 0], counted(wide))
    parts = [counted(tokens(count)) for count in (40, 25, 90)]
    for name, weights in (("even", "1,1,1"), ("uneven", "7,2,13"), ("large", "4000000000,5,17")):
        put("mixture", name, [1, 3, 3, 2], counted(weights.encode()), *parts)
    put("mixture", "unweighted", [1, 3, 4, 2], counted(b""), *parts)
    put("mixture", "wide", [1, 3, FITTING, 1], counted(b"3,1"), counted(wide), counted(wide))
    rows = np.zeros(256 + 3 * 4, "<u4")
    rows[:3] = (ROWS_MAGIC, 1, 4)
    rows[256:] = (0, 5, 1, 10, 9, 3, 2, 2, 1, 50, 9, 8)
    for name, options in (("rows", 0), ("rows-int8", 2 | 4), ("rows-bf16", 1 | 8), ("fit", 48)):
        put("eval", name, [options], counted(tokens(70)), cut(rows.tobytes(), 3))
    for name, options in (("windows", 128), ("windows-int8", 128 | 2 | 8), ("short", 128 | 64)):
        put("eval", name, [options], counted(tokens(70)))


def masks(folder: Path) -> None:
    """Write seeds of token files with masks, of streams of them, and of aligned windows."""
    V = MODEL.vocab_size

    def shard(count: int, *, masked: bool = True) -> bytes:
        path, random = folder / f"masked-{count}.bin", np.random.default_rng(count)
        mask = random.choice(np.array([0, 1, 1, 1, 3, 5, 7], "u1"), count)
        tokens = random_tokens(count, V, seed=count)
        write_tokens(path, [(tokens, mask)] if masked else [tokens], V, masked=masked)
        files = [path, mask_path(path)] if masked else [path]
        pieces = [counted(cut(file.read_bytes(), MASK_INTS)) for file in files]
        return b"".join(pieces if masked else [*pieces, counted(b"")])

    for name, options in (
        ("one", 0),
        ("shuffled", 1),
        ("changing", 4),
        ("unchecked", NO_CHECKSUMS),
    ):
        put("masks", name, [7, V - 1, 0, options, 0], shard(90), bytes(40))
    put("masks", "list", [4, V - 1, 0, 1, 2], shard(40), shard(1), shard(55))
    put("masks", "fitting", [4, V - 1, 0, FITTING | NO_CHECKSUMS, 1], shard(40), shard(33))
    put("masks", "aligned", [9, V - 1, 0, 2, 1], *(shard(n, masked=False) for n in (70, 41)))


def checkpoints(native: Native, folder: Path) -> None:
    """Write seeds of runs to go on with, of each type of AdamW's moments."""
    model = save_model(folder / "start.bin", MODEL)
    V = MODEL.vocab_size
    data = save_tokens(folder / "data.bin", np.arange(200) * 7 % V, V)
    for options, moments in enumerate(("fp32", "bf16", "8bit")):
        out = folder / moments
        flags: Flags = {
            **{"model": model, "data": data, "val_data": data, "out": out, "steps": 4},
            **{"batch_size": 2, "seq_len": 4, "val_every": 2, "val_batches": 1, "save_every": 2},
            **{"sample_every": 3, "sample_tokens": 3, "optimizer_state": moments},
        }
        succeeded(native("train", **flags))
        whole = [out / "checkpoints" / "00000004" / name for name in ("model.bin", "state.bin")]
        saved, state = (path.read_bytes() for path in whole)
        for name, more, files in (
            ("", 0, (saved, state)),
            (
                "-unchecked",
                NO_CHECKSUMS,
                (without_checksums(saved, MODEL_SUMS), without_checksums(state, STATE_SUMS)),
            ),
            (
                "-judged",
                NO_CHECKSUMS | 4,
                (without_checksums(saved, MODEL_SUMS), without_checksums(state, STATE_SUMS)),
            ),
        ):
            pieces = (counted(cut(files[0], MODEL_INTS)), cut(files[1], STATE_INTS))
            put("resume", moments + name, [options | more, 0, 20], *pieces)


def lines() -> None:
    """Write seeds of what is text: requests, command lines, Linux's files about memory."""
    full = (
        b"request a-1 tokens 5 temperature 0.8 top-k 3 top-p 0.9 min-p 0.05 repetition-penalty 1.1 "
        b"seed 7 eot 3 logprobs 4 prompt 1,2,3"
    )
    put("requests", "full", [19, 0, 7], full)
    put("requests", "short", [19, 0, 0], b"request b prompt 4")
    put("requests", "long", [19, 0, 3], b"request c eot -1 prompt " + b",".join([b"5"] * 40))
    put("requests", "cancel", [19, 0, 7], b"cancel a-1")
    session = full + b"\nrequest b tokens 9 prompt 4\ncancel b\nrequest c prompt 9\n" + full + b"\n"
    for options in range(4):
        put("generate", f"session-{options}", [options | options << 2 | options << 4], session)
    kinds = ("--text", "x", "--list", "a", "--list", "b", "--count", 7, "--number", 0.25)
    put(
        "arguments",
        "kinds",
        words(0, *kinds, "--time", "1h30m", "--switch", 1, "--choice", "green"),
    )
    put("arguments", "sample", words(1, "--model", "m", "--tokens", 5, "--top-p", 0.5))
    put("arguments", "generate", words(2, "--model", "m", "--slots", 3, "--dtype", "int8"))
    put("arguments", "eval", words(3, "--model", "m", "--data", "d", "--seq-len", 5))
    put("arguments", "debug", words(4, "--model", "m", "--data", "d", "--out", "o"))
    run = ("--model", "m", "--data", "d", "--weights", 1, "--steps", 5, "--lr", "1e-3")
    limits = ("--max-time", "2h", "--total-batch-size", 512, "--schedule", "wsd", "--warmup", 3)
    put("arguments", "train", words(5, *run, *limits, "--skip-loss-z", 3, "--seed", 1))
    put("arguments", "help", words(5, "--help"))
    files = (
        b"MemTotal: 100 kB\nMemAvailable: 5000 kB\n",
        b"0::/a/b\n4:memory:/a\n",
        *(b"max\n", b"900000\n", b"5000\n", b"active_file 10\ninactive_file 20\n", b"70000\n"),
    )
    put("memory", "both", b"\xff".join(files))
    put("memory", "free", files[0])


def main() -> None:
    """Write all seeds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models(folder)
        texts(folder)
        masks(folder)
        checkpoints(build(folder / "cache"), folder)
        lines()
    sizes = [path.stat().st_size for path in SEEDS.rglob("*") if path.is_file()]
    print(f"{len(sizes)} seeds, {sum(sizes):,} bytes in {SEEDS}")


if __name__ == "__main__":
    main()
