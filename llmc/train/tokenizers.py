"""The tokenizer that a workspace's newest run or dataset uses."""

from __future__ import annotations

from contextlib import suppress

from llmc.errors import BadData, MissingOutput
from llmc.paths import CHECKPOINT, Workspace
from llmc.report import SILENT, Report
from llmc.tokens.manifest import load_manifest
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer, recorded_tokenizer
from llmc.train.folder import find_run
from llmc.weights.tokenizer import tokenizer_of


def newest_tokenizer(workspace: Workspace, report: Report = SILENT) -> Tokenizer:
    """Return the newest run's tokenizer, else the newest dataset's, else GPT-2's; report which.

    Raises:
        BadData: the tokenizer that the run or the dataset recorded is gone or changed.
    """
    with suppress(MissingOutput):
        run = find_run(workspace, None)
        recorded = recorded_tokenizer(run)
        if recorded is None:
            with suppress(BadData):  # a damaged checkpoint names no tokenizer
                recorded = tokenizer_of(workspace, run / CHECKPOINT)
        if recorded is not None:
            report.note(f"tokenizer: {recorded.name}, of the run {workspace.shown(run)}")
            return recorded
    try:
        manifest = load_manifest(workspace.newest_dataset())
    except MissingOutput:
        report.note("tokenizer: gpt2 (there is no run and no dataset to take one from)")
        return load_tokenizer("gpt2")
    chosen = manifest.load_tokenizer()
    report.note(f"tokenizer: {chosen.name}, of the dataset {workspace.shown(manifest.folder)}")
    return chosen
