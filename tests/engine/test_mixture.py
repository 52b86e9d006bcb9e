"""Texts mixed by weight, held to a second implementation of the rule."""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest

from llmc.tokens.files import write_rows
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.events import json_lines, steps_of, without_times
from tests.helpers.models import SMALL, random_tokens, save_model, save_tokens

SIZES = (100, 333, 50)  # tokens of the texts
T, SEED = 16, 7
MASK = 2**64 - 1


def mix(x: int) -> int:
    """The first output of SplitMix64, seeded with x."""
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def shuffled(index: int, n: int, seed: int) -> int:
    """A Feistel network of six rounds on the next power of 4, walked until it is below n."""
    bits = next(bits for bits in itertools.count(1) if 4**bits >= n)
    mask = 2**bits - 1
    while True:
        left, right = index >> bits, index & mask
        for turn in range(6):
            left, right = right, left ^ mix(mix((seed + turn) & MASK) ^ right) & mask
        index = left << bits | right
        if index < n:
            return index


def parts_of(weights: list[int], rows: int) -> list[tuple[int, int]]:
    """Return the part of each row, and how many rows of that part came before.

    Row j of a part may come from j/p on, and has to come before (j + 1)/p, p being its share.
    """
    share = [Fraction(weight, sum(weights)) for weight in weights]
    given = [0] * len(weights)
    found = []
    for row in range(rows):
        may = [i for i, p in enumerate(share) if math.floor(given[i] / p) <= row]
        part = min(may, key=lambda i: (math.ceil((given[i] + 1) / share[i]), i))
        found.append((part, given[part]))
        given[part] += 1
    return found


def start_of(part: int, visit: int, *, shuffle: bool) -> int:
    """Return the first token of a part's window."""
    windows = math.ceil((SIZES[part] - 1) / T)
    epoch, window = divmod(visit, windows)
    if shuffle:
        seed = mix((SEED + part * 0x9E3779B97F4A7C15) & MASK) + epoch * 0x10001
        window = shuffled(window, windows, seed & MASK)
    return min(window * T, SIZES[part] - 1 - T)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    folder = tmp_path_factory.mktemp("mixture")
    V = SMALL.vocab_size
    texts = [
        save_tokens(folder / f"{i}.bin", random_tokens(size, V, i), V)
        for i, size in enumerate(SIZES)
    ]
    return {"model": save_model(folder / "model.bin", SMALL), "texts": texts}


def train(native: Native, files: Flags, weights: list[int] | None, **flags: object) -> str:
    """Train on the texts; the engine takes --data several times, which a dict cannot hold."""
    texts = files["texts"][: len(weights)] if weights else files["texts"]
    common: Flags = {"model": files["model"], "seq_len": T, "seed": SEED, "events": "json"}
    common |= {"batch_size": 1, "val_every": 0, "sample_every": 0}
    if weights:
        common["weights"] = ",".join(map(str, weights))
    argv = native.argv("train", **(common | flags))
    for text in texts:
        argv += ["--data", str(text)]
    return succeeded(run(argv)).stdout


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)


def losses(text: str) -> list[float]:
    return [line["train_loss"] for line in json_lines(text) if "train_loss" in line]


def window_losses(native: Native, files: Flags, part: int, scratch: Path) -> dict[int, float]:
    """Return the loss of every window of a text, by its first token, as ``eval`` measures it."""
    starts = list(range(SIZES[part] - T))
    write_rows(scratch, ((start, T + 1, 1) for start in starts))
    done = native(
        "eval", model=files["model"], data=files["texts"][part], rows=scratch, events="json"
    )
    rows = [line for line in json_lines(succeeded(done).stdout) if line["event"] == "row"]
    return {start: math.fsum(row["losses"]) / T for start, row in zip(starts, rows, strict=True)}


@pytest.mark.parametrize("weights", [[1, 1, 1], [10, 3, 20], [3, 7], [1, 60, 2], [5]])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_is_the_one_that_the_rule_says(
    native: Native, files: Flags, tmp_path: Path, weights: list[int], shuffle: bool
) -> None:
    """At a rate of 0 and a row at a time, the loss of a step tells which window it was."""
    rows = 90
    told = losses(train(native, files, weights, lr=0, steps=rows, shuffle=int(shuffle)))
    known = [
        window_losses(native, files, part, tmp_path / "rows.bin") for part in range(len(weights))
    ]
    expected = parts_of(weights, rows)
    for row, (part, visit) in enumerate(expected):
        start = start_of(part, visit, shuffle=shuffle)
        assert told[row] == pytest.approx(known[part][start], abs=5e-6), row
        near = [(i, at) for i, each in enumerate(known) for at in each]
        near = [key for key in near if abs(known[key[0]][key[1]] - told[row]) < 1e-5]
        assert len(near) < 4, "the losses do not tell windows apart"
    for n in range(1, rows + 1):
        for i, weight in enumerate(weights):
            count = sum(part == i for part, _ in expected[:n])
            assert abs(count - Fraction(n * weight, sum(weights))) < 1


@pytest.mark.parametrize("B", [1, 2, 4, 8])
def test_b_plays_no_part(native: Native, files: Flags, B: int) -> None:
    flags: Flags = {"lr": 1e-3, "steps": 12, "total_batch_size": 8 * T}
    one = losses(train(native, files, [10, 3, 20], **flags))
    assert losses(train(native, files, [10, 3, 20], **flags, batch_size=B)) == pytest.approx(
        one, rel=1e-5
    )


def test_the_number_of_threads_plays_no_part(native: Native, files: Flags) -> None:
    flags: Flags = {"lr": 1e-3, "steps": 9, "batch_size": 3}
    one, three = (train(native, files, [2, 1, 1], **flags, threads=n) for n in (1, 3))
    assert without_times(one) == without_times(three)


