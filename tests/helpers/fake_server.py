"""``llmc serve`` as a process of its own, over the stand-in for the engine.

    fake_server.py CHECKPOINT [--slots N] [--queue N] [--patience SECONDS] [fake_engine.py's …]

It prints its address once it answers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmc.config import SampleConfig
from llmc.engine.generator import Generator, generate_argv
from llmc.errors import LlmcError
from llmc.serve import connection, guard, server
from llmc.serve.served import ServedModel
from llmc.tokens.added import for_chat
from llmc.tokens.template import template_named
from llmc.tokens.tokenizer import load_tokenizer

FAKE = Path(__file__).with_name("fake_engine.py")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--queue", type=int, default=8)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=100_000)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chat", default="", help="the name of a chat template")
    parser.add_argument("--cors", action="append", default=[])
    parser.add_argument("--patience", type=float, default=None)
    args, rest = parser.parse_known_args()
    if args.patience is not None:
        guard.BODY_SECONDS = args.patience
        connection.HEAD_SECONDS = connection.STALLED_SECONDS = args.patience
        connection.UNREAD_SECONDS = args.patience
        server.GRACE_SECONDS = args.patience
    argv = generate_argv(FAKE, args.checkpoint, slots=args.slots, positions=args.positions)
    argv += ["--chat"] if args.chat else []
    tokenizer = load_tokenizer("byte")
    if args.chat:
        tokenizer = for_chat(tokenizer, template_named(args.chat))
    served = ServedModel(
        "parrot", args.checkpoint, tokenizer, SampleConfig(), args.checkpoint.parent
    )
    try:
        bound = server.listen(args.host, args.port)
        with Generator([sys.executable, *argv, *rest]) as generator:
            server.serve(
                bound,
                generator,
                served,
                guard.guard_for(args.host, args.cors),
                queue=args.queue,
                max_tokens=args.max_tokens,
                ready=lambda: print(server.address_of(bound, args.host), flush=True),
                say=lambda line: print(line, file=sys.stderr, flush=True),
                log=lambda line: None,
            )
    except LlmcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
