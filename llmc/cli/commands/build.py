"""``llmc build``: compile the engine."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from llmc.cli.context import Context
from llmc.cli.options import flag, option
from llmc.engine.build import build_native, chosen_cpu
from llmc.engine.toolchain import Cpu, Mode, Target


def build(
    context: typer.Context,
    *,
    cpu: Annotated[
        Literal["baseline", "native"] | None,
        option(
            "baseline: one binary with every instruction set, for any CPU of this family; native: "
            "for this CPU alone. Default: what LLMC_CPU says, else baseline."
        ),
    ] = None,
    target: Annotated[
        Target | None,
        option(
            "Build for another machine or system and print where the program is: x86_64 or "
            "aarch64, then -linux-gnu, -linux-musl, -macos or -windows-gnu.",
            "TARGET",
        ),
    ] = None,
    force: Annotated[bool, flag("--force", "Compile even if the binary is up to date.")] = False,
    debug: Annotated[
        bool, flag("--debug", "Keep symbols and optimise little, for a debugger.")
    ] = False,
    sanitize: Annotated[
        bool,
        flag(
            "--sanitize",
            "As --debug, and stop at undefined behaviour (UBSan; zig ships no AddressSanitizer).",
        ),
    ] = False,
) -> None:
    """Compile the C engine, for this machine or another.

    The compiler is zig, from pip; the binary goes to the cache. The training and sampling commands
    build by themselves when needed. Any other C compiler: make native CC=cc.
    """
    ctx: Context = context.obj
    mode = Mode.SANITIZE if sanitize else Mode.DEBUG if debug else Mode.RELEASE
    wanted = Cpu(cpu) if cpu else chosen_cpu()
    built = build_native(report=ctx.ui, force=force, mode=mode, cpu=wanted, target=target)
    if not built.compiled:
        ctx.ui.note(f"the engine is up to date: {built.path}")
    if wanted is not chosen_cpu():
        ctx.ui.note(f"LLMC_CPU={wanted.value} makes the other commands use it")
    ctx.ui.result(
        {
            "binary": str(built.path),
            "mode": mode.value,
            "cpu": wanted.value,
            "target": target,
            "built": built.compiled,
        }
    )
    if target is None:
        ctx.ui.next("llmc prepare stdlib")
