"""The sampling settings in words: one table for the command line, the prompt and the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class SampleSetting(NamedTuple):
    """How a field of :class:`llmc.config.SampleConfig` is explained.

    Attributes:
        metavar: a letter for the value.
        help: what it does, in at most 60 characters.
        example: a sensible value other than the default.
    """

    metavar: str
    help: str
    example: str


SAMPLE_SETTINGS: Mapping[str, SampleSetting] = {
    "tokens": SampleSetting("N", "Tokens to write after the prompt, at most", "200"),
    "temperature": SampleSetting(
        "X", "Below 1 more predictable, above 1 more random; 0: greedy", "0.7"
    ),
    "top_k": SampleSetting("K", "Sample from the K most likely tokens; 0: from all", "40"),
    "top_p": SampleSetting("P", "Sample from the most likely tokens that add up to P", "0.9"),
    "min_p": SampleSetting("P", "Drop tokens less than P times as likely as the likeliest", "0.05"),
    "repetition_penalty": SampleSetting(
        "X", "Above 1, tokens already in the text become less likely", "1.1"
    ),
    "seed": SampleSetting("N", "Random seed; the same seed writes the same text", "7"),
}
