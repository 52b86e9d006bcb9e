"""llmc train --for: a text and a time become a model, and every choice is an ordinary preset."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.report import Silent
from llmc.setting import overridden
from llmc.train.dial import CLOSE, choose
from llmc.train.plan import Inputs
from llmc.train.recipe import FINETUNED, FINETUNING, FINETUNING_PASSES, NEW, rate_of
from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import empty_workspace, ok, prepared_workspace

TIME = ("--for", "3s", "--threads", "1")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """A workspace in which a time was given and nothing else."""
    llmc = empty_workspace(tmp_path_factory.mktemp("dial") / "workspace", cache)
    prepared = ok(llmc("prepare", "texts", "--json"))
    assert json.loads(prepared.stdout)["model"] is None
    assert "next: llmc train --for 10m\n" in prepared.stderr
    told = ok(llmc("train", *TIME, "--json")).stdout
    (llmc.workspace / "result.json").write_text(told.splitlines()[-1])
    return llmc


@pytest.fixture
def prepared(tmp_path: Path, cache: Path) -> Llmc:
    return prepared_workspace(tmp_path / "workspace", cache)


def config(llmc: Llmc, run: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((llmc.workspace / f"runs/{run}/config.toml").read_text())
    return found


def test_a_text_and_a_time_are_enough(chosen: Llmc) -> None:
    result = json.loads((chosen.workspace / "result.json").read_text())
    assert result["ended"] in ("time", "epochs")
    made = config(chosen, result["run"])
    (model,) = (chosen.workspace / "models").iterdir()
    shape = read_header(model).config
    assert made["model"] == vars(shape)
    assert model.name == f"texts-{shape.layers}x{shape.channels}-context{shape.context}.bin"
    assert made["train"]["max_time"] == "3s"
    assert made["train"]["schedule"] == "wsd"
    assert len(chosen.raw("sample", "--decode", "--tokens", "40").stdout) >= 40


def test_the_same_again_by_its_own_config_and_steps(chosen: Llmc) -> None:
    """The note says how many steps there was time for: they give the same bytes."""
    run = json.loads((chosen.workspace / "result.json").read_text())
    (model,) = (chosen.workspace / "models").iterdir()
    recipe = ("--config", f"{run['folder']}/config.toml", "--model", str(model))
    ends = ("--steps", str(run["steps"]), "--max-time", "0")
    ok(chosen("train", *recipe, *ends, "--run", "again"))
    ours, theirs = (
        chosen.workspace / "runs" / name / "model.bin" for name in (run["run"], "again")
    )
    assert ours.read_bytes() == theirs.read_bytes()


def test_loss_in_bits_per_byte_is_what_eval_measures(chosen: Llmc) -> None:
    run = json.loads((chosen.workspace / "result.json").read_text())
    scored = json.loads(ok(chosen("eval", run["run"], "--last", "--json")).stdout)
    assert run["val_bpb"] == pytest.approx(scored["bits_per_byte"], rel=0.02)
    assert run["val_bpb_error"] > 0


def test_options_win_over_the_choice(chosen: Llmc) -> None:
    flags = ("--lr", "1e-4", "--decay", "0.5", "--seq-len", "32")
    said = ok(chosen("train", *TIME, *flags, "--run", "mine")).stderr
    made = config(chosen, "mine")
    settings = made["train"]
    assert (settings["lr"], settings["decay"], settings["schedule"]) == (1e-4, 0.5, "wsd")
    assert (settings["seq_len"], made["model"]["context"]) == (32, 32)
    assert "--lr 0.0001, which decays in the last 50%; windows of 32 tokens" in said


@pytest.mark.parametrize(
    ("gain", "given", "measured"),
    [
        (1.6, {}, ["fp32", "bf16"]),
        (1.05, {}, ["bf16", "fp32"]),  # the one that is chosen comes last
        (1.6, {"dtype": "fp32"}, ["fp32"]),
        (0.5, {"dtype": "bf16"}, ["bf16"]),
    ],
)
def test_bf16_is_chosen_where_it_is_measured_to_be_faster(
    chosen: Llmc,
    monkeypatch: pytest.MonkeyPatch,
    gain: float,
    given: dict[str, Any],
    measured: list[str],
) -> None:
    wanted = measured[-1]
    rates = {"fp32": 1e5, "bf16": gain * 1e5}
    asked = []

    def fixed_speed(workspace: Any, given: dict[str, Any], inputs: Inputs, **how: Any) -> Any:
        """Return an estimate by a rate of each type, in place of real steps."""
        settings = overridden(inputs.preset.train, given)
        asked.append(settings.dtype)
        work = SimpleNamespace(count=1)
        seconds = settings.tokens_per_step / rates[settings.dtype]
        return SimpleNamespace(work=[work], settings=settings, seconds=seconds)

    monkeypatch.setattr("llmc.train.dial.dry_run", fixed_speed)
    said: list[str] = []
    report = Silent()
    monkeypatch.setattr(report, "note", said.append)
    workspace = Workspace(chosen.workspace)
    models = chosen.workspace / "chosen"  # other tests count those in models/
    choice = choose(workspace, "60s", given, Inputs(), models=models, report=report)
    assert any("with --dtype bf16 (1.6 times as fast as fp32)" in line for line in said) == (
        wanted == "bf16" and not given
    )
    assert overridden(choice.inputs.preset.train, given).dtype == wanted
    assert set(asked) == set(measured)
    assert choice.chosen is not None and choice.chosen.rate == pytest.approx(rates[wanted])


def test_what_would_be_chosen_is_shown_and_nothing_written(chosen: Llmc) -> None:
    before = sorted(chosen.workspace.rglob("*"))
    told = json.loads(ok(chosen("train", *TIME, "--dry-run", "--json")).stdout)
    assert told["for"] == "3s"
    (best,) = (each for each in told["compared"] if each["parameters"] == told["parameters"])
    measured = [each for each in told["compared"] if each["measured"]]
    least = min(each["expected_loss"] for each in measured)
    assert least <= best["expected_loss"] <= least + CLOSE
    shown = ok(chosen("train", *TIME, "--dry-run"))
    assert "next: llmc train --for 3s --threads 1\n" in shown.stderr
    assert "chosen" in shown.stdout
    assert "2 × 3s: " in shown.stdout
    assert told["in_twice_the_time"]["expected_loss"] <= best["expected_loss"] + CLOSE
    assert sorted(chosen.workspace.rglob("*")) == before


def test_without_a_time_the_default_is_named(chosen: Llmc) -> None:
    said = ok(chosen("train", "--dry-run", "--threads", "1")).stderr
    assert "--for 10m (the default" in said
    ok(chosen("train", "--steps", "1", "--run", "one"))  # a model is there by now


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for", "3s", "--steps", "5"], "--for and --steps"),
        (["--for", "3s", "--max-time", "1s"], "--for and --max-time"),
        (["--for", "3s", "--resume"], "--for is for a new run"),
        (["--for", "0s"], "a time above 0"),
        (["--for", "soon"], "'soon'"),
    ],
)
def test_what_contradicts_a_time_is_refused(chosen: Llmc, words: list[str], said: str) -> None:
    assert said in assert_one_sentence(chosen("train", *words), 2)


def test_a_preset_keeps_its_shape_and_settings(prepared: Llmc) -> None:
    """Its rate sinks in the last part of the time."""
    ok(prepared("train", "--config", "tiny.toml", "--for", "2s", "--run", "a"))
    made = config(prepared, "a")
    assert (made["model"]["channels"], made["train"]["seq_len"]) == (16, 16)
    assert (made["train"]["max_time"], made["train"]["schedule"]) == ("2s", "wsd")


def test_trained_weights_are_finetuned_and_random_ones_are_not(prepared: Llmc) -> None:
    ok(prepared("train", *TIME, "--run", "scratch"))
    assert config(prepared, "scratch")["model"]["channels"] != 16  # prepared, but not trained
    small = ("--model", "models/tiny-texts.bin")
    ok(prepared("train", *TIME, *small, "--run", "small"))
    trained = ("--model", "runs/small/model.bin", "--dropout", "0.1")
    ok(prepared("train", *TIME, *trained, "--run", "more"))
    first, more = (config(prepared, run) for run in ("small", "more"))
    assert first["model"] == more["model"]
    assert [each["train"]["optimizer"] for each in (first, more)] == [NEW, FINETUNING]
    from_scratch = rate_of(ModelConfig(**more["model"]), FINETUNING, 1)
    assert more["train"]["lr"] == pytest.approx(from_scratch * FINETUNED, rel=0.05)
    assert more["train"]["epochs"] == FINETUNING_PASSES  # dropout makes them no more


def test_a_text_without_a_validation_split_is_trained_on(tmp_path: Path, cache: Path) -> None:
    llmc = empty_workspace(tmp_path / "workspace", cache)
    ok(llmc("tokenize", "texts", "--tokenizer", "byte", "--val-tokens", "0"))
    small = ("--model", "models/small.bin")
    ok(llmc("export-weights", "random:tiny.toml", "--tokenizer", "byte", "--out", small[1]))
    result = json.loads(ok(llmc("train", *TIME, *small, "--json")).stdout.splitlines()[-1])
    assert result.get("val_loss") is None
    made = config(llmc, result["run"])["train"]
    assert (made.get("val_every"), made.get("patience", 0)) == (0, 0)


def test_a_step_that_takes_longer_than_the_time_is_measured(
    chosen: Llmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no step fits, and the speed is that of the steps that were made."""

    def too_slow(workspace: Any, given: dict[str, Any], inputs: Inputs, **how: Any) -> Any:
        settings = overridden(inputs.preset.train, given)
        work = [SimpleNamespace(count=0)]
        return SimpleNamespace(work=work, settings=settings, seconds=0.0, tokens_per_second=9.0)

    monkeypatch.setattr("llmc.train.dial.dry_run", too_slow)
    choice = choose(Workspace(chosen.workspace), "3s", {}, Inputs(), models=chosen.workspace / "m")
    assert choice.chosen is not None and choice.chosen.rate == 9.0
