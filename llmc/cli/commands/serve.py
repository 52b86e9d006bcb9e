"""``llmc serve``: a trained model over HTTP, and the page to try it on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmc.cli.context import Context
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator, generate_argv
from llmc.errors import MissingOutput, Usage
from llmc.installation import install_command
from llmc.sample.text import find_weights, writing_threads

SLOTS, QUEUE, MAX_TOKENS = 8, 64, 4096


def serve(
    ctx: typer.Context,
    *,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run to serve. Default: the newest.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Checkpoint to serve, instead.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on (127.0.0.1: this machine alone). "
            "Any other lets other machines in, and takes a key: LLMC_API_KEY.",
            show_default=False,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port (8000); 0: any that is free.", show_default=False
        ),
    ] = 8000,
    dtype: Annotated[
        Literal["fp32", "bf16", "int8"] | None,
        typer.Option(help="What the weights are held as in memory. Default: as the run's config."),
    ] = None,
    slots: Annotated[
        int,
        typer.Option(
            min=1, max=64, help=f"Completions written together ({SLOTS}).", show_default=False
        ),
    ] = SLOTS,
    queue: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help=f"Completions that may wait for a slot ({QUEUE}); more are refused with 429.",
            show_default=False,
        ),
    ] = QUEUE,
    max_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            max=1_000_000,
            help=f"Tokens that one completion may ask for ({MAX_TOKENS}).",
            show_default=False,
        ),
    ] = MAX_TOKENS,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads; the same text for any. Default: one per core, at most one for every 4 "
            "million parameters.",
        ),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="Say each request on stderr, without its text.")
    ] = False,
) -> None:
    """Serve a model over HTTP: OpenAI's API and a web page.

    Ctrl-C or SIGTERM finishes what is being written and ends. Needs 'llmc[serve]'.
    """
    here: Context = ctx.obj
    if run is not None and model is not None:
        raise Usage("--run and --model exclude each other: give one")
    need_packages()
    from llmc.serve.guard import guard_for
    from llmc.serve.server import Settings, address_of, listen
    from llmc.serve.server import serve as answer
    from llmc.serve.subject import subject_of

    guard = guard_for(host)
    chosen = find_weights(here, run, model, needs_tokenizer=True)
    subject = subject_of(chosen)
    binary = ensure_native(report=here.ui)
    with listen(host, port) as bound:
        argv = generate_argv(
            binary,
            subject.checkpoint,
            slots=slots,
            dtype=dtype or chosen.settings.dtype,
            threads=threads or writing_threads(chosen.model),
        )
        with Generator(argv) as generator:
            address = address_of(bound, host)

            def ready() -> None:
                here.ui.note(f"serving {subject.name}; Ctrl-C ends")
                here.ui.result({"url": address, "model": subject.name})
                if not here.ui.json:
                    print(address, flush=True)

            answer(
                bound,
                generator,
                subject,
                guard,
                Settings(queue, max_tokens),
                ready=ready,
                say=here.ui.note,
                log=here.ui.note if log else lambda line: None,
            )


def need_packages() -> None:
    """Look for what serving takes beyond llmc itself.

    Raises:
        MissingOutput: it is not installed.
    """
    for name in ("starlette", "uvicorn", "prometheus_client"):
        if find_spec(name) is None:
            raise MissingOutput(f"serving needs the package {name}: {install_command('serve')}")
