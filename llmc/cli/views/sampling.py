"""What a person, or a pipe, sees of a text that is being written."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING

from llmc.cli.ui import Ui
from llmc.sample.text import KEPT, Text, Written, seen_of_prompt
from llmc.units import milliseconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as Words

# The least probability of each colour. They are 256-colour shades that can be read on light and on
# dark ground; what the model found very unlikely is underlined too.
COLOURS = (
    (0.5, "color(34)"),
    (0.2, "color(106)"),
    (0.05, "color(172)"),
    (0.01, "color(202)"),
    (0.0, "color(160) underline"),
)
TURNS = frozenset(("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"))


class View:
    """Nothing is shown; a context manager around each text."""

    def __enter__(self) -> View:
        """Begin a text."""
        return self

    def __exit__(self, *unused: object) -> None:
        """End a text, whatever ended it."""

    def separate(self, eot: Written, heading: str, *, first: bool) -> None:
        """Say that another of several texts begins.

        Args:
            eot: the end-of-text token, which tells texts apart in a file.
            heading: what tells a person.
            first: nothing came before it.
        """

    def prompt(self, ids: Sequence[int], text: str) -> None:
        """Show what a text goes on from."""

    def show(self, written: Written) -> None:
        """Show one token at once."""


class IdView(View):
    """Token ids, one a line; no id of a token that is in the text by half only."""

    def separate(self, eot: Written, heading: str, *, first: bool) -> None:
        """Write end-of-text between two texts."""
        if not first:
            self.show(eot)

    def prompt(self, ids: Sequence[int], text: str) -> None:
        """Write the ids of the prompt."""
        _write(b"".join(b"%d\n" % token for token in ids))

    def show(self, written: Written) -> None:
        """Write one token to stdout at once."""
        if written.whole:
            _write(b"%d\n" % written.token)


class ByteView(View):
    """Text for a pipe or a file: the bytes of the tokens, as they are."""

    def separate(self, eot: Written, heading: str, *, first: bool) -> None:
        """Write end-of-text between two texts."""
        if not first:
            self.show(eot)

    def prompt(self, ids: Sequence[int], text: str) -> None:
        """Write the prompt."""
        _write(text.encode(errors=KEPT))

    def show(self, written: Written) -> None:
        """Write one token to stdout at once."""
        _write(written.text.encode(errors=KEPT))


class TerminalView(View):
    """Text for a person: nothing in it moves the cursor; perhaps coloured by probability."""

    def __init__(self, *, colours: bool = False) -> None:
        """Begin at the left of an empty line."""
        self.colours = colours
        self._console: Console | None = None
        self._at_left = True

    @property
    def console(self) -> Console:
        """The console on stdout, which knows whether colours are wanted there."""
        if self._console is None:
            from rich.console import Console

            self._console = Console()
        return self._console

    def __exit__(self, *unused: object) -> None:
        """Go to the beginning of a line."""
        if not self._at_left:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._at_left = True

    def separate(self, eot: Written, heading: str, *, first: bool) -> None:
        """Write a line that says which text begins."""
        self._print(f"── {heading} ──\n", "dim")

    def prompt(self, ids: Sequence[int], text: str) -> None:
        """Write the prompt so that it can be told from what is made of it."""
        self._print(printable(text), "bold")

    def show(self, written: Written) -> None:
        """Write one token to the terminal at once."""
        style = colour_of(written.probability) if self.colours else ""
        self._print(printable(written.text), style)

    def _print(self, text: str, style: str) -> None:
        if text:
            self._at_left = text.endswith("\n")
            self.console.out(text, style=style or None, end="", highlight=False)


def choose_view(ui: Ui, *, decode: bool, show_probs: bool) -> View:
    """Return what fits where stdout goes, and what was asked for."""
    if not decode:
        return IdView()
    if not sys.stdout.isatty():
        return ByteView()
    return TerminalView(colours=show_probs)


def printable(text: str) -> str:
    """Return text in which nothing moves the cursor or turns the direction of writing."""
    return "".join(
        char
        if char in "\n\t" or (unicodedata.category(char) not in ("Cc", "Cs") and not _turns(char))
        else "\ufffd"
        for char in text
    )


def _turns(char: str) -> bool:
    return unicodedata.bidirectional(char) in TURNS


def colour_of(probability: float) -> str:
    """Return the style of a token that the model gave this probability."""
    return next(style for least, style in COLOURS if probability >= least or least == 0)


def legend() -> Words:
    """Return a line that says what the colours mean."""
    from rich.text import Text as Words

    line = Words("probability: ")
    for least, style in COLOURS:
        name = f"{least:.0%} and more" if least == COLOURS[0][0] else f"{least:.0%}"
        line.append(name if least else "less", style).append("  ")
    line.rstrip()
    return line


def prompt_note(tokens: int, context: int) -> str | None:
    """Return what is to be known of a prompt that is longer than the model's context."""
    if tokens <= context:
        return None
    return (
        f"of the prompt's {tokens:,} tokens the model sees only the last "
        f"{seen_of_prompt(tokens, context):,}; its context is {context:,}"
    )


def summary(texts: Sequence[Text], seconds: float) -> str:
    """Return one line about what was written, and how fast.

    What is counted are the tokens of the texts. The engine may have written more, beginning with
    the stop string, until it was told of it: its speed counts those too.

    Args:
        texts: those that have ended.
        seconds: how long they took together.
    """
    ends = [text.end for text in texts if text.end is not None]
    count = sum(len(text.ids) for text in texts)
    written = sum(end.tokens for end in ends)
    said = f"{count:,} token{'s' * (count != 1)}"
    if len(ends) > 1:
        return f"{said} in {len(ends)} texts, {_speed(written / seconds if seconds > 0 else nan)}"
    (end,) = ends
    if written > 1:
        # The first token comes out of reading the prompt.
        spent = end.ms - end.prompt_ms
        said += f", {_speed((written - 1) / spent * 1e3 if spent > 0 else nan)}"
    if written > 0:
        said += f" (prompt of {end.prompt_tokens:,} in {milliseconds(end.prompt_ms)})"
    return said + REASONS.get(texts[0].reason, "")


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
