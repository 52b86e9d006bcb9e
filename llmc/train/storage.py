"""What a run stores on the disk, told before it does."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmc.config import TrainConfig
from llmc.model import ModelConfig
from llmc.paths import CHECKPOINTS
from llmc.units import megabytes
from llmc.weights.checkpoint import checkpoint_bytes
from llmc.weights.state import training_state_bytes

BEST = "best.bin"


@dataclass(frozen=True)
class Storage:
    """What a run takes of the disk, and what there is, in bytes.

    Attributes:
        needed: the most that lies there at a time.
        free: without what the run has stored before it was resumed.
    """

    needed: int
    free: int

    @classmethod
    def of(
        cls, config: ModelConfig, settings: TrainConfig, folder: Path, *, validates: bool
    ) -> Storage:
        """Return that of a run in ``folder``, which need not be there yet."""
        place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        sizes = {}  # of files, whatever other names they have
        for path in (*folder.glob(f"{CHECKPOINTS}/*/*"), *folder.glob(BEST)):
            with suppress(OSError):  # a trainer that still runs has removed it
                about = path.stat()
                sizes[about.st_ino] = about.st_size
        free = shutil.disk_usage(place).free + sum(sizes.values())
        return cls(stored_bytes(config, settings, validates=validates), free)

    def sentence(self) -> str:
        """Return the plan, for a person."""
        room = f"{megabytes(self.free)} are free"
        return f"disk: up to {self.needed:,} bytes ({megabytes(self.needed)}); {room}"

    def warning(self) -> str | None:
        """Return what to say of a run that may not find the room; None where it will."""
        if self.needed <= self.free:
            return None
        needed, free = megabytes(self.needed), megabytes(self.free)
        return (
            f"the run's checkpoints take up to {needed} of the disk, but only {free} are free: "
            "free some before it saves"
        )


def stored_bytes(config: ModelConfig, settings: TrainConfig, *, validates: bool) -> int:
    """Return the bytes of all that a run keeps, while one checkpoint more is on its way.

    The best weights take room of their own once their checkpoint has gone. A run that neither
    saves on the way nor stops early stores one checkpoint in all.
    """
    model = checkpoint_bytes(config, "fp32")
    each = model + training_state_bytes(config, settings.optimizer_state)
    if not settings.save_every and not (validates and settings.patience):
        return each
    return (settings.keep + 1) * each + validates * model
