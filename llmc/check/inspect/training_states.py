"""Training states: what a run goes on with, besides the weights in the same folder."""

from __future__ import annotations

from pathlib import Path

from llmc.check.inspect.description import Description, byte_count
from llmc.check.inspect.reading import Asked, file_size
from llmc.errors import BadData
from llmc.units import clock
from llmc.weights.state import MAGIC, read_training_state, verify_training_state


def describe_training_state(path: Path, _asked: Asked) -> Description:
    """Describe a state.bin and verify it.

    Raises:
        OSError: it cannot be read.
    """
    made = Description(path, "training_state", "training state: AdamW's means and a run's position")
    size = file_size(path)
    made.say("bytes", size, byte_count(size))
    made.note("magic", MAGIC)
    try:
        state = read_training_state(path)
        made.say("step", state.step, f"{state.step:,} updates made")
        most = "at most " if state.optimizer_state == "8bit" else ""
        made.say("parameters", state.parameters, f"{most}{state.parameters:,}")
        made.say("optimizer_state", state.optimizer_state)
        made.say("update_tokens", state.update_tokens, f"{state.update_tokens:,} tokens an update")
        made.say("seq_len", state.seq_len)
        made.say("seed", state.seed)
        made.say("shuffled", state.shuffled, "yes" if state.shuffled else "no")
        made.say(
            "best_val_loss",
            state.best_val_loss,
            "none" if state.best_val_loss is None else f"{state.best_val_loss:.6f}",
        )
        made.say("seconds", state.seconds, f"{clock(state.seconds)} trained")
        made.say("waited", state.waited, f"{state.waited:,} validations without a new best")
        made.say("skipped", state.skipped, f"{state.skipped:,} updates skipped")
        made.say("metrics_bytes", state.metrics_bytes)
        made.say("draws", state.draws)
        made.say("told", state.told, "yes" if state.told else "no: saved on an interrupt")
        verify_training_state(path, state)
        made.say("checksum", f"{state.crc:08x}", f"{state.crc:08x}, verified")
    except BadData as error:
        made.wrong(str(error).removeprefix(f"{path} is ").removeprefix(f"{path} "))
    return made
