"""Why the engine, or the launcher of its ranks, ended: found among what they printed."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llmc.errors import (
    BUG,
    BadData,
    ExitCode,
    Interrupted,
    Killed,
    LlmcError,
    LossNotFinite,
    Usage,
)

# A launcher may put the rank in front of a line: "[1,0]<stderr>: ", "[0] ", "0: ".
SENTENCE = re.compile(r"^(?:\[[^\]]*\](?:<\w+>)?:?\s*|\s*\d+:\s*)?error: (.*)")
MOST_WORDS = 300  # characters of a launcher's own
BY_SIGNAL = (
    # Open MPI's
    re.compile(
        r"process rank (?P<rank>\d+) with PID \d+ on node (?P<machine>\S+) exited on signal "
        r"(?P<number>\d+) \((?P<name>[^)]+)\)"
    ),
    # MPICH's and Intel's
    re.compile(
        r"RUNNING AT (?P<machine>\S+) .*EXIT STRING: (?P<name>[^(]+?) \(signal (?P<number>\d+)\)"
    ),
    re.compile(
        r"RANK (?P<rank>\d+) PID \d+ RUNNING AT (?P<machine>\S+) "
        r".*KILLED BY SIGNAL: (?P<number>\d+) \((?P<name>[^)]+)\)"
    ),
    # Slurm's
    re.compile(r"srun: error: (?P<machine>\S+): tasks? (?P<rank>[\d,-]+): (?P<name>Killed)"),
)
BY_HAND = {"2", "15"}  # signals that a launcher itself sends to the ranks
MISSING = re.compile(r"No such file|could not be found|unable to (?:find|access)", re.IGNORECASE)


def sentence_of(line: str) -> str | None:
    """Return what the engine says in a line of stderr about an error; None of any other line."""
    found = SENTENCE.match(line)
    return found[1].strip() if found else None


class Ended(NamedTuple):
    """How a program ended that failed."""

    code: int  # its exit code, or minus a signal's number
    sentences: Sequence[str]  # what it said of errors, in order
    lines: Iterable[str]  # the last ones on stderr
    kind: type[LlmcError]  # the error of the exit code


def not_started(program: str, error: OSError, launcher: Sequence[str]) -> LlmcError:
    """Return the error of a program that the system did not start: the engine, or a launcher."""
    kind: type[LlmcError] = BadData
    advice = "" if launcher else "; run 'llmc build --force'"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        kind, advice = Usage, "; allow more open files (ulimit -n)"
    elif error.errno in (errno.EAGAIN, errno.ENOMEM):
        kind, advice = Usage, "; close other programs, or allow more processes (ulimit -u)"
    elif error.errno == errno.EACCES and not launcher:
        advice = (
            "; run 'llmc build --force', or set LLMC_CACHE_DIR to a folder on a disk from which "
            "programs may be started (one mounted with noexec allows none)"
        )
    return kind(f"cannot start {program}: {error.strerror}{advice}")


def of_engine(name: str, ended: Ended) -> LlmcError:
    """Return the error of the engine, which messages call ``name``."""
    code, sentences, lines, kind = ended
    if code < 0:
        end = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return Killed(
                f"{name} was killed (SIGKILL), most likely because memory ran out: "
                "close other programs, or use a smaller model or batch"
            )
    elif sentences:
        return kind(sentences[-1])
    elif kind is Interrupted:
        return Interrupted("interrupted")
    else:
        end = f"exit code {code}"
    # A sanitizer's finding comes first and its stack trace after it.
    findings = [line for line in lines if "panic: " in line or "runtime error: " in line]
    words = (findings or list(lines))[-3:]
    output = f", after printing: {' / '.join(words)}" if words else ""
    return kind(f"{name} ended with {end}{output}; {BUG}")


def of_launcher(
    launcher: str, ended: Ended, program: str, *, reason: str | None, asked: bool
) -> LlmcError:
    """Return the error of a launcher; most hand on the exit code of the engine.

    Args:
        launcher: its name.
        ended: how it ended. Of the sentences that of the rank that failed comes first.
        program: the engine's path.
        reason: why the engine says that the run has ended; None if it did not say.
        asked: the ranks were asked to stop.
    """
    code, sentences, lines, _ = ended
    known: dict[str, type[LlmcError]] = {"interrupted": Interrupted, "not-finite": LossNotFinite}
    kind = known.get(reason or "") or ended.kind
    if sentences:
        return kind(sentences[0])
    if asked or reason == "interrupted":
        return Interrupted("interrupted")
    said = " ".join(" ".join(lines).replace("=", " ").split())
    found = next((match for each in BY_SIGNAL if (match := each.search(said))), None)
    if found is not None and found.groupdict().get("number") not in BY_HAND:
        return _killed(found.groupdict())
    words = re.sub(r"-{5,}", " ", said).strip()
    if program in words and MISSING.search(words):
        return kind(
            f"{launcher} does not find {program} on every machine: run 'llmc build --force' there, "
            "or let them share the folder that LLMC_CACHE_DIR names"
        )
    shown = f": {words[:MOST_WORDS]}" if words else ", and said nothing"
    if code not in set(ExitCode):  # not the engine's: the launcher has failed
        kind = Usage
    return kind(f"{launcher} ended with exit code {code}{shown}")


def _killed(found: dict[str, str | None]) -> LlmcError:
    which = f"rank {found['rank']}" if found.get("rank") else "a rank"
    number = f"signal {found['number']}, " if found.get("number") else ""
    what = f"{which} on {found['machine']} was killed ({number}{found['name']})"
    if found["name"] == "Killed":
        return Killed(f"{what}, perhaps because memory ran out there")
    return LlmcError(f"{what}; this is a bug in llmc or in its MPI, please report it")
