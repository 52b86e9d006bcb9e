"""A loaded model: the Python API's ``llmc.load``, an engine that samples until it is closed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from llmc.config import SampleConfig
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator
from llmc.engine.protocol import NO_TOKEN, Request
from llmc.errors import Usage
from llmc.paths import Workspace
from llmc.report import SILENT, Report
from llmc.sample.chat import Chat
from llmc.sample.model import SampleModel, model_at
from llmc.sample.streaming import valid
from llmc.sample.text import Sample


class SampleOptions(TypedDict, total=False):
    """The options of a sample; settings that are left out are those of the model's run."""

    special: bool  # <|endoftext|> and the like in the prompt are tokens
    stop: str | Sequence[str]  # strings that end the text; they are not part of it
    ignore_eot: bool  # continue after an end-of-text token
    tokens: int  # at most this many; this and the rest as in llmc.config.SampleConfig
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int


class LoadedModel:
    """A model whose engine stays loaded between samples; a context manager.

    ::

        with load(workspace, "my-run") as model:
            print(model.sample("Once upon a time", tokens=100, temperature=0.8))

    Attributes:
        model: the checkpoint, its shape, tokenizer and sampling defaults.
    """

    def __init__(self, model: SampleModel, generator: Generator) -> None:
        self.model = model
        self._generator = generator

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine."""
        self._generator.close()

    def sample(self, prompt: str = "", **options: Unpack[SampleOptions]) -> str:
        """Return a continuation of ``prompt``, without the prompt.

        Raises:
            Usage: an option is unknown or out of range, or a stop string is empty.
            LlmcError: the engine failed.
        """
        return valid(self.start(prompt, **options).finished().text)

    def stream(self, prompt: str = "", **options: Unpack[SampleOptions]) -> Iterator[str]:
        """Yield the continuation piece by piece; arguments and errors as in :meth:`sample`."""
        for token in self.start(prompt, **options):
            yield valid(token.text)

    def start(self, prompt: str = "", **options: Unpack[SampleOptions]) -> Sample:
        """Start a sample, with ids and log probabilities; arguments as in :meth:`sample`."""
        model, settings = self.model, dict[str, Any](options)
        assert model.tokenizer is not None
        ignore_eot, special = (settings.pop(name, False) for name in ("ignore_eot", "special"))
        chosen, stops = self._chosen(settings)
        ids = model.ids(prompt, special=special) or [model.eot]
        request = Request(ids, chosen, NO_TOKEN if ignore_eot else model.end)
        return Sample(self._generator, model.tokenizer, request, stops)

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Unpack[SampleOptions]) -> str:
        """Return the assistant's answer to a conversation.

        ``messages`` are objects with ``role`` and ``content``, as in OpenAI's API; old turns that
        do not fit the context are left out.

        Raises:
            BadData: the model was not trained on conversations.
            Usage: one of ``messages`` is not such an object, or there is none; or as
                :meth:`sample`.
            LlmcError: the engine failed.
        """
        settings, stops = self._chosen(dict(options))
        talk = Chat(self.model, self._generator, settings, stops=stops)
        talk.take(messages)
        return valid(talk.answer().finished().text).strip()

    def _chosen(self, settings: dict[str, Any]) -> tuple[SampleConfig, Sequence[str]]:
        """Return the sampling settings of some options, and the stop strings."""
        stop = settings.pop("stop", ())
        unknown = settings.keys() - {*vars(self.model.settings)} | settings.keys() & {"dtype"}
        if unknown:
            raise Usage(f"unknown sampling setting '{min(unknown)}'")
        return replace(self.model.settings, **settings), [stop] if isinstance(stop, str) else stop


def load(
    workspace: Workspace,
    run_or_file: str | Path | None = None,
    *,
    last: bool = False,
    dtype: str | None = None,
    threads: int | None = None,
    report: Report = SILENT,
) -> LoadedModel:
    """Load a model into an engine of its own; arguments and errors are those of ``llmc.load``.

    Raises:
        LlmcError: also where the engine cannot be started.
    """
    model = model_at(workspace, run_or_file, last=last, report=report)
    binary = ensure_native(report=report)
    argv = model.argv(binary, dtype=dtype, threads=threads)
    return LoadedModel(model, Generator(argv).__enter__())