def test_a_resume_at_any_step_gives_the_bytes_of_the_undisturbed_run(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    flags: Flags = {"lr": 1e-3, "steps": 9, "batch_size": 3, "save_every": 1, "keep": 20}
    calm = tmp_path / "calm"
    train(native, files, [10, 3, 20], **flags, out=calm)
    wanted = [(line["step"], line["train_loss"]) for line in steps_of(calm)]
    assert len(wanted) == 9
    for step in range(1, 9):
        other = shutil.copytree(calm, tmp_path / f"from-{step}")
        train(native, files, [10, 3, 20], **flags, out=other, resume=1, resume_from=step)
        assert (other / "model.bin").read_bytes() == (calm / "model.bin").read_bytes()
        assert [(line["step"], line["train_loss"]) for line in steps_of(other)] == wanted
        states = [next(run.glob("checkpoints/00000009/state.bin")) for run in (other, calm)]
        one, two = (state.read_bytes() for state in states)
        assert one[1024:] == two[1024:]


def test_a_single_text_is_read_as_ever(native: Native, files: Flags) -> None:
    flags: Flags = {"model": files["model"], "data": files["texts"][1], "seq_len": T}
    flags |= {"seed": SEED, "events": "json", "batch_size": 3, "steps": 20, "lr": 1e-3}
    plain = succeeded(native("train", **flags)).stdout
    weighed = succeeded(native("train", **flags, weights=5)).stdout
    assert without_times(plain) == without_times(weighed)


def test_the_ratio_of_the_weights_counts(native: Native, files: Flags) -> None:
    one, two = (train(native, files, w, steps=30, lr=1e-3) for w in ([3, 1], [300, 100]))
    assert losses(one) == losses(two)
    assert losses(one) != losses(train(native, files, [1, 3], steps=30, lr=1e-3))
    equal = train(native, files, None, steps=30, lr=1e-3)
    assert losses(equal) == losses(train(native, files, [1, 1, 1], steps=30, lr=1e-3))


def test_an_epoch_passes_every_text(native: Native, files: Flags) -> None:
    """After ``--epochs 2``, each text gave all of its windows twice, and one no more than that."""
    weights = [1, 1, 4]
    rows = len(losses(train(native, files, weights, epochs=2, lr=0)))
    given = [sum(part == i for part, _ in parts_of(weights, rows)) for i in range(3)]
    windows = [math.ceil((size - 1) / T) for size in SIZES]
    assert all(count >= 2 * each for count, each in zip(given, windows, strict=True))
    assert min(count - 2 * each for count, each in zip(given, windows, strict=True)) <= 1


def validation(native: Native, files: Flags, weights: str, tokens: int) -> dict[str, object]:
    argv = native.argv(
        "train",
        model=files["model"],
        data=files["texts"][0],
        seq_len=T,
        events="json",
        steps=0,
        val_weights=weights,
        val_tokens=tokens,
    )
    for text in files["texts"]:
        argv += ["--val-data", str(text)]
    lines = json_lines(succeeded(run(argv)).stdout)
    return next(line for line in lines if "val_loss" in line)


def test_validation_is_the_mean_by_weight_and_what_eval_measures(
    native: Native, files: Flags
) -> None:
    weights, tokens = [10, 3, 20], 250
    told = validation(native, files, "10,3,20", tokens)
    parts = told["val_parts"]
    assert isinstance(parts, list)
    for i, weight in enumerate(weights):
        most = -(-tokens * weight // sum(weights))
        done = native(
            "eval", model=files["model"], data=files["texts"][i], max_tokens=most, events="json"
        )
        rows = [line for line in json_lines(succeeded(done).stdout) if line["event"] == "row"]
        each = [loss for row in rows for loss in row["losses"]]
        assert len(each) == min(most, SIZES[i] - 1)
        assert parts[i] == pytest.approx(math.fsum(each) / len(each), rel=1e-6)
    mean = sum(w * loss for w, loss in zip(weights, parts, strict=True)) / sum(weights)
    assert told["val_loss"] == pytest.approx(mean, rel=1e-7)
    assert "val_error" not in told  # the smallest text is a single window


@pytest.mark.parametrize(
    ("weights", "code", "word"),
    [
        ("1,2", 2, "weights"),
        ("1,2,0", 2, "weights"),
        ("1,2,-3", 2, "weights"),
        ("1,2,3,4", 2, "weights"),
        ("1,2,x", 2, "weights"),
        ("4294967295,1,1", 2, "2^32"),
    ],
)
def test_weights_that_are_none_are_refused(
    native: Native, files: Flags, weights: str, code: int, word: str
) -> None:
    argv = native.argv("train", model=files["model"], seq_len=T, weights=weights)
    for text in files["texts"]:
        argv += ["--data", str(text)]
    assert word in refused(run(argv), code)


def test_texts_that_cannot_be_mixed_are_refused(
    native: Native, files: Flags, tmp_path: Path
) -> None:
    small = save_tokens(tmp_path / "small.bin", random_tokens(T, 512), 512)
    wide = save_tokens(tmp_path / "wide.bin", random_tokens(100, 512), 70000)
    for text, word in ((small, "less than a row"), (wide, "tokenizers")):
        argv = native.argv("train", model=files["model"], seq_len=T, data=files["texts"][0])
        assert word in refused(run([*argv, "--data", str(text)]), 1)
    argv = native.argv("train", model=files["model"], seq_len=T, steps=0, val_batches=2)
    for flag in ("--data", "--val-data", "--val-data"):
        argv += [flag, str(files["texts"][0])]
    assert "--val-tokens" in refused(run(argv), 2)
