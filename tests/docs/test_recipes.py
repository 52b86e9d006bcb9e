"""Every preset runs, and docs/guide/recipes.md says of each what the engine does."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

from llmc.paths import shipped_dir
from llmc.preset import load_preset, preset_names
from llmc.setting import flags_of
from llmc.units import megabytes
from tests.conftest import Llmc
from tests.helpers.engine import Native, environment, refused
from tests.helpers.events import json_lines
from tests.helpers.models import hollow_model, save_tokens
from tests.helpers.places import ROOT
from tests.helpers.tools import load_program
from tests.helpers.workspace import ok

PAGE = (ROOT / "docs" / "guide" / "recipes.md").read_text("utf-8")
LARGE = {name for name in preset_names() if load_preset(name).model.channels >= 768}


def told(name: str) -> list[str]:
    """Return the preset's row of the page."""
    rows = re.findall(rf"^\| `{name}` \| ([\d,.]+M \| .*) \|$", PAGE, re.M)
    assert len(rows) == 1, name
    cells: list[str] = rows[0].split(" | ")
    return cells


@pytest.mark.parametrize("name", preset_names())
def test_the_engine_plans_what_the_page_says(name: str, native: Native, tmp_path: Path) -> None:
    """It is allowed a byte of memory, so that it plans, tells, and refuses."""
    preset = load_preset(name)
    T, B = preset.train.seq_len, preset.train.batch_size
    data = save_tokens(tmp_path / "data.bin", np.zeros(2 * B * T, np.int64), 300)
    model = hollow_model(tmp_path / "model.bin", preset.model)
    words = native.argv("train", model=model, data=data, val_data=data, dry_run=1, events="json")
    done = subprocess.run(
        [*words, "--threads", "2", *flags_of(preset.train)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(env={"LLMC_MEMORY": "1"}),
    )
    assert "of memory, but only" in refused(done, 2)
    (plan,) = json_lines(done.stdout)
    parameters, memory, *_ = told(name)
    assert parameters == f"{plan['parameters'] / 1e6:,.1f}M"
    # Scratch memory depends on the instruction set and the threads.
    number, unit = memory.split()
    said = float(number) * {"MB": 1e6, "GB": 1e9}[unit]
    assert said == pytest.approx(plan["memory"], rel=0.1), megabytes(plan["memory"])


@pytest.mark.parametrize("name", sorted(set(preset_names()) - LARGE))
def test_the_small_presets_are_rehearsed(name: str, cache: Path, tmp_path: Path) -> None:
    """With rows of a few tokens: what is left out is time."""
    preset = load_preset(name)
    llmc = Llmc(tmp_path, cache)
    data = save_tokens(tmp_path / "data.bin", np.zeros(3000, np.int64), preset.model.vocab_size)
    start = ["export-weights", f"random:{name}", "--out", "model.bin", "--quiet"]
    ok(llmc(*start))
    shape = ["--batch-size", "2", "--seq-len", "16"]
    shape += ["--total-batch-size", "128"] if preset.train.total_batch_size else []
    files = ["--model", "model.bin", "--data", str(data), "--val-data", str(data)]
    done = ok(llmc("train", "--config", name, *files, *shape, "--dry-run", "--json"))
    result = json.loads(done.stdout)
    assert result["work"]["steps"]["count"] == preset.train.steps
    assert result["tokens_per_second"] > 0


def test_every_preset_says_what_it_is_for() -> None:
    for name in preset_names():
        text = (shipped_dir("configs") / f"{name}.toml").read_text("utf-8")
        head = text[: text.index("tokenizer")].splitlines()
        assert len(head) >= 3 and all(line.startswith("#") for line in head), name
        assert tomllib.loads(text)["train"], name


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("time_to_loss", 2.5),
        ("time_to_loss_bf16", 2.0),
        ("time_to_loss_muon", 1.5),
        ("time_to_loss_muon_bf16", 2.5),
    ],
)
def test_the_time_to_a_loss_is_the_measured_one(name: str, least: float) -> None:
    program = load_program(ROOT / "tools" / "time_to_loss.py")
    result = json.loads((program.MEASURED / f"{name}.json").read_text("utf-8"))
    section = " ".join(PAGE[PAGE.index("## Time to a loss") :].split())
    for line in program.summary(result).splitlines():
        for found in re.findall(
            r"[\d.]+ times sooner|[\d.]+ to [\d.]+|[\d.]+ s\b|loss [\d.]+", line
        ):
            assert found.replace("loss ", "loss of ") in section, found
    assert f"`--steps {result['train']['steps']}`" in section
    assert all(statistics.median(ratios) >= least for ratios in result["ratios"].values())


def test_the_comparison_with_nanogpt_is_the_measured_one() -> None:
    result = json.loads((ROOT / "docs/measured/against_nanogpt.json").read_text("utf-8"))
    section = " ".join(PAGE[PAGE.index("`tools/against_nanogpt.py`") :].split())
    ratios = sorted(result["ratios"])
    assert f"{statistics.median(ratios):.1f} times sooner" in section
    assert f"({ratios[0]:.1f} to {ratios[-1]:.1f}," in section
    assert ratios[0] >= 5
    for side in ("llmc", "nanoGPT"):
        least = min(pair[side]["bits_per_byte"] for pair in result["pairs"])
        assert f"ended at {least:.2f}" in section
    assert all(
        pair["llmc"]["bits_per_byte"] < pair["nanoGPT"]["bits_per_byte"] for pair in result["pairs"]
    )
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    middle = statistics.median(pair["llmc"]["bits_per_byte"] for pair in result["pairs"])
    assert f"to {middle:.2f} bits per byte" in readme
    assert f"{statistics.median(ratios):.1f} times as long" in readme
