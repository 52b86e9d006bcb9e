"""Training states: what a run needs to resume, besides the weights in the same folder."""

from __future__ import annotations

from pathlib import Path

from llmc.check.inspect.description import Description
from llmc.check.inspect.reading import Asked
from llmc.errors import BadData
from llmc.units import clock
from llmc.weights.state import MAGIC, scan_training_state, verify_training_state


def describe_training_state(path: Path, _asked: Asked) -> Description:
    """Describe a state.bin and verify it.

    Raises:
        OSError: it cannot be read.
    """
    title = "training state: AdamW's moments and a run's position"
    made = Description(path, "training_state", title)
    made.say_bytes()
    made.note("magic", MAGIC)
    state, problems = scan_training_state(path)
    made.problems += problems
    if state is None:
        return made
    made.say("step", state.step, f"{state.step:,} updates made")
    most = "at most " if state.optimizer_state == "8bit" else ""
    made.say("parameters", state.parameters, f"{most}{state.parameters:,}")
    made.say("optimizer_state", state.optimizer_state)
    made.say("update_tokens", state.update_tokens, f"{state.update_tokens:,} tokens an update")
    made.say("seq_len", state.seq_len)
    made.say("seed", state.seed)
    made.say("shuffled", state.shuffled)
    best = state.best_val_loss
    made.say("best_val_loss", best, "none" if best is None else f"{best:.6f}")
    made.say("seconds", state.seconds, f"{_clock(state.seconds)} trained")
    made.say("waited", state.waited, f"{state.waited:,} validations without a new best")
    made.say("skipped", state.skipped, f"{state.skipped:,} updates skipped")
    made.say("metrics_bytes", state.metrics_bytes)
    made.say("draws", state.draws)
    made.say("told", state.told, "yes" if state.told else "no: saved on an interrupt")
    if problems:
        return made
    try:
        verify_training_state(path, state)
        made.say("checksum", f"{state.crc:08x}", f"{state.crc:08x}, verified")
    except BadData as error:
        made.wrong(str(error).replace(str(path), "it", 1))
    return made


def _clock(seconds: float) -> str:
    return clock(seconds) if 0 <= seconds < 1e12 else f"{seconds} seconds"
