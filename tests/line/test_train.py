"""``llmc train``: its flags, its defaults, what it writes; its ends are in test_train_ends.py."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.cli.context import Context
from llmc.config import TrainConfig
from llmc.engine.build import ensure_native
from llmc.engine.machine import Threads
from llmc.model import ModelConfig
from llmc.preset import load_preset
from llmc.tokens.files import read_tokens, write_tokens
from llmc.train.engine_run import engine_arguments, run_engine
from llmc.train.metrics import Event, Progress
from llmc.train.mixture import Portion
from llmc.train.start import Data
from llmc.weights.checkpoint import read_header
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.places import ROOT
from tests.helpers.workspace import (
    config,
    copy_of,
    losses,
    metrics,
    ok,
    runs,
    trained,
)

FLAGS: dict[str, Any] = {
    "steps": 5,
    "max_time": "2h",
    "max_tokens": 10000,
    "epochs": 9,
    "patience": 7,
    "min_delta": 0.01,
    "batch_size": 3,
    "seq_len": 9,
    "total_batch_size": 54,
    "optimizer": "muon",
    "lr": 0.003,
    "schedule": "cosine",
    "warmup": 2,
    "lr_final": 0.1,
    "decay": 0.5,
    "beta1": 0.8,
    "beta2": 0.97,
    "eps": 1e-6,
    "weight_decay": 0.2,
    "grad_clip": 0.5,
    "dropout": 0.1,
    "skip_loss_z": 4.0,
    "skip_grad_z": 5.0,
    "seed": 7,
    "shares": 2,
    "exchange_dtype": "bf16",
    "shuffle": False,
    "windows": "aligned",
    "dtype": "bf16",
    "recompute": True,
    "optimizer_state": "8bit",
    "val_every": 4,
    "val_batches": 3,
    "sample_every": 3,
    "save_every": 2,
    "keep": 2,
}


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    """Return the command line, in a prepared workspace."""
    return copy_of(template, tmp_path / "workspace")


def words(flags: dict[str, Any]) -> list[str]:
    """Return settings as a person types them."""
    typed = []
    for name, value in flags.items():
        flag = name.replace("_", "-")
        typed += [f"--{'' if value else 'no-'}{flag}"] if value in (True, False) else []
        typed += [f"--{flag}", str(value)] if value not in (True, False) else []
    return typed


def test_every_flag_is_in_the_help(llmc: Llmc) -> None:
    shown = ok(llmc("train", "--help")).stdout
    flags = [
        *FLAGS,
        "no_shuffle",
        "data",
        "val_data",
        "model",
        "config",
        "threads",
        "launch",
        "run",
    ]
    for flag in flags:
        assert re.search(rf"--{flag.replace('_', '-')}\b", shown), flag


def test_the_defaults_are_llm_c_s(llmc: Llmc) -> None:
    done = ok(llmc("train", "--log-every", "1"))
    assert config(llmc, "texts-1")["train"] == {
        "steps": 40, "max_time": "0", "max_tokens": 0, "epochs": 0, "patience": 0, "min_delta": 0.0,
        "batch_size": 4, "seq_len": 64, "total_batch_size": 0,
        "optimizer": "adamw", "lr": 1e-4,
        "schedule": "constant", "warmup": 0, "lr_final": 0.0, "decay": 0.2,
        "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
        "weight_decay": 0.0, "grad_clip": 0.0, "skip_loss_z": 0.0, "skip_grad_z": 0.0,
        "dropout": 0.0, "seed": 1337, "shares": 0, "exchange_dtype": "fp32",
        "shuffle": True, "windows": "packed",
        "dtype": "fp32", "recompute": False, "optimizer_state": "fp32",
        "val_every": 10, "val_tokens": 20480, "val_batches": 0,
        "sample_every": 20, "save_every": "10m", "keep": 1,
    }  # fmt: skip
    lines = metrics(llmc, "texts-1")
    assert [line["step"] for line in lines if "train_loss" in line] == list(range(40))
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 10, 20, 30, 40]
    said = done.stdout.splitlines()
    assert said[0] == f"num_parameters: {257 * 16 + 64 * 16 + 12 * 16**2 + 13 * 16 + 2 * 16}"
    assert sum(line == "generating:" for line in said) == 2
    assert (
        len([line for line in said if re.fullmatch(r"val loss \d\.\d{6} ± \d\.\d{6}", line)]) == 5
    )
    step = r"step \d+: train loss \d\.\d{6} \(took \d+\.\d{3} ms\)"
    assert len([line for line in said if re.fullmatch(step, line)]) == 40
    assert losses(llmc, "texts-1")[-1] < losses(llmc, "texts-1")[0]


def test_flags_win_over_the_file_and_the_file_over_the_defaults(llmc: Llmc) -> None:
    ok(llmc("train", "--config", "tiny.toml", "--run", "a", "--lr", "0.01", "--steps", "2"))
    expected = asdict(load_preset(str(llmc.workspace / "tiny.toml")).train)
    as_tokens = {"val_batches": 0, "val_tokens": 2 * 2 * 16}
    assert config(llmc, "a")["train"] == {**expected, "lr": 0.01, "steps": 2, **as_tokens}
    assert expected["batch_size"] == 2
    assert config(llmc, "a")["model"] == asdict(ModelConfig(1, 2, 16, 64, 257))


def test_a_run_s_config_repeats_the_run(llmc: Llmc) -> None:
    ok(llmc("train", "--run", "a", *words(FLAGS)))
    tokens = FLAGS["val_batches"] * FLAGS["batch_size"] * FLAGS["seq_len"]
    assert config(llmc, "a")["train"] == {**FLAGS, "val_batches": 0, "val_tokens": tokens}
    ok(llmc("train", "--run", "b", "--config", "runs/a/config.toml"))
    assert config(llmc, "b") == config(llmc, "a")
    assert losses(llmc, "b") == losses(llmc, "a")
    assert len(losses(llmc, "a")) == 5
    first, second = (llmc.workspace / "runs" / run / "model.bin" for run in "ab")
    assert first.read_bytes() == second.read_bytes()
    command = (llmc.workspace / "runs" / "a" / "config.toml").read_text().splitlines()[0]
    assert command.endswith(f"llmc train --run a {' '.join(words(FLAGS))}")


@pytest.mark.parametrize(
    "flag",
    [
        k
        for k in FLAGS
        if not k.endswith("_every")
        and k not in ("steps", "val_batches", "recompute", "keep")
        and k not in ("max_time", "max_tokens", "epochs", "patience", "min_delta")  # its ends
        and not k.startswith("skip_")  # windows of 128 steps
        and k not in ("lr_final", "decay", "total_batch_size")  # of a schedule, or of another batch
        and k != "exchange_dtype"  # of several shares
    ],
)
def test_each_setting_changes_what_is_learned(llmc: Llmc, flag: str, baseline: list[float]) -> None:
    changed = trained(llmc, "--lr", "0.001", *words({flag: FLAGS[flag]}))
    assert len(changed) == len(baseline) == 4
    assert changed != baseline


@pytest.fixture(scope="module")
def baseline(template: Llmc, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    llmc = copy_of(template, tmp_path_factory.mktemp("baseline") / "workspace")
    return trained(llmc, "--lr", "0.001")


def test_any_number_of_threads_gives_the_same_bits(llmc: Llmc, baseline: list[float]) -> None:
    for threads in ("1", "2", "3"):
        assert trained(llmc, "--lr", "0.001", "--threads", threads, run=threads) == baseline


def test_the_engine_validates_samples_and_saves_at_the_chosen_steps(
    llmc: Llmc, here: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(llmc.cache))
    folder = llmc.workspace / "data" / "texts"
    data = Data("texts", (Portion(folder / "train.bin"),), (Portion(folder / "val.bin"),))
    settings = TrainConfig(**FLAGS)
    model = llmc.workspace / "models" / "tiny-texts.bin"
    argv = [str(ensure_native()), "train"]
    argv += engine_arguments(data, model, tmp_path / "out", settings, Threads(1))
    events: list[Event] = []
    progress = Progress(settings.steps)
    run_engine(argv, progress, data.detokenize, lambda event, _: events.append(event))

    def steps(key: str, value: str) -> list[int]:
        return [e["step"] for e in events if key in e and value in (key, e[key])]

    assert steps("val_loss", "val_loss") == [0, 4, 5]
    assert steps("event", "sample") == [3]
    assert steps("event", "saved") == [2, 4, 5]
    assert progress.saved_step == 5
    assert re.fullmatch(r"\d+( \d+)+", progress.sample)


def test_metrics_are_as_documented(llmc: Llmc) -> None:
    trained(llmc, "--lr", "0.002")
    lines = metrics(llmc, "run")
    steps = [line for line in lines if "train_loss" in line]
    keys = ["step", "train_loss", "lr", "grad_norm", "step_ms", "tokens_per_second"]
    assert [list(line) for line in steps] == [keys] * 4
    rest = [list(line) for line in lines if line not in steps]
    end = ["event", "reason", "step", "steps", "skipped", "seconds"]
    assert rest == [*[["step", "val_loss"]] * 3, end]
    assert [line["step"] for line in steps] == [0, 1, 2, 3]
    assert {line["lr"] for line in steps} == {0.002}
    for line in steps:
        assert line["tokens_per_second"] == pytest.approx(32e3 / line["step_ms"], rel=0.02)
    # float32 takes nine digits: fewer would lose bits
    digits = max(len(str(line["train_loss"]).replace(".", "")) for line in steps)
    assert digits == 9


def test_json_is_the_events_and_then_the_result(llmc: Llmc) -> None:
    flags = ("--config", "tiny.toml", "--threads", "1", "--sample-every", "2", "--save-every", "2")
    done = ok(llmc("train", *flags, "--json"))
    *told, result = [json.loads(line) for line in done.stdout.splitlines()]
    lines = metrics(llmc, "texts-1")
    assert (told[0]["event"], told[0]["threads"], told[0]["step"]) == ("start", 1, 0)
    assert [line for line in told[1:] if line.get("event") not in ("sample", "saved")] == lines
    for event, steps in (("sample", [2, 4]), ("saved", [2, 4])):
        assert [line["step"] for line in told if line.get("event") == event] == steps
    page = (ROOT / "docs" / "guide" / "training.md").read_text("utf-8")
    (rows,) = re.findall(r"^\| key of `llmc train --json`.*\n\|[- |]+\n((?:\|.*\n)+)", page, re.M)
    cells = [row.split(" | ")[0] for row in rows.splitlines()]
    assert list(result) == [key for cell in cells for key in re.findall(r"`(\w+)`", cell)]
    assert result["run"] == "texts-1"
    assert (result["steps"], result["threads"]) == (4, 1)
    assert result["train_loss"] == losses(llmc, "texts-1")[-1]
    assert result["val_loss"] == lines[-2]["val_loss"]
    assert result["ended"] == "steps"
    spent = sum(line["step_ms"] for line in lines if "train_loss" in line) / 1e3
    assert result["seconds"] == pytest.approx(spent)
    assert result["tokens_per_second"] == pytest.approx(4 * 32 / spent)
    assert result["memory_bytes"] > 4 * 4 * 7000
    header = read_header(llmc.workspace / result["checkpoint"])
    assert header.step == 4
    assert header.val_loss == pytest.approx(result["val_loss"])
    assert (llmc.workspace / result["metrics"]).is_file()


def test_quiet_prints_nothing(llmc: Llmc) -> None:
    done = ok(llmc("train", "--config", "tiny.toml", "--quiet"))
    assert (done.stdout, done.stderr) == ("", "")
    assert runs(llmc) == ["texts-1"]


def test_choices_and_the_next_command_are_printed(llmc: Llmc) -> None:
    said = ok(llmc("train", "--config", "tiny.toml", "--threads", "2")).stderr
    assert "data: data/texts/train.bin\n" in said
    assert "validation: data/texts/val.bin\n" in said
    assert "model: models/tiny-texts.bin\n" in said
    assert "settings: tiny; threads: 2; run: runs/texts-1\n" in said
    assert "saved runs/texts-1/model.bin; metrics in runs/texts-1/metrics.jsonl\n" in said
    assert "┤●" in said
    assert "\nnext: llmc sample --decode\n" in said
    (llmc.workspace / "runs").rename(llmc.workspace / "elsewhere")
    outside = Llmc(llmc.workspace.parent, llmc.cache)
    said = ok(outside("--workspace", "workspace", "train", "--steps", "1")).stderr
    assert "next: llmc --workspace workspace sample --decode\n" in said
    assert "data: workspace/data/texts/train.bin\n" in said
    by_variable = {"LLMC_WORKSPACE": "workspace"}
    said = ok(outside("train", "--steps", "1", env=by_variable)).stderr
    assert "next: llmc sample --decode\n" in said


def test_in_order_a_step_reads_the_tokens_after_the_last_one_s(llmc: Llmc) -> None:
    tokens = np.array(read_tokens(llmc.workspace / "data/texts/train.bin"))[: 6 * 32 + 1]
    for name, ids in (("all", tokens), ("later", tokens[32:])):
        write_tokens(llmc.workspace / f"{name}.bin", [ids.astype(np.int64)], 257)
    flags = ["--no-shuffle", "--lr", "0", "--val-every", "0"]
    model = ["--model", "models/tiny-texts.bin"]
    whole = trained(llmc, "--data", "all.bin", *flags, *model, "--steps", "7", run="whole")
    later = trained(llmc, "--data", "later.bin", *flags, *model, "--steps", "5", run="later")
    again = trained(llmc, "--data", "all.bin", *flags, *model, "--steps", "7", run="again")
    assert later == whole[1:6]
    assert again == whole
    assert whole[6] == whole[0]  # the next epoch
    assert len(set(whole)) == 6


def test_a_token_file_alone_will_do(llmc: Llmc) -> None:
    folder = llmc.workspace / "data" / "texts"
    (folder / "train.bin").rename(llmc.workspace / "mine.bin")
    (folder / "val.bin").rename(llmc.workspace / "other.bin")
    flags = ["--config", "tiny.toml", "--data", "mine.bin", "--sample-every", "4"]
    done = ok(llmc("train", *flags, "--val-data", "other.bin"))
    assert "validation: other.bin\n" in done.stderr
    assert "model: models/tiny-texts.bin\n" in done.stderr
    assert re.search(r"generating:\n---\n(\d+ )+\d+\n---\n", done.stdout)
    done = ok(llmc("train", *flags))
    assert "validation: none\n" in done.stderr
    assert runs(llmc) == ["mine-1", "mine-2"]
    assert any("val_loss" in line for line in metrics(llmc, "mine-1"))
    assert not any("val_loss" in line for line in metrics(llmc, "mine-2"))
    assert not (llmc.workspace / "runs" / "mine-1" / "tokenizer.json").exists()


def test_other_tokens_to_validate_on(llmc: Llmc) -> None:
    trained(llmc, run="own")
    trained(llmc, "--val-data", "data/texts/train.bin", run="other")
    own, other = (
        [line["val_loss"] for line in metrics(llmc, run) if "val_loss" in line]
        for run in ("own", "other")
    )
    assert len(own) == len(other) == 3
    assert own != other
    assert losses(llmc, "own") == losses(llmc, "other")


def test_training_starts_from_another_run(llmc: Llmc) -> None:
    first = trained(llmc, "--lr", "0.01", "--steps", "20", run="first")
    second = trained(llmc, "--model", "runs/first/model.bin", run="second")
    assert second[0] < first[0] - 0.1


def test_the_dataset_and_the_model_prepared_last_are_taken(llmc: Llmc) -> None:
    (llmc.workspace / "other").mkdir()
    (llmc.workspace / "other" / "x.txt").write_text("other words, " * 200)
    ok(llmc("prepare", "other", "--tokenizer", "byte", "--model", "random:tiny.toml"))
    done = ok(llmc("train", "--config", "tiny.toml"))
    assert "data: data/other/train.bin" in done.stderr
    assert "model: models/tiny-other.bin" in done.stderr
    done = ok(llmc("train", "--config", "tiny.toml", "--data", "data/texts"))
    assert "model: models/tiny-texts.bin" in done.stderr
    assert runs(llmc) == ["other-1", "texts-1"]


def test_shards_train_as_the_joined_file_does(llmc: Llmc) -> None:
    whole = trained(llmc, "--seed", "3", run="whole")
    flags = ("--tokenizer", "byte", "--shard-tokens", "777", "--out", "data/texts")
    ok(llmc("tokenize", "texts", *flags))
    assert len(list((llmc.workspace / "data/texts").glob("train_*.bin"))) > 3
    assert trained(llmc, "--seed", "3", run="shards") == whole
    done = ok(
        llmc(
            "train",
            "--config",
            "tiny.toml",
            "--data",
            "data/texts/train_*.bin",
            "--quiet",
            "--json",
        )
    )
    assert json.loads(done.stdout.splitlines()[-1])["train_loss"] is not None
    extra = llmc.workspace / "data/texts/train_000099.bin"
    extra.write_bytes((llmc.workspace / "data/texts/train_000001.bin").read_bytes())
    error = assert_one_sentence(llmc("train", "--config", "tiny.toml"), 1)
    assert "train_000099.bin is not in its folder's manifest" in error
    extra.unlink()
    (llmc.workspace / "data/texts/train_000002.bin").unlink()
    assert_one_sentence(llmc("train", "--config", "tiny.toml"), 3)


def test_a_file_without_a_header_names_the_flag(llmc: Llmc) -> None:
    (llmc.workspace / "nano.bin").write_bytes(bytes(4000))
    error = assert_one_sentence(llmc("train", "--config", "tiny.toml", "--data", "nano.bin"), 1)
    assert "--dtype uint16 or int32" in error
