"""Streaming token ids to text: whole characters only, and nothing of a stop string.

A token is a few bytes of UTF-8 and may begin or end inside a character. A stop string may span
several tokens, or end inside one. The pieces joined are the text of all ids, cut at the first stop
string.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from llmc.errors import Usage
from llmc.tokens.tokenizer import Tokenizer

# Bytes that are not UTF-8 become lone surrogates, so that they can be written unchanged.
KEPT: Final = "surrogateescape"


def valid(text: str) -> str:
    """Return a text with U+FFFD for bytes that are not UTF-8."""
    return text.encode(errors=KEPT).decode(errors="replace")


class TextPiece(NamedTuple):
    """The text that one token adds."""

    place: int  # the token's position among the tokens fed, from 0
    text: str  # the characters that it completes; empty if it ends inside its first character
    whole: bool = True  # False if a stop string cut the token


class TextStream:
    """Turns one sequence of token ids into text, token by token.

    ::

        stream = TextStream(tokenizer, stops=["\\n\\n"])
        for token in tokens:
            show(stream.feed(token))
            if stream.stopped is not None:
                break
        show(stream.finish())

    Each token comes out once, in order, as soon as no part of it can belong to a stop string.

    Attributes:
        stopped: the stop string that ended the text; None if none did.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        errors: Literal["replace", "surrogateescape"] = "replace",
    ) -> None:
        """Begin a text, which ends before the first of ``stops`` to be complete.

        If one character completes several, it ends before the longest. ``errors`` are those of
        ``bytes.decode``: lone surrogates of "surrogateescape" encode to the same bytes again.

        Raises:
            Usage: a stop string is empty.
        """
        if not all(stops):
            raise Usage("a stop string must not be empty: leave it out")
        self.stopped: str | None = None
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._stops = Stops(stops)
        self._waiting: deque[tuple[TextPiece, int]] = deque()  # each with its end in the text
        self._fed = 0  # tokens
        self._length = 0  # characters searched
        self._taken = 0  # characters returned

    def feed(self, token: int) -> list[TextPiece]:
        """Add the next id and return the tokens that certainly belong to the text now.

        Nothing is returned after a stop string.

        Raises:
            BadData: the id is not in the vocabulary.
        """
        if self.stopped is not None:
            return []
        text = self._decoder.decode(self._tokenizer.detokenize([token]))
        # A token that ends inside a character counts as ending with that character.
        inside = bool(self._decoder.getstate()[0])
        end = self._length + len(text) + inside
        self._waiting.append((TextPiece(self._fed, text), end))
        self._fed += 1
        return self._search(text)

    def finish(self) -> list[TextPiece]:
        """Return the rest: the beginning of a stop string that was never completed."""
        if self.stopped is not None:
            return []
        rest = self._decoder.decode(b"", final=True)
        end = self._length + len(rest)
        if rest:  # the last token ended inside a character
            piece, _ = self._waiting.pop()
            self._waiting.append((TextPiece(piece.place, piece.text + rest), end))
        pieces = self._search(rest)
        return pieces if self.stopped is not None else [*pieces, *self._take(end)]

    def _search(self, text: str) -> list[TextPiece]:
        for char in text:
            self._length += 1
            self.stopped = self._stops.feed(char)
            if self.stopped is not None:
                return self._cut(self._length - len(self.stopped))
        return self._take(self._length - self._stops.held)

    def _take(self, end: int) -> list[TextPiece]:
        """Return the waiting tokens that end at or before a position in the text."""
        taken = []
        while self._waiting and self._waiting[0][1] <= end:
            piece, _ = self._waiting.popleft()
            self._taken += len(piece.text)
            taken.append(piece)
        return taken

    def _cut(self, end: int) -> list[TextPiece]:
        """Return the waiting tokens before a position in the text, the last one cut."""
        taken = self._take(end)
        left = end - self._taken
        if left > 0:
            piece, _ = self._waiting[0]
            taken.append(TextPiece(piece.place, piece.text[:left], whole=False))
        return taken


class Stops:
    """Finds the first of several strings, none of them empty, in a stream of characters.

    Attributes:
        held: number of last characters that may begin one of the strings.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.held = 0
        self._stops = [_Stop(stop) for stop in sorted(set(stops), key=len, reverse=True)]

    def feed(self, char: str) -> str | None:
        """Add one character; return the longest string that it completes, or None."""
        complete = [stop.text for stop in self._stops if stop.feed(char)]
        if complete:
            return complete[0]
        self.held = max((stop.begun for stop in self._stops), default=0)
        return None


class _Stop:
    """Finds one string in a stream of characters, by Knuth, Morris and Pratt.

    Attributes:
        text: the string.
        begun: length of the longest prefix of the string that the stream ends with.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.begun = 0
        # For each prefix, the length of its longest proper suffix that is also a prefix.
        self._borders = [0]
        for char in text[1:]:
            self._borders.append(self._longer(self._borders[-1], char))

    def feed(self, char: str) -> bool:
        """Add one character; return whether it completes the string."""
        self.begun = self._longer(self.begun, char)
        if self.begun < len(self.text):
            return False
        self.begun = self._borders[-1]
        return True

    def _longer(self, begun: int, char: str) -> int:
        """Return the new length of the prefix after one more character."""
        while begun and self.text[begun] != char:
            begun = self._borders[begun - 1]
        return begun + (self.text[begun] == char)
