"""A stand-in for ``llmc-native generate``: the same lines, from a model that repeats its prompt.

The k-th token it writes is the k-th of the prompt, over and over; its logprob is -k/8.
The k-th token of a prompt has the logprob -k. Requests beyond the slots wait. ``--fault`` makes it
fail in the ways an engine may. With ``--chat`` it begins behind the last "user" and a newline or a
colon: with what the user said.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from typing import Any

V = 257  # and the template's tokens, with --chat


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def parse(line: str) -> dict[str, Any]:
    words = line.split(" ")
    if len(words) < 2 or len(words) % 2:
        raise ValueError("not a request")
    fields = dict(zip(words[2::2], words[3::2], strict=True))
    request: dict[str, Any] = {"id": words[1], "tokens": 128, "eot": -1, "logprobs": 0}
    for name, value in fields.items():
        request[name] = [int(token) for token in value.split(",")] if name == "prompt" else value
    for name in ("tokens", "eot", "logprobs"):
        request[name] = int(request[name])
    for at, token in enumerate(request["prompt"][1:] if "echo" in fields else [], 1):
        top = {"top": [[token, -at]]} if request["logprobs"] else {}
        say(event="prompt", id=words[1], token=token, logprob=-at, **top)
    return request | {"written": 0, "start": 0, "fields": fields}


def end(request: dict[str, Any], reason: str, **more: Any) -> None:
    counts = {"prompt_tokens": len(request["prompt"]), "tokens": request["written"]}
    say(event="end", id=request["id"], reason=reason, **counts, prompt_ms=2.5, ms=10.0, **more)


def step(request: dict[str, Any]) -> bool:
    """Write one token; return whether the text goes on."""
    if request["written"] == request["tokens"]:
        end(request, "length")
        return False
    at = request["written"]
    token = request["prompt"][(request["start"] + at) % len(request["prompt"])]
    top = [[(token + k) % 257, -at / 8 - k] for k in range(request["logprobs"])]
    say(
        event="token",
        id=request["id"],
        token=token,
        logprob=-at / 8,
        **({"top": top} if top else {}),
    )
    request["written"] += 1
    if token == request["eot"]:
        end(request, "stop")
    return bool(token != request["eot"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--model")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fault", default="")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--step-seconds", type=float, default=0)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if args.fault == "refuse":
        sys.stderr.write("error: model.bin is cut short: export it again\n")
        sys.exit(1)
    if args.fault == "mute":
        sys.exit(0)
    if args.fault == "slow":
        time.sleep(600)
    if args.fault == "garbage":
        print("hello", flush=True)
    size = V + 2 * args.chat
    facts = {"dtype": args.dtype, "isa": "none", "memory_bytes": 1 << 20, "vocab_size": size}
    say(event="ready", slots=args.slots, positions=args.positions, **facts)
    if args.fault == "deaf":
        time.sleep(600)
    serve(args)


def serve(args: argparse.Namespace) -> None:
    active: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    rest, listening = b"", True
    while listening or active or waiting:
        while listening and select.select([0], [], [], 0 if active or waiting else None)[0]:
            chunk = os.read(0, 1 << 16)
            listening = bool(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in map(bytes.decode, lines):
                take(line, args, active, waiting)
        while waiting and len(active) < args.slots:
            active.append(waiting.pop(0))
        active = [request for request in active if step(request)]
        time.sleep(args.step_seconds)


def take(
    line: str,
    args: argparse.Namespace,
    active: list[dict[str, Any]],
    waiting: list[dict[str, Any]],
) -> None:
    fault = args.fault
    if fault == "strange":
        say(event="weather", id=line.split()[1], outlook="fine")
    elif fault == "die":
        sys.stderr.write("error: no finite logits\n")
        sys.stderr.flush()
        os._exit(5)
    elif line.startswith("cancel "):
        for group in (active, waiting):
            for request in [request for request in group if request["id"] == line[7:]]:
                group.remove(request)
                end(request, "cancelled")
    else:
        request = parse(line)
        if args.chat:
            said = bytes(min(token, 255) for token in request["prompt"])
            behind = [
                said.rfind(mark) + len(mark) for mark in (b"user\n", b"User: ") if mark in said
            ]
            request["start"] = max(behind, default=0)
        if max(request["prompt"]) >= V + 2 * args.chat:
            end(request, "error", message=f"token {max(request['prompt'])} is not below {V}")
        else:
            waiting.append(request)


if __name__ == "__main__":
    main()
