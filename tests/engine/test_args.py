"""The engine's own command line: strict, and refusing in one sentence."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from llmc.config import TRAIN_SETTINGS
from llmc.model import ModelConfig
from llmc.setting import BELOW_1, Setting, typed_number
from tests.helpers.engine import Flags, Native, refused, succeeded
from tests.helpers.models import training_files

CONFIG = ModelConfig(layers=1, heads=2, channels=12, context=16, vocab_size=50)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Flags:
    made = training_files(tmp_path_factory.mktemp("files"), CONFIG, 300)
    return {"model": made["model"], "data": made["data"]}


@pytest.mark.parametrize(
    "words",
    [
        ["--steps", "many"],
        ["--steps", "1e2"],
        ["--steps", "-1"],
        ["--steps", "1.5"],
        ["--steps", "99999999999999999999"],
        ["--lr", "abc"],
        ["--lr", "nan"],
        ["--lr", "1e999"],
        ["--lr", ""],
        ["--beta1", "1"],
        ["--threads", "0"],
        ["--threads", "257"],
        ["--batch-size", "0"],
        ["--shuffle", "2"],
        ["--events", "xml"],
        ["--unknown", "1"],
        ["--step", "1"],
        ["steps", "1"],
        ["--steps"],
        ["--steps", "1", "--steps", "1"],
    ],
)
def test_flags_are_strict(words: list[str], native: Native, files: Flags) -> None:
    argv = native.argv("train", **files)
    refused(subprocess.run([*argv, *words], capture_output=True, text=True, check=False), 2)


def test_prompts_and_subcommands(native: Native, files: Flags) -> None:
    model = files["model"]
    for prompt in ("50", "-1", "1,", ",1", "1 2", "x", "1,,2", "99999999999999999999999", "1,50"):
        refused(native("sample", model=model, prompt=prompt), 2)
    assert succeeded(native("sample", model=model, prompt="49,0,1", tokens=0)).stdout == ""
    refused(
        subprocess.run([native.binary, "dance"], capture_output=True, text=True, check=False), 2
    )
    refused(native("train", model=model), 2)
    refused(native("sample"), 2)
    refused(native("debug-state", model=model), 2)
    for name in ("", "train", "sample", "bench", "bench-kernels", "debug-state", "isa"):
        words = [str(native.binary), *filter(None, [name]), "--help"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("usage: ") and not done.stderr


NUMBERS = [
    setting
    for setting in TRAIN_SETTINGS.values()
    if isinstance(setting.default, int | float) and not isinstance(setting.default, bool)
]


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
def test_ranges_are_those_of_the_table_of_settings(
    setting: Setting, native: Native, files: Flags
) -> None:
    def refusal(value: str, **more: Any) -> str:
        flags: Flags = {**files, setting.name: value, **more}
        return refused(native("train", **flags), 2)

    high = "below 1" if setting.high == BELOW_1 else f"and {typed_number(setting.high)}"
    for value in ("-1", "1e300"):
        error = refusal(value)
        assert f"{setting.flag} must be " in error and f"{high}, not {value}" in error
        assert f" {typed_number(setting.low)} and " in error
    if setting.older is not None:
        low, high = map(typed_number, setting.older)
        assert f" {low} and {high}, not" in refusal("1e300", resume=1, out="none")
