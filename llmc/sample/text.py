"""What ``llmc sample`` and ``llmc serve`` write with, and one text while it is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

from llmc.cli.context import Context
from llmc.config import SampleConfig, load_preset
from llmc.engine.generator import Generator
from llmc.engine.machine import available_cores
from llmc.engine.protocol import NO_TOKEN, End, Request, Token, raise_failure
from llmc.errors import BadData, LlmcError, MissingOutput, Usage
from llmc.model import ModelConfig, parameter_count
from llmc.paths import CHECKPOINT, CONFIG
from llmc.sample.streaming import Piece, TextStream
from llmc.tokens.tokenizer import Tokenizer, recorded_tokenizer
from llmc.train.folder import find_run
from llmc.weights.checkpoint import read_header
from llmc.weights.lookup import tokenizer_of

# Bytes that are no UTF-8 become lone surrogates, so that they can be written as they are.
KEPT: Final = "surrogateescape"
PARAMETERS_PER_THREAD = 4_000_000


@dataclass(frozen=True)
class Weights:
    """A checkpoint, where it is known the tokenizer it was trained with, and how to sample."""

    checkpoint: Path
    model: ModelConfig
    tokenizer: Tokenizer | None
    settings: SampleConfig

    @property
    def eot(self) -> int:
        """The end-of-text token: where the tokenizer is not known, the vocabulary's last."""
        return self.tokenizer.eot if self.tokenizer is not None else self.model.vocab_size - 1

    def text(self, ids: Sequence[int]) -> str | None:
        """Return the text of ``ids``, None where the tokenizer is not known."""
        if self.tokenizer is None:
            return None
        return self.tokenizer.detokenize(ids).decode(errors=KEPT)


def find_weights(
    here: Context, run: str | None, model: Path | None, *, needs_tokenizer: bool
) -> Weights:
    """Return what to sample from: the file or run named, or the newest run.

    Raises:
        MissingOutput: there is none.
        Usage: a folder is named in place of a file.
        BadData: it is damaged, or a tokenizer is needed and none is known for it.
    """
    if model is not None:
        if model.is_dir():
            raise Usage(
                f"{model} is a folder, and --model takes a checkpoint's file: give that, or a run "
                "by --run NAME"
            )
        if not model.is_file():
            raise MissingOutput(f"there is no file {model}: make one with 'llmc export-weights'")
        checkpoint = model
        tokenizer = tokenizer_of(here.workspace, checkpoint)
        settings = SampleConfig()
    else:
        folder = find_run(here.workspace, run)
        if run is None:
            here.ui.note(f"run: {here.workspace.shown(folder)} (the newest)")
        checkpoint = folder / CHECKPOINT
        tokenizer = recorded_tokenizer(folder) or tokenizer_of(here.workspace, checkpoint)
        config = folder / CONFIG
        settings = load_preset(str(config)).sample if config.is_file() else SampleConfig()
    if needs_tokenizer and tokenizer is None:
        raise BadData(
            f"nothing in the workspace tells the tokenizer of {here.workspace.shown(checkpoint)}: "
            "take its ids ('llmc sample' with neither a prompt nor --decode), and name it with "
            "'llmc decode --tokenizer'"
        )
    return Weights(checkpoint, read_header(checkpoint).config, tokenizer, settings)


def writing_threads(model: ModelConfig) -> int:
    """Return how many threads to write with: one per core, but no more than there is work for.

    All threads wait for each other after every operation of every layer. In a small model that is
    nearly all they do, and as soon as another program takes a core, all wait for that one.
    """
    return max(1, min(available_cores(), parameter_count(model) // PARAMETERS_PER_THREAD))


def seen_of_prompt(tokens: int, context: int) -> int:
    """Return how many of a prompt's last tokens the model reads (docs/guide/sampling.md)."""
    if tokens <= context:
        return tokens
    kept = context // 2
    return kept + (tokens - context - 1) % (context - kept) + 1


class Written(NamedTuple):
    """A token of a text.

    Attributes:
        token: its id.
        text: the characters that it completes; bytes that are no UTF-8 as lone surrogates. Empty
            where the tokenizer is not known.
        probability: that the model gave it, before any filter; 1 for a token of the prompt.
        whole: False where a stop string took the end of it: then this is text, but no id of it.
    """

    token: int
    text: str
    probability: float = 1.0
    whole: bool = True


class Text:
    """One text that is being written: an iterator over what is known to belong to it.

    What comes is taken in as it comes, in the thread that reads the engine, so that a stop string
    ends the text at once, whether or not somebody reads along.

    Attributes:
        seed: of its random numbers.
        ids: the tokens that were read so far, without the prompt: those in the text as a whole.
        logprobs: the natural logarithm of the probability of each.
        text: the characters that were read so far, without the prompt's.
        stopped: the stop string that ended it; it is not part of the text.
        end: how it ended, None while its end has not been read.
    """

    def __init__(
        self,
        generator: Generator,
        weights: Weights,
        request: Request,
        stops: Sequence[str] = (),
    ) -> None:
        """Ask for it; it is written from now on.

        Raises:
            Usage: a stop string is empty.
            LlmcError: the engine has ended, and why.
        """
        self.seed = request.settings.seed
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.text = ""
        self.stopped: str | None = None
        self.end: End | None = None
        self._eot = request.eot
        self._stream = (
            TextStream(weights.tokenizer, stops, errors=KEPT) if weights.tokenizer else None
        )
        self._told: list[Token] = []
        self._news: SimpleQueue[tuple[Piece, Token] | End | LlmcError] = SimpleQueue()
        self._generator = generator
        self._identity = ""
        self._identity = generator.submit(request, self._hear)
        if self.stopped is not None:  # before its name was known here
            self.cancel()

    def __iter__(self) -> Iterator[Written]:
        """Yield each token as soon as it is certain that it is in the text.

        Raises:
            LlmcError: the engine ended, and why, or could not go on.
        """
        while True:
            news = self._news.get()
            if isinstance(news, LlmcError):
                raise news
            if isinstance(news, End):
                raise_failure(news)
                self.end = news
                return
            piece, token = news
            if piece.whole:
                self.ids.append(token.token)
                self.logprobs.append(token.logprob)
            self.text += piece.text
            yield Written(token.token, piece.text, math.exp(token.logprob), piece.whole)

    def cancel(self) -> None:
        """End it early; what is written by then still comes. A signal's handler may do so."""
        self._generator.cancel(self._identity)

    @property
    def reason(self) -> str:
        """Why it ended: ``length``, ``end-of-text``, ``stop`` or ``cancelled``."""
        if self.stopped is not None:
            return "stop"
        assert self.end is not None
        return "end-of-text" if self.end.reason == "stop" else self.end.reason

    def _hear(self, event: Token | End) -> None:
        """Take in an event, in the thread that reads the engine.

        Raises:
            BadData: its token is not in the vocabulary; the engine is then asked for no more.
        """
        try:
            self._take(event)
        except LlmcError as error:
            self._news.put(error)
            raise

    def _take(self, event: Token | End) -> None:
        if isinstance(event, End):
            if self._stream is not None and event.reason != "error":
                self._add(self._stream.finish())
                self.stopped = self._stream.stopped
            self._news.put(event)
        elif self.stopped is None and (event.token != self._eot or self._eot == NO_TOKEN):
            self._told.append(event)
            if self._stream is None:
                self._add([Piece(len(self._told) - 1, "")])
                return
            self._add(self._stream.feed(event.token))
            self.stopped = self._stream.stopped
            if self.stopped is not None and self._identity:
                self.cancel()

    def _add(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._news.put((piece, self._told[piece.place]))
