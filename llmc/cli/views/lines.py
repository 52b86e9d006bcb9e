"""A training run as lines of text: llm.c's, and those that only llmc has."""

from __future__ import annotations

from llmc.terminal import printable
from llmc.train.metrics import Event, Progress
from llmc.train.ranks import shown_ranks, threads_in
from llmc.units import megabytes


def precision(start: Event) -> str:
    """Return the type of matrix products, and whether this CPU has instructions for it."""
    dtype = str(start["dtype"])
    if dtype == "bf16" and not start["multiplies_bf16"]:
        return "bf16, multiplied as floats: this CPU has no bf16 instructions"
    return dtype


def plain_lines(event: Event, progress: Progress) -> str:
    """Return the lines that llm.c prints for an event."""
    if "train_loss" in event:
        return (
            f"step {event['step']}: train loss {event['train_loss']:.6f} "
            f"(took {event['step_ms']:.3f} ms{_in_messages(event)})\n"
        )
    if "val_loss" in event:
        error = f" ± {event['val_error']:.6f}" if "val_error" in event else ""
        return f"val loss {event['val_loss']:.6f}{error}\n"
    if event["event"] == "start":
        return (
            f"num_parameters: {event['parameters']}\n"
            f"memory: {megabytes(event['memory'])}\n"
            f"isa: {event['isa']}, threads: {event['threads']}, dtype: {precision(event)}\n"
            + _ranks_line(event)
        )
    if event["event"] == "sample":
        shown = printable(progress.sample, keep="\n\t", instead="�")
        return f"generating:\n---\n{shown}\n---\n"
    return _notice(event)


def _ranks_line(start: Event) -> str:
    """Return the line about several ranks, or nothing."""
    if (shown := shown_ranks(start)) is None:
        return ""
    return f"{shown}, {threads_in(start):,} threads in all; messages: {start['mpi']}\n"


def _in_messages(step: Event) -> str:
    return f", {step['exchange_ms']:.3f} in messages" if "exchange_ms" in step else ""


def ranks_at_work(progress: Progress) -> str | None:
    """Return how many ranks there are, and what part of a step messages take; None of one."""
    shown, share = shown_ranks(progress.start), progress.share_of_messages
    return (
        shown if shown is None or share is None else f"{shown} · {share:.0%} of a step in messages"
    )


def _notice(event: Event) -> str:
    """Return the line about what happened beside the steps, or nothing."""
    if event["event"] == "threads":
        return f"threads: {event['threads']} of {event['given']}; more make the steps no faster\n"
    if event["event"] == "skipped":
        return (
            f"step {event['step']}: update skipped (z-score {event['loss_z']:.2f} of the loss, "
            f"{event['grad_z']:.2f} of the gradient's norm)\n"
        )
    return ""
