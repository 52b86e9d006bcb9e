"""Damage real files of every format, and read them: ``python -m tests.helpers.mutation``.

Whatever a file holds, its reader returns or raises one of llmc's errors with a documented code, in
bounded memory and time. Hypothesis chooses and shrinks the damage, from a fixed seed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from llmc.errors import ExitCode, LlmcError
from llmc.paths import Workspace

WEIGHTS = ("model.bin", "model.safetensors", "model.gguf", "model.pt", "ckpt.pt", "legacy.pt")
MEMORY = 1 << 30  # bytes that reading may add
SECONDS = 10
TEXT = "A text to encode: 123, größer 日本.\n"
NUMBERS = (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60)
LARGE = (2**63 - 1, 2**63, 2**64 - 1)
PIECES = (
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"[" * 3000, b'{"a":' * 3000),
    *(b'"', b"\\ud800", b"9" * 400, b"9" * 5000, b"1e999", b"NaN", b"-", b"\x1b[31m", b"../"),
    *(b"\r\n", b"=", b"a." * 3000, b"null", b",", b"}", b"]", b" " * 5000),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**19, 10**30, 1e308, 0.5, "", "x", "\0"),
    *("../../etc/passwd", "/etc/passwd", "a" * 70_000, [], {}, [[]], [1, 2], {"a": 1}, "1e999"),
    *(float("nan"), float("inf"), "\x1b[31mred", [[[[[[]]]]]], "0", -(2**63), "\ud800"),
)
Edit = tuple[int, float, int]
EDITS = st.lists(
    st.tuples(st.integers(0, 9), st.floats(0, 1, exclude_max=True), st.integers(0, 2**16)),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, edits: list[Edit], *, is_json: bool) -> bytes:
    """Return the bytes of a file after some edits; the place is a fraction of the file."""
    for kind, place, value in edits:
        if is_json and kind >= 5:
            data = _other_value(data, place, value)
            continue
        # Heads are where the structure is.
        within = len(data) if value % 2 else min(len(data), (16, 64, 300, 2000)[value // 2 % 4])
        at, rest = int(place * within), value // 8
        new = bytearray(data)
        if kind == 0 and new:
            new[at] ^= 1 << rest % 8
        elif kind == 1:
            del new[at:]
        elif kind == 2:
            del new[at : at + (1, 4, 8, 100)[rest % 4]]
        elif kind == 3:
            new[at:at] = PIECES[rest % len(PIECES)]
        elif kind == 4:
            new[at:at] = new[at : at + (1, 4, 8, 100)[rest % 4]] * (1, 2, 50)[rest // 4 % 3]
        else:
            width = (1, 2, 4, 8)[rest % 4]
            number = (*NUMBERS, *LARGE)[rest // 4 % 16] % (1 << 8 * width)
            begin = at // width * width
            order = "big" if kind == 9 else "little"
            new[begin : begin + width] = number.to_bytes(width, order)  # type: ignore[arg-type]
        data = bytes(new)
    return data


def _other_value(data: bytes, place: float, value: int) -> bytes:
    """Put an odd value in a place of a JSON text, or take a value away."""
    lines = data.splitlines() if b"}\n{" in data else [data]
    index = int(place * len(lines))
    try:
        whole = json.loads(lines[index])
        places = list(_places(whole))
        holder, key = places[value % len(places)]
        if value % 7 == 0:
            del holder[key]
        else:
            holder[key] = ODD[value // 7 % len(ODD)]
        lines[index] = json.dumps(whole).encode()
    except (ValueError, IndexError, ZeroDivisionError, RecursionError):
        return data
    return b"\n".join(lines) + b"\n"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items)[:40]:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def readers() -> dict[str, tuple[Callable[[Path], object], ...]]:
    """Return what reads each format; a format is a file's name, up to a dash."""
    from llmc.check.debug_state import read_debug_state
    from llmc.check.inspect.describe import describe
    from llmc.check.inspect.reading import Options
    from llmc.evaluate.hellaswag import read_examples
    from llmc.fetch.unpack import unpack
    from llmc.preset import load_preset
    from llmc.text.source import documents_of, open_source
    from llmc.tokens.files import read_tokens
    from llmc.tokens.manifest import load_manifest, verify
    from llmc.tokens.prepared import prepared_model
    from llmc.tokens.tokenizer import load_tokenizer
    from llmc.tokens.tokenizer_bin import read_tokenizer_bin
    from llmc.tokens.windows import cut_windows, mask_of
    from llmc.train.git import head_commit
    from llmc.train.history import read_run
    from llmc.train.record import resumable, run_settings
    from llmc.weights.sources import open_weights
    from llmc.weights.state import read_training_state
    from tests.helpers.models import SMALL

    def inspect(path: Path) -> None:
        json.dumps(describe(path, Options(Workspace(path.parent), tensors=True)).as_json())

    def around(path: Path) -> None:
        inspect(path.parent)

    def weights(path: Path) -> None:
        model = open_weights(path)
        for _ in model.slices():
            pass
        model.tokenizer()

    def weights_around(path: Path) -> None:
        weights(path.parent)

    def tokenizer(path: Path) -> None:
        pattern = "gpt2" if path.suffix == ".tiktoken" else None
        made = load_tokenizer(str(path), pattern=pattern)
        made.detokenize(made.encode(TEXT if made.name != "characters" else "ab"))
        made.byte_lengths()

    def tokenizer_around(path: Path) -> None:
        load_tokenizer(str(path.parent)).encode("ab")

    def dataset(path: Path) -> None:
        found = load_manifest(path.parent)
        verify(found)
        found.load_tokenizer()
        prepared_model(Workspace(path.parent), path.parent)

    def run(path: Path) -> None:
        read_run(path.parent)
        run_settings(path.parent)
        resumable(Workspace(path.parent.parent.parent), path.parent.name)

    def cut(path: Path) -> None:
        if (mask := mask_of([path])) is not None:
            list(cut_windows(mask, 7))

    def text(path: Path) -> None:
        for _ in documents_of(open_source(Workspace(path.parent), [str(path)]).parts):
            pass

    def unpacked(path: Path) -> None:
        out = path.parent / "unpacked"
        shutil.rmtree(out, ignore_errors=True)
        unpack(path, out)

    texts = ("jsonl", "json", "csv", "tsv", "html", "ipynb", "epub", "docx", "parquet", "arrow")
    archives = ("zip", "tar", "tar.gz", "tar.zst", "tar.xz", "tar.bz2")
    packed = ("txt.gz", "txt.zst", "txt.xz", "txt.bz2", "jsonl.gz")
    found: dict[str, tuple[Callable[[Path], object], ...]] = {
        "tokens.bin": (read_tokens, inspect),
        "masked.bin": (cut, inspect),
        "masked.mask": (lambda path: cut(path.with_suffix(".bin")), inspect),
        "model.bin": (weights, inspect),
        "state.bin": (read_training_state, inspect),
        "debug.bin": (lambda path: read_debug_state(path, SMALL), inspect),
        "tokenizer.bin": (read_tokenizer_bin, inspect),
        "plain.tiktoken": (tokenizer, inspect),
        "tokenizer.json": (tokenizer, tokenizer_around, inspect),
        "tokenizer_config.json": (tokenizer_around,),
        "vocab.json": (tokenizer, tokenizer_around),
        "merges.txt": (tokenizer, tokenizer_around),
        "held.json": (tokenizer, inspect),
        "meta.pkl": (tokenizer, inspect),
        "model.safetensors": (weights, inspect),
        "model.safetensors.index.json": (weights_around, around),
        "config.json": (weights_around, around),
        "model.gguf": (weights, inspect),
        "model.pt": (weights, inspect),
        "ckpt.pt": (weights,),
        "legacy.pt": (weights,),
        "manifest.json": (dataset, around, inspect),
        "prepared.json": (dataset, around),
        "tokenizer.tiktoken": (dataset, around),
        "run.json": (run, around, inspect),
        "config.toml": (run, around, lambda path: load_preset(str(path))),
        "metrics.jsonl": (run, around, inspect),
        "hellaswag.jsonl": (read_examples,),
        "HEAD": (lambda path: head_commit(path.parent.parent),),
        "packed-refs": (lambda path: head_commit(path.parent.parent),),
    }
    found |= {f"text.{form}": (text, inspect) for form in texts}
    found |= {f"text.{form}": (text, unpacked, inspect) for form in (*archives, *packed)}
    return found


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail if the block takes longer."""

    def late(*_: object) -> None:
        raise AssertionError(f"it took longer than {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def attack(path: Path, reads: tuple[Callable[[Path], object], ...], count: int) -> None:
    """Read a file after ``count`` mutations of it, and put it back as it was."""
    data = path.read_bytes()
    is_json = path.suffix in (".json", ".jsonl", ".ipynb")

    @seed(16)
    @settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(EDITS)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damaged(data, edits, is_json=is_json))
        for read in reads:
            with within(SECONDS):
                try:
                    read(path)
                except LlmcError as error:
                    assert error.exit_code in (ExitCode.BAD_DATA, ExitCode.USAGE, ExitCode.MISSING)
                    assert "\n" not in str(error)

    try:
        check()
    finally:
        path.write_bytes(data)


def limit_memory() -> None:
    """Let this process take so much more memory than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    """Attack every file below a folder whose name has a reader, each so many times."""
    folder, count, only = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    known = readers()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name in known)
    files = [path for path in files if not only or path.name in only]
    if importlib.util.find_spec("torch") and any(path.name in WEIGHTS for path in files):
        import torch  # noqa: F401 -- what is no other format of weights may be one of torch's
    for path in files:
        for read in known[path.name]:
            with suppress(LlmcError):
                read(path)  # what it imports and allocates once is none of the damage's
    limit_memory()
    for path in files:
        print(path.relative_to(folder), flush=True)
        attack(path, known[path.name], count)


if __name__ == "__main__":
    main()
