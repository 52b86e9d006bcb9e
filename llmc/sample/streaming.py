"""Token ids to text while they come: no half characters, nothing that belongs to a stop string.

A token is a few bytes of UTF-8, and may begin or end inside a character; a stop string may be
spread over several tokens, or end in the middle of one. What comes out here, put together, is what
decoding all of the ids at once and cutting at the stop string would give, however tokens cut the
text.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from llmc.errors import Usage
from llmc.tokens.tokenizer import Tokenizer


class Piece(NamedTuple):
    """What one token adds to the text.

    Attributes:
        place: the token's place among those that were fed, from 0.
        text: the characters that it completes: none where it ends inside its first one.
        whole: False where a stop string took the end of the token.
    """

    place: int
    text: str
    whole: bool = True


class TextStream:
    """Turns one sequence of token ids into text, token by token.

    ::

        stream = TextStream(tokenizer, stops=["\\n\\n"])
        for token in tokens:
            show(stream.feed(token))
            if stream.stopped is not None:
                break
        show(stream.finish())

    Tokens come out in order, each once, as soon as none of it can be part of a stop string.

    Attributes:
        stopped: the stop string that ended the text, None while none has.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        errors: Literal["replace", "surrogateescape"] = "replace",
    ) -> None:
        """Begin a text.

        Args:
            tokenizer: what the ids mean.
            stops: end the text before the first of these that is complete; of those that are
                complete with the same character, before the longest.
            errors: bytes that are no UTF-8 become U+FFFD, or are kept as lone surrogates, which
                ``encode(errors="surrogateescape")`` makes the same bytes again.

        Raises:
            Usage: a stop string is empty.
        """
        if not all(stops):
            raise Usage("a stop string needs at least one character: leave out the empty one")
        self.stopped: str | None = None
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._stops = Stops(stops)
        self._waiting: deque[tuple[Piece, int]] = deque()  # each with where it ends in the text
        self._fed = 0  # tokens
        self._length = 0  # characters that were searched
        self._taken = 0  # characters that came out

    def feed(self, token: int) -> list[Piece]:
        """Take in the next id and return the tokens that are text for certain now.

        After a stop string nothing more comes out.

        Raises:
            BadData: the id is not in the vocabulary.
        """
        if self.stopped is not None:
            return []
        text = self._decoder.decode(self._tokenizer.detokenize([token]))
        # A token that ends inside a character ends with the whole of it.
        inside = bool(self._decoder.getstate()[0])
        end = self._length + len(text) + inside
        self._waiting.append((Piece(self._fed, text), end))
        self._fed += 1
        return self._search(text)

    def finish(self) -> list[Piece]:
        """Return what waits at the end: it was not a stop string after all."""
        if self.stopped is not None:
            return []
        rest = self._decoder.decode(b"", final=True)
        end = self._length + len(rest)
        if rest:  # the token that ended inside a character still waits for it
            piece, _ = self._waiting.pop()
            self._waiting.append((Piece(piece.place, piece.text + rest), end))
        pieces = self._search(rest)
        return pieces if self.stopped is not None else [*pieces, *self._take(end)]

    def _search(self, text: str) -> list[Piece]:
        """Look for a stop string in new text."""
        for char in text:
            self._length += 1
            self.stopped = self._stops.feed(char)
            if self.stopped is not None:
                return self._cut(self._length - len(self.stopped))
        return self._take(self._length - self._stops.held)

    def _take(self, end: int) -> list[Piece]:
        """Return the waiting tokens that lie before a place in the text."""
        taken = []
        while self._waiting and self._waiting[0][1] <= end:
            piece, _ = self._waiting.popleft()
            self._taken += len(piece.text)
            taken.append(piece)
        return taken

    def _cut(self, end: int) -> list[Piece]:
        """Return the waiting tokens that lie before a place in the text, the last one in part."""
        taken = self._take(end)
        left = end - self._taken
        if left > 0:
            piece, _ = self._waiting[0]
            taken.append(Piece(piece.place, piece.text[:left], whole=False))
        return taken


class Stops:
    """Finds the first of several strings in a text that comes one character at a time.

    Attributes:
        held: how many of the last characters may be the beginning of one of them.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        """Begin a text; none of the strings may be empty."""
        self.held = 0
        self._stops = [_Stop(stop) for stop in sorted(set(stops), key=len, reverse=True)]

    def feed(self, char: str) -> str | None:
        """Take in one character; return the longest string that is complete with it, if any is."""
        complete = [stop.text for stop in self._stops if stop.feed(char)]
        if complete:
            return complete[0]
        self.held = max((stop.begun for stop in self._stops), default=0)
        return None


class _Stop:
    """One string looked for, by Knuth, Morris and Pratt: the text is never gone back over.

    Attributes:
        text: the string.
        begun: how many of the text's last characters are its beginning.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.begun = 0
        # Of its first n + 1 characters: how many of the last ones are its beginning too.
        self._borders = [0]
        for char in text[1:]:
            self._borders.append(self._longer(self._borders[-1], char))

    def feed(self, char: str) -> bool:
        """Take in one character of the text; return whether the string is complete with it."""
        self.begun = self._longer(self.begun, char)
        if self.begun < len(self.text):
            return False
        self.begun = self._borders[-1]
        return True

    def _longer(self, begun: int, char: str) -> int:
        """Return how much is begun with one more character."""
        while begun and self.text[begun] != char:
            begun = self._borders[begun - 1]
        return begun + (self.text[begun] == char)
