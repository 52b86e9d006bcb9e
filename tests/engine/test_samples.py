"""Samples during training follow a prompt, and may end at a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.events import json_lines
from tests.helpers.models import RAGGED, training_files

V, CONTEXT = RAGGED.vocab_size, RAGGED.context
PROMPT = "3,1,4,1,5,9"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    made = training_files(tmp_path_factory.mktemp("files"), RAGGED)
    flags: Flags = {"model": made["model"], "data": made["data"], "seq_len": 16}
    return flags | {"steps": 2, "sample_every": 2, "sample_tokens": 12, "events": "json"}


def sampled(native: Native, **flags: Any) -> list[int]:
    lines = json_lines(succeeded(native("train", **flags)).stdout)
    (sample,) = [line for line in lines if line.get("event") == "sample"]
    tokens: list[int] = sample["tokens"]
    return tokens


def test_a_sample_follows_its_prompt(native: Native, files: Flags, tmp_path: Path) -> None:
    """It is what the trained weights write after it."""
    for i, prompt in enumerate([PROMPT, ",".join(["7"] * (2 * CONTEXT))]):
        out = tmp_path / str(i)
        ours = sampled(native, out=out, sample_prompt=prompt, **files)
        theirs = native("sample", model=out / "model.bin", prompt=prompt, tokens=12)
        assert ours == [int(line) for line in succeeded(theirs).stdout.split()]
    assert sampled(native, **files) == sampled(native, sample_prompt=str(V - 1), **files)


def test_a_sample_ends_with_its_stop_token(native: Native, files: Flags) -> None:
    whole = sampled(native, sample_prompt=PROMPT, **files)
    stop = whole[4]
    cut = sampled(native, sample_prompt=PROMPT, sample_stop=stop, **files)
    assert cut == whole[: whole.index(stop) + 1]


def test_a_resume_keeps_the_draws(native: Native, files: Flags, tmp_path: Path) -> None:
    flags: Flags = {**files, "steps": 4, "sample_prompt": PROMPT, "sample_stop": 5}
    whole = json_lines(succeeded(native("train", out=tmp_path / "whole", **flags)).stdout)
    succeeded(native("train", out=tmp_path / "cut", **{**flags, "steps": 2}))
    done = native("train", out=tmp_path / "cut", resume=1, **flags)
    rest = json_lines(succeeded(done).stdout)
    of_both = [[x["tokens"] for x in each if x.get("event") == "sample"] for each in (whole, rest)]
    assert of_both[1][-1] == of_both[0][-1]


@pytest.mark.parametrize("flags", [{"sample_prompt": f"1,{V}"}, {"sample_stop": V}])
def test_ids_are_those_of_the_model(flags: Flags, native: Native, files: Flags) -> None:
    assert f"{V}" in refused(native("train", **files, **flags), 2)
