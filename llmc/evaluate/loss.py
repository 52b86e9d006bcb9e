"""Loss, perplexity and bits per byte of a model on token files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import Interrupted, Usage
from llmc.evaluate.rows import EngineOptions, EngineRun, RowEngine
from llmc.evaluate.statistics import Score, Tally, mixed_score, score
from llmc.evaluate.target import EvaluatedModel, EvaluatedText, find_evaluated, find_text
from llmc.paths import Workspace, expanded
from llmc.report import SILENT, Report
from llmc.tokens.files import read_tokens
from llmc.train.mixture import share_of_tokens, shares

if TYPE_CHECKING:
    from llmc.tokens.files import Ids


@dataclass(frozen=True)
class ScoredText:
    """The score of one text of a mixture, and the part of the whole that it counts for."""

    name: str
    share: float
    score: Score


@dataclass(frozen=True)
class LossResult:
    """What :func:`evaluate` measured."""

    model: EvaluatedModel
    files: tuple[Path, ...]  # the token files that were predicted
    split: str | None  # train or val of a dataset; None for a single file
    score: Score  # loss, perplexity and bits per byte, with standard errors
    engine: EngineRun
    other_split: str | None = None  # that the dataset has too
    parts: tuple[ScoredText, ...] = ()  # of a mixture: each text

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return self.score.loss.value


def evaluate(
    workspace: Workspace,
    target: str | Path | None = None,
    *,
    data: Path | None = None,
    split: str | None = None,
    max_tokens: int | None = None,
    last: bool = False,
    options: EngineOptions | None = None,
    report: Report = SILENT,
) -> LossResult:
    """Predict every token of a text except the first, and return the mean loss.

    ``target`` is a run (its best weights, or with ``last`` its last ones) or a checkpoint; by
    default the newest run. ``data`` is a dataset's folder or a token file; by default the run's.
    ``split`` is ``train`` or ``val``, the default. ``max_tokens`` are spread as in a validation.
    Of a run on a mixture the loss is the mean of the texts' losses by their weights.

    Raises:
        MissingOutput: the model or the data does not exist.
        BadData: a file is damaged, or model and data have different tokenizers.
        Usage: the window is longer than the model's context, or an argument has no such value.
        LlmcError: the engine failed or was interrupted.
    """
    options = options or EngineOptions()
    if split not in (None, "train", "val"):
        raise Usage(f"split must be train or val, not '{split}'")
    if max_tokens is not None and max_tokens < 1:
        raise Usage(f"max_tokens must be at least 1, not {max_tokens}")
    model = find_evaluated(workspace, target, report, last=last)
    context = model.header.config.context
    if options.seq_len is not None and options.seq_len > context:
        raise Usage(
            f"--seq-len {options.seq_len} is more than the {context} positions of "
            f"{workspace.shown(model.checkpoint)}: use at most that"
        )
    text = find_text(workspace, model, data, split, report)
    report.note(f"data: {', '.join(map(workspace.shown, text.files))}")
    report.note(f"model: {workspace.shown(model.checkpoint)}")
    engine = RowEngine(model.checkpoint, options, report)
    if text.tokenizer is None:
        report.note("the tokenizer is unknown: no bits per byte, no documents")
        tallies = [Tally() for _ in text.texts]
    else:
        known = text.tokenizer.end, text.tokenizer.byte_lengths()
        tallies = [Tally(*known) for _ in text.texts]
    _predict(text, tallies, engine, max_tokens, report)
    weights = shares(text.texts)
    result = mixed_score(tallies, weights, engine.seq_len)
    names = [each.name for each in text.texts]
    scores = [score(tally, engine.seq_len) for tally in tallies] if len(tallies) > 1 else []
    parts = tuple(map(ScoredText, names, weights, scores))
    files, finished = text.files, engine.finished()
    return LossResult(model, files, text.split, result, finished, text.other_split, parts)


def _predict(
    text: EvaluatedText,
    tallies: Sequence[Tally],
    engine: RowEngine,
    max_tokens: int | None,
    report: Report,
) -> None:
    """Predict each text, or its share of ``max_tokens``, and add the losses to its tally."""
    asked = share_of_tokens(text.texts, max_tokens or 0)
    there = [max(each.tokens - 1, 0) for each in text.texts]
    total = sum(min(most or all_of, all_of) for most, all_of in zip(asked, there, strict=True))
    with report.bar("evaluating", total, "tokens") as advance:
        try:
            for each, most, tally in zip(text.texts, asked, tallies, strict=True):
                shards = [read_tokens(file) for file in expanded(each.path)]
                flags = ("--data", str(each.path), "--max-tokens", str(most))
                _add_rows(tally, shards, engine.rows(*flags, advance=advance))
        except Interrupted as stop:
            measured = "nothing was measured"
            if tallies[0].tokens:
                done = [tally for tally in tallies if tally.tokens]
                so_far = score(done[-1], engine.seq_len).loss.shown()
                measured = f"loss so far: {so_far} nats per token"
                measured += f", of {text.texts[len(done) - 1].name}" if len(tallies) > 1 else ""
            message = f"interrupted after {engine.done:,} of {total:,} tokens; {measured}"
            raise Interrupted(message) from stop


def _add_rows(tally: Tally, shards: Sequence[Ids], rows: Iterable[dict[str, Any]]) -> None:
    """Add the losses of rows; what is between them is not predicted."""
    end = None
    for row in rows:
        start, losses = row["at"], row["losses"]
        if start != end:
            tally.begin_piece()
        end = start + len(losses)
        tally.add(_ids(shards, start, end), losses)


def _ids(shards: Sequence[Ids], start: int, end: int) -> Ids:
    """Return the ids from ``start`` to ``end`` of a stream of shards, (n,)."""
    import numpy as np

    pieces = []
    for shard in shards:
        if end > 0 and start < len(shard):
            pieces.append(shard[max(start, 0) : end])
        start, end = start - len(shard), end - len(shard)
    return np.concatenate(pieces)
