"""``llmc serve``: a trained model over HTTP, and a page to try it."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Annotated

import typer

from llmc.cli.choosing import ModelChoice, with_model
from llmc.cli.context import Context
from llmc.cli.options import in_group
from llmc.cli.ui import Ui
from llmc.engine.build import ensure_native
from llmc.engine.generator import Generator
from llmc.errors import MissingOutput
from llmc.installation import install_command

SLOTS, QUEUE, MAX_TOKENS = 8, 64, 4096


of_server = in_group("Server")

Host = Annotated[
    str,
    of_server(
        "Address to listen on (127.0.0.1: only this machine can connect). "
        "Any other address needs a key in LLMC_API_KEY.",
        "ADDRESS",
    ),
]
Port = Annotated[int, of_server("Port (8000); 0: any free one.", "N", 0, max=65535)]
Slots = Annotated[int, of_server(f"Completions written at a time ({SLOTS}).", "N", 1, max=64)]
Queue = Annotated[
    int,
    of_server(f"Completions that may wait ({QUEUE}); more are refused with 429.", "N", 0, max=1000),
]
MaxTokens = Annotated[
    int, of_server(f"Most tokens per completion ({MAX_TOKENS}).", "N", 1, max=1_000_000)
]
Cors = Annotated[
    list[str] | None,
    of_server(
        "Web pages of this origin may use the server, such as http://localhost:3000; repeatable. "
        "*: the pages of any site.",
        "ORIGIN",
    ),
]
Log = Annotated[bool, of_server("Log each request on stderr, without its text.", names=("--log",))]


@with_model
def serve(
    context: typer.Context,
    *,
    chosen: ModelChoice,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    slots: Slots = SLOTS,
    queue: Queue = QUEUE,
    max_tokens: MaxTokens = MAX_TOKENS,
    cors: Cors = None,
    log: Log = False,
) -> None:
    """Serve a model over HTTP: OpenAI's API and a web page.

    Ctrl-C or SIGTERM finishes the running completions and ends the server. Needs the extra 'serve'.
    """
    ctx: Context = context.obj
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingOutput(f"serving needs the package {package}: {install_command('serve')}")
    from llmc.serve import server
    from llmc.serve.guard import ANY_ORIGIN, guard_for
    from llmc.serve.served import served_model

    guard = guard_for(host, cors or ())
    if ANY_ORIGIN in guard.origins:
        needs = "with its key" if guard.key is not None else "while it runs"
        ctx.ui.note(f"web pages of any site may use this server {needs} (--cors '*')")
    model = chosen.find(ctx, needs_tokenizer=True)
    served = served_model(model)
    binary = ensure_native(report=ctx.ui)
    argv = model.argv(binary, slots=slots, dtype=chosen.dtype, threads=chosen.threads)
    with server.listen(host, port) as bound, Generator(argv) as generator:
        server.serve(
            bound,
            generator,
            served,
            guard,
            queue=queue,
            max_tokens=max_tokens,
            ready=partial(_show_ready, ctx.ui, server.address_of(bound, host), served.name),
            say=ctx.ui.note,
            log=ctx.ui.note if log else lambda line: None,
        )


def _show_ready(ui: Ui, address: str, name: str) -> None:
    ui.note(f"serving {name}; Ctrl-C ends")
    ui.result({"url": address, "model": name})
    if not ui.json:
        print(address, flush=True)
