"""How a sample is shown in a terminal or written to a pipe, token by token."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from math import isfinite, nan
from typing import TYPE_CHECKING

from llmc.sample.model import visible_prompt
from llmc.sample.streaming import KEPT
from llmc.sample.text import Sample, SampledToken
from llmc.units import milliseconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as Words

# The least probability of each colour: 256-colour shades that are readable on light and on dark
# backgrounds. The least likely tokens are underlined too.
COLOURS = (
    (0.5, "color(34)"),
    (0.2, "color(106)"),
    (0.05, "color(172)"),
    (0.01, "color(202)"),
    (0.0, "color(160) underline"),
)
TURNS = frozenset(("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"))


class View:
    """Shows nothing; a context manager around each text.

    Attributes:
        at_line_start: False if the output so far ends inside a line.
    """

    at_line_start = True

    def __enter__(self) -> View:
        return self

    def __exit__(self, *unused: object) -> None:
        """End a text."""

    def separate(self, eot: SampledToken, heading: str, *, first: bool) -> None:
        """Separate several texts, by the token ``eot`` or, in a terminal, by the heading."""

    def prompt(self, ids: Sequence[int], text: str) -> None:
        """Show the prompt."""

    def show(self, written: SampledToken) -> None:
        """Show one token at once."""


class PipeView(View):
    """A view for a pipe or a file, where end-of-text separates texts."""

    def separate(self, eot: SampledToken, heading: str, *, first: bool) -> None:
        """Write end-of-text between two texts."""
        if not first:
            self.show(eot)


class IdView(PipeView):
    """Token ids, one per line, without a token that a stop string cut."""

    def prompt(self, ids: Sequence[int], text: str) -> None:
        """Write the ids of the prompt."""
        _write(b"".join(b"%d\n" % token for token in ids))

    def show(self, written: SampledToken) -> None:
        """Write one token to stdout at once."""
        if written.whole:
            _write(b"%d\n" % written.token)


class ByteView(PipeView):
    """Text: the bytes of the tokens, unchanged."""

    def prompt(self, ids: Sequence[int], text: str) -> None:
        """Write the prompt."""
        if text:
            self.at_line_start = text.endswith("\n")
            _write(text.encode(errors=KEPT))

    def show(self, written: SampledToken) -> None:
        """Write one token to stdout at once."""
        self.prompt([], written.text)


class TerminalView(View):
    """Text for a terminal, without control characters; optionally coloured by probability."""

    def __init__(self, *, colours: bool = False) -> None:
        self.colours = colours

    @cached_property
    def console(self) -> Console:
        """The console on stdout, which knows whether stdout takes colours."""
        from rich.console import Console

        return Console()

    def __exit__(self, *unused: object) -> None:
        if not self.at_line_start:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self.at_line_start = True

    def separate(self, eot: SampledToken, heading: str, *, first: bool) -> None:
        """Write the heading on a line of its own."""
        self._print(f"── {heading} ──\n", "dim")

    def prompt(self, ids: Sequence[int], text: str) -> None:
        """Write the prompt in bold."""
        self._print(printable(text), "bold")

    def show(self, written: SampledToken) -> None:
        """Write one token to the terminal at once."""
        style = colour_of(written.probability) if self.colours else ""
        self._print(printable(written.text), style)

    def _print(self, text: str, style: str) -> None:
        if text:
            self.at_line_start = text.endswith("\n")
            self.console.out(text, style=style or None, end="", highlight=False)


def choose_view(*, decode: bool, show_probs: bool) -> View:
    """Return the view for stdout: ids, bytes for a pipe, or text for a terminal."""
    if not decode:
        return IdView()
    if not sys.stdout.isatty():
        return ByteView()
    return TerminalView(colours=show_probs)


def printable(text: str) -> str:
    """Replace characters that move the cursor or change the direction of writing."""
    return "".join("\ufffd" if _acts(char) else char for char in text)


def _acts(char: str) -> bool:
    control = unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"
    return control or unicodedata.bidirectional(char) in TURNS


def colour_of(probability: float) -> str:
    """Return the style of a token with this probability."""
    return next(style for least, style in COLOURS if probability >= least or least == 0)


def legend() -> Words:
    """Return a line that explains the colours."""
    from rich.text import Text as Words

    line = Words("probability: ")
    for least, style in COLOURS:
        name = f"{least:.0%} and more" if least == COLOURS[0][0] else f"{least:.0%}"
        line.append(name if least else "less", style).append("  ")
    line.rstrip()
    return line


def prompt_note(tokens: int, context: int) -> str | None:
    """Return a warning about a prompt longer than the model's context, or None."""
    if tokens <= context:
        return None
    return (
        f"of the prompt's {tokens:,} tokens the model sees only the last "
        f"{visible_prompt(tokens, context):,}; its context is {context:,}"
    )


def summary(texts: Sequence[Sample], seconds: float) -> str:
    """Return one line with the number of tokens and the speed of texts that have ended.

    The number counts the tokens of the texts. The engine may have written more after a stop string
    until it was cancelled; the speed counts those too. ``seconds`` is the time of all texts.
    """
    ends = [text.end for text in texts if text.end is not None]
    count = sum(len(text.ids) for text in texts)
    written = sum(end.tokens for end in ends)
    line = f"{count:,} token{'s' * (count != 1)}"
    if len(ends) > 1:
        return f"{line} in {len(ends)} texts, {_speed(written / seconds if seconds > 0 else nan)}"
    (end,) = ends
    if written > 1:
        # Reading the prompt gives the first token.
        spent = end.ms - end.prompt_ms
        line += f", {_speed((written - 1) / spent * 1e3 if spent > 0 else nan)}"
    if written > 0:
        line += f" (prompt of {end.prompt_tokens:,} in {milliseconds(end.prompt_ms)})"
    return line + REASONS.get(texts[0].reason, "")


REASONS = {
    "end-of-text": "; the text ended by itself",
    "stop": "; a stop string came",
    "cancelled": "; stopped",
}


def _speed(rate: float) -> str:
    return f"{rate:,.{0 if rate >= 100 else 1}f} tokens/s" if isfinite(rate) else "– tokens/s"


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
