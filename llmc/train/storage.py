"""The disk space of a run, known before it starts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmc.config import TrainConfig
from llmc.model import ModelConfig
from llmc.paths import CHECKPOINTS, free_bytes
from llmc.units import megabytes
from llmc.weights.checkpoint import checkpoint_bytes
from llmc.weights.state import training_state_bytes

BEST = "best.bin"


@dataclass(frozen=True)
class Storage:
    """Disk space in bytes.

    Attributes:
        needed: the most that the run's files take at a time.
        free: free space; files that the run stored before it was resumed count as free.
    """

    needed: int
    free: int

    @classmethod
    def of(
        cls, config: ModelConfig, settings: TrainConfig, folder: Path, *, validates: bool
    ) -> Storage:
        """Return the disk space of a run in ``folder``, which need not exist yet."""
        sizes = {}  # by inode: a file may have several names
        for path in (*folder.glob(f"{CHECKPOINTS}/*/*"), *folder.glob(BEST)):
            with suppress(OSError):  # removed by a trainer that still runs
                about = path.stat()
                sizes[about.st_ino] = about.st_size
        free = free_bytes(folder) + sum(sizes.values())
        return cls(stored_bytes(config, settings, validates=validates), free)

    def warning(self) -> str | None:
        """Return a disk-space warning, or None."""
        if self.needed <= self.free:
            return None
        needed, free = megabytes(self.needed), megabytes(self.free)
        return (
            f"the run's checkpoints take up to {needed} of the disk, but only {free} are free: "
            "free some before it saves"
        )


def stored_bytes(config: ModelConfig, settings: TrainConfig, *, validates: bool) -> int:
    """Return the bytes that a run keeps while one more checkpoint is being written.

    The best weights take space of their own once their checkpoint is removed. A run without
    ``save_every`` and ``patience`` stores one checkpoint in all.
    """
    model = checkpoint_bytes(config, "fp32")
    each = model + training_state_bytes(config, settings.optimizer_state)
    if not settings.save_every and not (validates and settings.patience):
        return each
    return (settings.keep + 1) * each + validates * model
