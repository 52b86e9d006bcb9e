from __future__ import annotations

from pathlib import Path

from llmc.config import TrainConfig
from llmc.engine.machine import Threads
from llmc.train.engine_run import engine_arguments
from llmc.train.mixture import Portion
from llmc.train.start import Data


def test_samples_follow_the_prompt_of_the_data() -> None:
    texts = (Portion(Path("train.bin")),)
    given = Data("chat", texts, sample_prompt=(50256, 7), sample_stop=9)
    argv = engine_arguments(given, Path("m"), Path("r"), TrainConfig(), Threads(1))
    pairs = dict(zip(argv[::2], argv[1::2], strict=True))
    assert (pairs["--sample-prompt"], pairs["--sample-stop"]) == ("50256,7", "9")
    argv = engine_arguments(Data("x", texts), Path("m"), Path("r"), TrainConfig(), Threads(1))
    assert not {"--sample-prompt", "--sample-stop"} & set(argv)
