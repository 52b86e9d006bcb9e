"""Masks: where the loss of a token file counts, and what begins in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmc.check.inspect.description import Description, safe_text
from llmc.check.inspect.reading import NOT_READ, Options
from llmc.errors import LlmcError
from llmc.tokens.files import TokenLayout, payload_sha256
from llmc.tokens.manifest import Shard
from llmc.tokens.masks import AGAIN, CONVERSATION, COUNTS, TURN, checked_mask, damage, mask_path

if TYPE_CHECKING:
    from llmc.tokens.masks import Mask


class MaskCounts:
    """What the masks of some token files say, added up."""

    def __init__(self) -> None:
        self.tokens = self.counted = self.begun = self.turns = 0
        self.is_whole = True  # every mask was read

    def add(self, mask: Mask) -> None:
        """Add a mask (n,)."""
        self.tokens += len(mask)
        self.counted += int(np.count_nonzero(mask & COUNTS))
        self.begun += int(np.count_nonzero(mask & CONVERSATION))
        self.turns += int(np.count_nonzero(mask & TURN))

    def take(
        self,
        made: Description,
        path: Path,
        layout: TokenLayout,
        shard: Shard | None,
        options: Options,
    ) -> None:
        """Add the mask of a token file if it has one; compare it with the manifest's entry."""
        if shard is not None and layout.masked != (shard.mask_sha256 is not None):
            has, says = ("a", "none") if layout.masked else ("no", "one")
            made.wrong(
                f"{path} has {has} mask, and its manifest names {says}: run 'llmc tokenize PATH' "
                "again"
            )
        if not layout.masked:
            return
        if not options.may_read(layout.count):
            self.is_whole = False
            return
        mask = mask_path(path)
        try:
            found = checked_mask(path, layout.count)
            same = shard is None or payload_sha256(mask) == shard.mask_sha256
        except LlmcError as error:
            made.wrong(safe_text(str(error), None))
            return
        if not same:
            made.wrong(
                f"the checksum of {mask} is not the one in its manifest: it was changed, run "
                "'llmc tokenize PATH' again"
            )
        self.add(found)

    def say(self, made: Description) -> None:
        """Add what was counted, if anything has a mask."""
        if not self.is_whole:
            made.say("counted", None, f"not known: {NOT_READ}")
        elif self.tokens:
            share = f"{self.counted / self.tokens:.1%}: the loss counts there"
            made.say("counted", self.counted, f"{self.counted:,} tokens, {share}")
            made.say("conversations", self.begun)
            made.say("turns", self.turns)


def say_mask(made: Description, count: int | None, options: Options) -> None:
    """Add what the file of a mask holds."""
    if count is None:
        return
    made.say("tokens", count)
    counts = MaskCounts()
    counts.is_whole = options.may_read(count)
    if counts.is_whole and not made.problems:
        if (why := damage(made.path)) is not None:
            made.wrong(f"it {why}; {AGAIN}")
            return
        counts.add(np.fromfile(made.path, "u1", offset=made.known("bytes") - count))
    counts.say(made)
    names = [made.path.with_suffix(end).name for end in (".bin", "")]
    beside = [name for name in names if (made.path.parent / name).is_file()]
    made.say("token_file", beside[0] if beside else None, beside[0] if beside else "none beside it")
