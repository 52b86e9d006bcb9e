"""A trained model that writes: find its checkpoint and tokenizer, start the engine, sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from llmc.config import SampleConfig
from llmc.engine import machine
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator, generate_argv
from llmc.engine.protocol import NO_TOKEN, Request
from llmc.errors import BadData, LlmcError, MissingOutput, Usage
from llmc.model import ModelConfig, parameter_count
from llmc.paths import CONFIG, RECORD, Workspace, expanded
from llmc.report import SILENT, Report
from llmc.sample.streaming import KEPT, valid
from llmc.sample.text import Sample
from llmc.setting import differing
from llmc.text.reading import KEEP
from llmc.text.utf8 import as_read
from llmc.tokens.manifest import FILENAME, load_manifest
from llmc.tokens.tokenizer import Tokenizer
from llmc.train.folder import FoundCheckpoint, find_checkpoint, find_run, run_data
from llmc.train.record import run_settings
from llmc.weights.checkpoint import read_header
from llmc.weights.sources import run_weights

PARAMETERS_PER_THREAD = 4_000_000


@dataclass(frozen=True)
class SampleModel:
    """A checkpoint with its tokenizer and its sampling defaults."""

    checkpoint: Path
    config: ModelConfig
    tokenizer: Tokenizer | None  # that it was trained with; None if unknown
    settings: SampleConfig  # of its run, or the defaults
    unix: bool = True  # CR LF and CR became LF in its texts, and do so in prompts

    @property
    def eot(self) -> int:
        """The token that begins a document; the last id if the tokenizer is unknown."""
        return self.tokenizer.eot if self.tokenizer is not None else self.config.vocab_size - 1

    @property
    def end(self) -> int:
        """The token that ends a text; ``NO_TOKEN`` if none does, or the tokenizer is unknown."""
        end = self.tokenizer.end if self.tokenizer is not None else None
        return end if end is not None else NO_TOKEN

    @property
    def unused(self) -> str:
        """Ranges of the model's ids that no token has; they are never drawn."""
        rows = self.config.vocab_size
        return self.tokenizer.ids_without_token(rows) if self.tokenizer is not None else ""

    def ids(self, prompt: str, *, special: bool = False) -> list[int]:
        """Return the ids of a prompt, read as the model's texts were; empty without tokenizer.

        ``special``: special tokens in it, such as ``<|endoftext|>``, are tokens.

        Raises:
            BadData: a character has no token.
        """
        if self.tokenizer is None:
            return []
        return self.tokenizer.encode(as_read(prompt, unix=self.unix), special=special)

    def text(self, ids: Sequence[int]) -> str | None:
        """Return the text of ``ids``; None if the tokenizer is unknown."""
        if self.tokenizer is None:
            return None
        return self.tokenizer.detokenize(ids).decode(errors=KEPT)

    def argv(
        self,
        binary: Path,
        *,
        slots: int = 1,
        positions: int | None = None,
        dtype: str | None = None,
        threads: int | None = None,
    ) -> list[str]:
        """Return the command line of an engine with this model; None selects the defaults."""
        return generate_argv(
            binary,
            self.checkpoint,
            slots=slots,
            positions=positions,
            dtype=dtype or self.settings.dtype,
            threads=threads or default_threads(self.config),
            unused=self.unused,
        )


def find_model(
    workspace: Workspace,
    run: str | None = None,
    model: Path | None = None,
    *,
    last: bool = False,
    needs_tokenizer: bool = False,
    report: Report = SILENT,
) -> SampleModel:
    """Return the model in the file ``model``, of the run named ``run``, or of the newest run.

    ``last`` asks for a run's last weights instead of its best.

    Raises:
        MissingOutput: there is none.
        Usage: ``model`` is a folder.
        BadData: a file is damaged, or a tokenizer is needed and unknown.
    """
    if model is not None:
        if model.is_dir():
            raise Usage(
                f"{model} is a folder, but --model takes a checkpoint file: name the file, or a "
                "run with --run NAME"
            )
        if not model.is_file():
            raise MissingOutput(
                f"there is no file {model}: make one with 'llmc export-weights MODEL'"
            )
        found = FoundCheckpoint(model, None)
    else:
        folder = find_run(workspace, run)
        if run is None:
            report.note(f"run: {workspace.shown(folder)} (the newest)")
        found = FoundCheckpoint(run_weights(folder, last=last, report=report), folder)
    return _opened(workspace, found, report, needs_tokenizer=needs_tokenizer)


def model_at(
    workspace: Workspace,
    run_or_file: str | Path | None = None,
    *,
    last: bool = False,
    report: Report = SILENT,
) -> SampleModel:
    """Return the model of a run, named or by its folder, or of a file; of the newest run if None.

    Raises:
        MissingOutput: there is no such model.
        BadData: a file is damaged, or the model's tokenizer is unknown.
    """
    found = find_checkpoint(workspace, run_or_file, last=last, report=report)
    return _opened(workspace, found, report, needs_tokenizer=True)


def _opened(
    workspace: Workspace, found: FoundCheckpoint, report: Report, *, needs_tokenizer: bool
) -> SampleModel:
    """Read a checkpoint's header, tokenizer and settings; raises BadData like the callers."""
    tokenizer = found.tokenizer(workspace)
    if needs_tokenizer and tokenizer is None:
        raise BadData(
            f"the tokenizer of {workspace.shown(found.file)} is unknown: print token ids "
            "('llmc sample' without a prompt and without --decode) and turn them into text with "
            "'llmc decode --tokenizer NAME'"
        )
    settings = SampleConfig()
    if found.run is not None and (found.run / CONFIG).is_file():
        own, told = run_settings(found.run)
        settings = own.sample
        if told is not None and (edits := differing(told.sample, own.sample)):
            words = ", ".join(f"{name} {there}, not {own}" for name, (there, own) in edits.items())
            report.note(
                f"{workspace.shown(found.run / CONFIG)} was edited ({words}): the run's own "
                f"settings hold, which {RECORD} has; options change them"
            )
    shape, unix = read_header(found.file).config, _reads_unix(workspace, found.run)
    return SampleModel(found.file, shape, tokenizer, settings, unix)


def _reads_unix(workspace: Workspace, run: Path | None) -> bool:
    """Return whether CR LF and CR became LF in a run's texts; so they did unless its data say no.

    The registered datasets keep them, and have none.
    """
    with suppress(LlmcError):  # without its data it still writes
        data = run_data(workspace, run) if run is not None else None
        found = [expanded(text.path) for text in data[0]] if data is not None else []
        folders = [files[0].parent for files in found if files]
        made = [load_manifest(folder) for folder in folders if (folder / FILENAME).is_file()]
        return all(record.get("newlines") != KEEP for each in made for record in each.source)
    return True


def default_threads(config: ModelConfig) -> int:
    """Return one thread per 4 million parameters, at most :func:`machine.default_threads`.

    All threads wait for each other after every operation of every layer. In a small model that
    takes most of the time, and grows when another program takes a core.
    """
    return max(1, min(machine.default_threads(), parameter_count(config) // PARAMETERS_PER_THREAD))


def visible_prompt(tokens: int, context: int) -> int:
    """Return how many of a prompt's last tokens the model reads (docs/guide/sampling.md)."""
    if tokens <= context:
        return tokens
    kept = context // 2
    return kept + (tokens - context - 1) % (context - kept) + 1


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
        from llmc.sample.chat import Chat

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
