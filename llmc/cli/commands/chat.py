"""``llmc chat``: talk with a model that was trained on conversations."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

from llmc.cli.choosing import DtypeOption, LastOption, ThreadsOption
from llmc.cli.context import Context
from llmc.cli.options import argument, in_group, option, parser_of, with_settings
from llmc.cli.views.sampling import ByteView
from llmc.config import SAMPLE_SETTINGS
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator
from llmc.errors import BadData, Usage
from llmc.sample.chat import Chat
from llmc.sample.model import SampleModel, model_at
from llmc.setting import overridden
from llmc.text.documents import unescaped

of_talk = in_group("Conversation")

Run = Annotated[
    str | None,
    argument("RUN", "A run, or a checkpoint's file. Default: the newest run."),
]
System = Annotated[str, of_talk("Message of the system, before the conversation.", "TEXT")]
Prompt = Annotated[
    str | None, of_talk("Answer one message and leave. Default: ask for messages.", "TEXT")
]
Stop = Annotated[
    list[str] | None,
    of_talk("End an answer before this text, in which \\n is a newline. Can be repeated.", "TEXT"),
]
Tokens = Annotated[
    int | None,
    option(
        "Tokens of an answer, at most. Default: half of the context.",
        "N",
        group=SAMPLE_SETTINGS["tokens"].group,
        parser=parser_of(SAMPLE_SETTINGS["tokens"]),
    ),
]


@with_settings(SAMPLE_SETTINGS)
def chat(
    context: typer.Context,
    *,
    run: Run = None,
    last: LastOption = False,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    system: System = "",
    prompt: Prompt = None,
    stop: Stop = None,
    tokens: Tokens = None,
    **settings: Any,
) -> None:
    """Talk with a model that was trained on conversations.

    In a pipe, every line of stdin is a message. Other settings come from the run's config.
    """
    ctx: Context = context.obj
    if prompt is not None and not prompt.strip():
        raise Usage("--prompt is empty: give it a message, or leave it out")
    model = model_at(ctx.workspace, run, last=last, report=ctx.ui)
    _check(ctx, model, run)
    most = max(1, model.config.context // 2) if tokens is None else tokens
    chosen = overridden(model.settings, {**settings, "tokens": most, "dtype": dtype})
    argv = model.argv(ensure_native(report=ctx.ui), dtype=chosen.dtype, threads=threads)
    stops = [*map(unescaped, stop or [])]
    with Generator(argv) as generator:
        if prompt is None and sys.stdin.isatty() and sys.stdout.isatty() and not ctx.ui.json:
            from llmc.cli.chatting import ChatPrompt
            from llmc.cli.conversation import Session

            session = Session(ctx.ui, generator, model, chosen, stops)
            ChatPrompt(session, system=system).run()
            return
        if prompt is None and sys.stdin.isatty():
            ctx.ui.note("every line is a message; Ctrl-D ends")
        talk = Chat(model, generator, chosen, stops=stops)
        talk.set_system(system)
        _answer_all(ctx, talk, [prompt] if prompt is not None else _typed_lines())


def _check(ctx: Context, model: SampleModel, run: str | None) -> None:
    """Refuse a model that was not trained on conversations, and name what it can do."""
    if model.tokenizer is not None and model.tokenizer.template is not None:
        return
    named: list[str] = []
    if run is not None:
        named = ["--run" if (ctx.workspace.runs / run).is_dir() else "--model", run]
    command = shlex.join(["llmc", "sample", "-i", *named])
    raise BadData(
        f"{ctx.workspace.shown(model.checkpoint)} was not trained on conversations and has no chat "
        f"template; it continues text: '{command}'"
    )


def _typed_lines() -> Iterator[str]:
    """Yield the lines of stdin as they come.

    Raises:
        BadData: one is not UTF-8.
    """
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BadData(
                f"line {number:,} of stdin is not UTF-8 text (byte {error.start:,}): convert it"
            ) from error


def _answer_all(ctx: Context, talk: Chat, lines: Iterable[str]) -> None:
    """Answer messages that are not typed, each in the same conversation; empty ones are skipped."""
    view = ByteView()
    for line in lines:
        if not line.strip():
            continue
        talk.say(line.rstrip("\r\n"))
        before = talk.dropped
        sample = talk.answer()
        if talk.dropped and not before:
            ctx.ui.note("the first messages are beyond the context now")
        for token in talk.tokens(sample):
            if not ctx.ui.json:
                view.show(token)
        talk.keep(sample)
        if not ctx.ui.json:
            print(flush=True)
            continue
        answer = talk.messages[-1]
        end = sample.end
        assert end is not None
        ctx.ui.result(
            {
                "message": {"role": answer.role, "content": answer.content},
                "reason": sample.reason,
                "seed": sample.seed,
                "dropped_messages": talk.dropped,
                "prompt_tokens": end.prompt_tokens,
                "tokens": len(sample.ids),
                "prompt_ms": end.prompt_ms,
                "ms": end.ms,
            }
        )
