"""Binary files of llm.c and llmc: model checkpoints, training states, debug states."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llmc.check import debug_state
from llmc.check.inspect.description import Description
from llmc.check.inspect.reading import Options, kind_of, read_bytes
from llmc.check.inspect.statistics import Moments
from llmc.check.inspect.tensors import (
    pieces_of,
    say_shape,
    say_tensors,
    shown_shape,
)
from llmc.errors import BadData, LlmcError
from llmc.model import ModelConfig, tensor_shapes
from llmc.preset import load_preset, preset_names
from llmc.units import clock
from llmc.weights import checkpoint
from llmc.weights import state as training_state
from llmc.weights.base import TensorPlace, consecutive
from llmc.weights.tokenizer import tokenizer_of

VERSIONS = {
    checkpoint.FP32_UNPADDED: "fp32, the vocabulary not padded",
    checkpoint.FP32: "fp32, the vocabulary padded",
    checkpoint.BF16: "bf16, the vocabulary padded",
}
MOST_NEIGHBOURS = 64


def say_checkpoint(
    made: Description, header: checkpoint.CheckpointHeader | None, options: Options
) -> None:
    """Add what a model checkpoint holds: version 1, 3 or 5, with llmc's extension or without."""
    size = made.known("bytes")
    if header is None:
        if size >= checkpoint.HEADER_BYTES:
            raw = read_bytes(made.path, 0, checkpoint.HEADER_BYTES)
            version, shape, _ = checkpoint.dimensions(raw)
            made.say("version", version)
            made.say("shape", shape, shown_shape(shape))
        return
    made.say("version", header.version, f"{header.version}: {VERSIONS[header.version]}")
    say_shape(made, header.config)
    _say_origin(made, header)
    made.note(expected_bytes=header.file_bytes)
    places = header.places(made.path)
    if size == header.file_bytes:
        made.say("size", "as the header says")
    elif size < header.file_bytes:
        whole = sum(place.start + place.size <= size for place in places.values())
        shown = f"the first {whole} of {len(places)} tensors are whole"
        made.say("whole_tensors", whole, shown)
    if size == header.file_bytes or options.tensors:
        _say_contents(made, header, places, options)
    if size == header.file_bytes:
        _say_tokenizer(made, header, options)


def _say_origin(made: Description, header: checkpoint.CheckpointHeader) -> None:
    """Add what llmc's extension of the header holds."""
    made.say("dtype", header.dtype)
    if not header.extension:
        made.say("written_by", "llm.c", "llm.c or another: the header has no extension of llmc's")
        return
    made.say("written_by", "llmc", f"llmc: header extension {header.extension}")
    if header.crc is None:
        return  # a newer extension
    made.say("step", header.step, f"{header.step:,}" if header.step else "0: not trained")
    loss = header.val_loss
    made.say("val_loss", loss, "not known" if loss is None else f"{loss:.6g}")
    if loss is not None and not math.isfinite(loss):
        made.wrong(f"the validation loss it was saved at is {loss}")
    tokenizer = header.tokenizer.hex() if header.tokenizer else None
    made.note(tokenizer=tokenizer, crc32=f"{header.crc:08x}")


def _say_contents(
    made: Description,
    header: checkpoint.CheckpointHeader,
    places: dict[str, TensorPlace],
    options: Options,
) -> None:
    """Read the tensors once: the checksum, the padding, and statistics if they are asked for."""
    size = made.known("bytes")
    if not options.may_read(size - checkpoint.HEADER_BYTES):
        made.say("checksum", None, "not verified: the file is large; --full reads all of it")
        return
    crc = padding = 0
    found = {name: Moments() for name in places}
    for name, place in places.items():
        if place.start + place.size > size:
            break
        kept = place.size if name != "wte" else header.config.vocab_size * header.config.channels
        for data, values in pieces_of(place, options):
            crc = zlib.crc32(data, crc)
            take = found[name].add if options.tensors else found[name].finite
            take(values[:kept])
            padding += int(np.count_nonzero(values[kept:]))
            kept = max(0, kept - values.size)
    whole = size == header.file_bytes
    if header.crc is None:
        made.say("checksum", None, "none in the header: nothing to verify the weights by")
    elif whole and crc == header.crc:
        made.say("checksum", "verified", f"CRC-32 {crc:08x}, verified")
    elif whole:
        made.say("checksum", "differs", f"CRC-32 {crc:08x}, not {header.crc:08x}")
        made.wrong(
            f"it is damaged: its checksum is {crc:08x}, its header promises {header.crc:08x}; "
            "get or make the file again"
        )
    if whole and header.version != checkpoint.FP32_UNPADDED:
        rows = header.config.padded_vocab_size - header.config.vocab_size
        zero = "all zero" if not padding else f"{padding:,} values not zero"
        made.say("padding", padding == 0, f"{rows} rows of wte, {zero}")
        if padding:
            made.wrong(f"{padding:,} values in the padding rows of wte should be zero, and are not")
    if not_finite := sum(moments.nan + moments.infinite for moments in found.values()):
        made.wrong(f"{not_finite:,} weights are not finite numbers")
    if options.tensors:
        say_tensors(made, places, options, found)


