"""How ``llmc serve`` bears a load: one client, then many, each asking again as soon as it is told.

    python -m tests.programs.load [--workspace build/demo] [--clients 64] [--seconds 60] [--slots
    32] …

It starts a server for the newest run (flags that are not its own go to ``llmc serve``), and for
each number of clients prints what came of it: requests, tokens per second, the wait for the first
token, computing time, the memory of the server and of the engine before and after. Every answer is
held to the tokens that were asked for; one that is missing, short or refused is counted as lost,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.served import Served, child_of, served


@dataclass
class Tally:
    """What a number of clients were told."""

    requests: int = 0
    tokens: int = 0
    lost: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


async def ask(server: Served, body: bytes, tokens: int, tally: Tally) -> None:
    """Ask once on a connection of its own, and read the stream to its end."""
    began = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(body)
        found = bytearray()
        first = 0.0
        while piece := await reader.read(1 << 16):
            if not first and b"data: " in piece:
                first = time.monotonic() - began
            found += piece
        writer.close()
        events = [line[6:] for line in found.splitlines() if line.startswith(b"data: ")]
        usage = json.loads(events[-2])["usage"] if len(events) > 1 else {}
        if events[-1:] != [b"[DONE]"] or usage["completion_tokens"] != tokens:
            raise ValueError(bytes(found[:300]).decode(errors="replace"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        tally.lost.append(f"{type(error).__name__}: {error}")
        return
    tally.requests += 1
    tally.tokens += tokens
    tally.first.append(first)
    tally.whole.append(time.monotonic() - began)


async def load(server: Served, clients: int, seconds: float, tokens: int) -> tuple[Tally, float]:
    """Have clients ask for a time; what is under way at its end is waited for and counted."""
    tally = Tally()
    began = time.monotonic()

    async def client(number: int) -> None:
        asked = 0
        while time.monotonic() - began < seconds:
            fields = {
                "prompt": "def read(self):" if asked % 2 else "class",
                "max_tokens": tokens,
                "seed": number * 1000 + asked,
                "stream": True,
                "ignore_eos": True,
                "stream_options": {"include_usage": True},
            }
            content = json.dumps(fields).encode()
            head = (
                "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            await ask(server, head.encode() + content, tokens, tally)
            asked += 1

    await asyncio.gather(*(client(number) for number in range(clients)))
    return tally, time.monotonic() - began


def resident(pid: int) -> float:
    """Return the megabytes of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu(pid: int) -> float:
    """Return the seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", default="build/demo")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--alone", type=float, default=20, help="seconds of one client")
    parser.add_argument("--tokens", type=int, default=64)
    args, flags = parser.parse_known_args()
    argv = [sys.executable, "-m", "llmc", "--workspace", args.workspace, "serve", "--port", "0"]
    speeds, lost = [], 0
    with served([*argv, *flags]) as server:
        pids = (server.process.pid, child_of(server.process.pid))
        asyncio.run(load(server, args.clients, 1, args.tokens))  # every slot's memory is touched
        for clients, seconds in ((1, args.alone), (args.clients, args.seconds)):
            before, worked = [resident(pid) for pid in pids], [cpu(pid) for pid in pids]
            tally, took = asyncio.run(load(server, clients, seconds, args.tokens))
            after = [resident(pid) for pid in pids]
            spent = [
                (cpu(pid) - was) / max(tally.tokens, 1) * 1e6
                for pid, was in zip(pids, worked, strict=True)
            ]
            speeds.append(tally.tokens / took)
            lost += len(tally.lost)
            told = {
                "clients": clients,
                "seconds": round(took, 1),
                "requests": tally.requests,
                "lost": len(tally.lost),
                "tokens_per_second": round(speeds[-1]),
                "first_token_ms": round(statistics.median(tally.first) * 1e3, 1),
                "first_token_ms_p99": round(
                    sorted(tally.first)[int(len(tally.first) * 0.99)] * 1e3
                ),
                "cpu_us_per_token": {"server": round(spent[0], 1), "engine": round(spent[1], 1)},
                "server_mb": [round(before[0], 1), round(after[0], 1)],
                "engine_mb": [round(before[1], 1), round(after[1], 1)],
            }
            print(json.dumps(told), flush=True)
            for why in tally.lost[:3]:
                print(f"lost: {why}", file=sys.stderr)
        code, _ = server.end()
    print(json.dumps({"times_one_client": round(speeds[1] / speeds[0], 2), "exit_code": code}))
    sys.exit(1 if lost or code else 0)


if __name__ == "__main__":
    main()
