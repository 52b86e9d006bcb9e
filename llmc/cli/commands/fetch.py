"""``llmc fetch``: bring a dataset's text or a model's weights into the workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from llmc.cli.context import Context
from llmc.cli.options import SourceOption, argument, flag
from llmc.fetch.named import fetch_named
from llmc.fetch.registry import EVALUATIONS, KNOWN, LOCAL, WEIGHTS


def fetch(
    context: typer.Context,
    name: Annotated[str, argument("NAME", f"One of {', '.join(KNOWN)}.")],
    source: SourceOption = None,
    force: Annotated[bool, flag("--force", "Fetch again what is there.")] = False,
) -> None:
    """Download a dataset, an evaluation or a model's weights.

    Interrupted downloads resume when you run the same command again.

    Downloads are kept in a cache that all workspaces share; --offline (or LLMC_OFFLINE=1) uses
    only that cache. HF_ENDPOINT names a mirror of the hub, HF_TOKEN gives access to private files,
    HTTPS_PROXY names a proxy, LLMC_RETRIES sets how often a failed request is repeated.
    """
    ctx: Context = context.obj
    folder = fetch_named(ctx.workspace, name, source=source, force=force, report=ctx.ui)
    files = sorted(path.name for path in folder.iterdir()) if name not in LOCAL else []
    ctx.ui.result({"name": name, "folder": str(folder), "files": files})
    if name in WEIGHTS:
        ctx.ui.next(f"llmc export-weights {name}")
    else:
        ctx.ui.next(f"llmc eval --task {name}" if name in EVALUATIONS else f"llmc tokenize {name}")
