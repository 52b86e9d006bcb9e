"""One run of the engine's ``train``: its flags, and its events as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmc.config import TrainConfig
from llmc.engine.launcher import ALONE, Launch
from llmc.engine.machine import Threads
from llmc.engine.process import Engine
from llmc.setting import flags_of
from llmc.train.metrics import Event, Metrics, Progress
from llmc.train.mixture import whole_weights
from llmc.train.silence import TICK_SECONDS, Silence
from llmc.train.start import Data

SAMPLE_TOKENS = 64

OnEvent = Callable[[Event, Progress], None]


def ignore(event: Event, progress: Progress) -> None:
    """Show nothing of an event."""


def engine_arguments(
    data: Data,
    model: Path,
    folder: Path,
    settings: TrainConfig,
    threads: Threads,
    *,
    rows: int = 0,
) -> list[str]:
    """Return the flags of the engine's ``train``: every setting under its own name.

    ``rows`` are the model's: ids that no token of the data's tokenizer has are never sampled.
    """
    argv = ["--model", str(model)]
    for flag, weights, texts in (
        ("--data", "--weights", data.train),
        ("--val-data", "--val-weights", data.val),
    ):
        argv += [word for text in texts for word in (flag, str(text.path))]
        if len(texts) > 1:
            argv += [weights, ",".join(map(str, whole_weights(texts)))]
    argv += ["--out", str(folder)]
    argv += [*threads.flags(), "--events", "json"]
    argv += ["--sample-tokens", str(SAMPLE_TOKENS)]
    if data.tokenizer is not None:
        unused = data.tokenizer.ids_without_token(rows)
        argv += ["--eot", str(data.tokenizer.eot)]
        argv += ["--unused-ids", unused] if unused else []
    if data.sample_prompt:
        argv += ["--sample-prompt", ",".join(map(str, data.sample_prompt))]
    if data.sample_stop is not None:
        argv += ["--sample-stop", str(data.sample_stop)]
    return argv + flags_of(settings)


def run_engine(
    argv: Sequence[str],
    progress: Progress,
    detokenize: Callable[[Sequence[int]], str],
    on_event: OnEvent = ignore,
    *,
    earlier: Metrics | None = None,
    on_first: Callable[[], None] | None = None,
    launch: Launch = ALONE,
    on_silence: Callable[[str], None] | None = None,
) -> None:
    """Run the engine to its end; ``progress`` and ``on_event`` take each event as it comes.

    Args:
        argv: the engine's command line.
        progress: collects the numbers.
        detokenize: turns the ids of a sample into text.
        on_event: takes each event and the numbers so far.
        earlier: what a resumed run recorded before; what belongs to the steps kept is counted.
        on_first: called once, at the first loss: nothing can refuse the run after that.
        launch: how the engine is started.
        on_silence: takes a sentence about ranks that have said nothing for long.

    Raises:
        LlmcError: the engine failed or was interrupted.
    """
    silence = Silence(launch.name)
    with Engine(argv, launch=launch) as engine:
        for event in engine.watched_events(TICK_SECONDS):
            if event is None:
                if launch.several and on_silence and (words := silence.look()) is not None:
                    on_silence(words)
                continue
            silence.hear(event)
            if event.get("event") == "start" and earlier is not None:
                progress.resume(earlier, event["step"])
            if on_first is not None and ("train_loss" in event or "val_loss" in event):
                on_first()
                on_first = None
            progress.add(event, detokenize)
            on_event(event, progress)