def _say_tokenizer(
    made: Description, header: checkpoint.CheckpointHeader, options: Options
) -> None:
    """Add whether the model's tokenizer is beside it or in the workspace."""
    fingerprint = header.tokenizer.hex() if header.tokenizer else None
    vocab_size = header.config.vocab_size
    try:
        found = options.tokenizer or tokenizer_of(options.workspace, made.path)
    except (LlmcError, OSError):
        return  # the checkpoint is damaged, which is among the problems
    named = f"fingerprint {fingerprint[:16]}…" if fingerprint else "none in the header"
    if fingerprint is None and found is None:
        made.say("tokenizer_found", None, "the header names none")
    elif found is None:
        made.say("tokenizer_found", None, f"{named}, not found in this workspace")
    elif fingerprint not in (None, found.fingerprint):
        made.say("tokenizer_found", None, f"{named}; {found.name} is another one")
        made.wrong(f"it was trained with another tokenizer than {found.name}, which was named")
    elif found.vocab_size != vocab_size:
        made.say("tokenizer_found", found.name, f"{found.name}: {found.vocab_size:,} tokens")
        made.wrong(f"the tokenizer has {found.vocab_size:,} tokens, the model {vocab_size:,}")
    else:
        made.say("tokenizer_found", found.name, f"{found.name}, found: {named}")


def say_training_state(
    made: Description, state: training_state.TrainingState | None, _options: Options
) -> None:
    """Add what a state.bin holds, which a run needs to resume besides the weights; verify it."""
    made.note(magic=training_state.MAGIC)
    if state is None:
        return
    made.fields(
        state,
        step="{:,} updates made",
        parameters="at most {:,}" if state.optimizer_state == "8bit" else "{:,}",
        optimizer="",
        optimizer_state="",
        update_tokens="{:,} tokens an update",
        shares="",
        seq_len="",
        seed="",
        shuffled="",
        best_val_loss="{:.6f}",
        waited="{:,} validations without a new best",
        skipped="{:,} updates skipped",
        metrics_bytes="",
        draws="",
    )
    seconds = state.seconds
    shown = clock(seconds) if 0 <= seconds < 1e12 else f"{seconds} seconds"
    made.say("seconds", seconds, f"{shown} trained")
    made.say("told", state.told, "yes" if state.told else "no: saved on an interrupt")
    if not made.problems:
        try:
            training_state.verify_training_state(made.path, state)
            made.say("checksum", f"{state.crc:08x}", f"{state.crc:08x}, verified")
        except BadData as error:
            made.wrong(str(error).replace(str(made.path), "it", 1))


def say_debug_state(made: Description, batch: tuple[int, int] | None, options: Options) -> None:
    """Add what a debug state holds; its model is looked for beside it and among GPT-2's four."""
    made.note(magic=debug_state.MAGIC)
    if batch is None:
        return
    B, T = batch
    size = made.known("bytes")
    made.say("version", debug_state.VERSION)
    made.say("batch", {"B": B, "T": T}, f"{B:,} rows of {T:,} tokens")
    if made.problems:
        return
    for name, config in _candidates(made.path):
        if size == debug_state.debug_state_bytes(B, T, config):
            made.say("model", name, f"{name}, which fits the size")
            say_shape(made, config)
            _say_values(made, B, T, config, options)
            return
    unknown = "not known: no checkpoint beside it and none of GPT-2's four sizes fits"
    made.say("model", None, f"{unknown}; whether it is whole cannot be checked")
    if size % 4:
        made.wrong(f"it is cut short: {size:,} bytes is not a whole number of 4-byte values")


def _candidates(path: Path) -> Iterator[tuple[str, ModelConfig]]:
    """Yield models that the state may belong to: the checkpoints beside it, then GPT-2's sizes."""
    for place in sorted(path.parent.iterdir())[:MOST_NEIGHBOURS]:
        try:
            if place.is_file() and kind_of(place) == "checkpoint":
                yield place.name, checkpoint.read_header(place).config
        except (OSError, LlmcError):
            continue
    for preset in preset_names():
        if preset.startswith("gpt2-"):
            yield preset.replace("gpt2-", "GPT-2 ").upper(), load_preset(preset).model


def _say_values(made: Description, B: int, T: int, config: ModelConfig, options: Options) -> None:
    """Check the ids and add the loss; if asked for, the gradients' statistics."""
    start, V = debug_state.HEADER_BYTES, config.vocab_size
    ids = np.frombuffer(read_bytes(made.path, start, 8 * B * T), "<i4")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= V:
        made.wrong(f"token {low if low < 0 else high} lies outside the vocabulary of {V:,}")
    start += 8 * B * T + 4 * B * T * V
    loss = float(np.frombuffer(read_bytes(made.path, start, 4), "<f4")[0])
    made.say("loss", loss, f"{loss:.6f}")
    if not math.isfinite(loss):
        made.wrong(f"its loss is {loss}")
    if options.tensors:
        gradients = consecutive(made.path, "F32", tensor_shapes(config), start + 4)
        say_tensors(made, gradients, options)
