"""The model to sample from: find its checkpoint, its tokenizer and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmc.config import SampleConfig
from llmc.engine import machine
from llmc.engine.generator import generate_argv
from llmc.engine.protocol import NO_TOKEN
from llmc.errors import BadData, LlmcError, MissingOutput, Usage
from llmc.model import ModelConfig, parameter_count
from llmc.paths import CONFIG, RECORD, Workspace, expanded
from llmc.report import SILENT, Report
from llmc.sample.streaming import KEPT
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
