"""Train a byte-level BPE with the ``tokenizers`` library, which nothing can interrupt meanwhile.

:mod:`llmc.tokens.bpe` therefore runs this file in a process of its own, which it can end. The file
imports nothing from llmc. Standard input carries pieces of text, each as its length in 4 bytes and
its UTF-8; a length of 0 ends them. Standard output carries the library's progress, then the tokens,
each as a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

LENGTH_BYTES = 4


def learn(pieces: Iterable[str], vocab_size: int, *, progress: bool = False) -> list[str]:
    """Return ``vocab_size`` tokens or fewer in order of rank, spelled as in GPT-2's files.

    The 256 bytes are included, and no token spans two pieces of the text. ``progress`` prints the
    progress on standard error as lines of JSON.
    """
    # Unset, a process started later (the compiler, the engine) makes the library warn about forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=progress,
        progress_format="json" if progress else "silent",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    trained.train_from_iterator(pieces, trainer=trainer)
    ranks = trained.get_vocab()
    return sorted(ranks, key=ranks.__getitem__)


def _received(stream: BinaryIO) -> Iterator[str]:
    while True:
        head = stream.read(LENGTH_BYTES)
        if len(head) < LENGTH_BYTES:
            sys.exit("the process that sends the text is gone")
        if not (length := int.from_bytes(head, "big")):
            return
        yield stream.read(length).decode()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    tokens = learn(_received(sys.stdin.buffer), int(sys.argv[1]), progress=True)
    print(json.dumps({"tokens": tokens}))
