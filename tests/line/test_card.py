"""``llmc export-weights RUN --to hf`` writes a model card of the run's own record."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import tomllib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard

from llmc.preset import preset_of
from llmc.tokens.files import read_tokens
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.workspace import copy_of, metrics, ok, write_texts

FLAGS = [
    *("--config", "tiny.toml", "--run", "poet", "--patience", "4", "--lr", "3e-3"),
    *("--val-tokens", "200"),  # several windows, which have a standard error
]


@pytest.fixture(scope="module")
def trained(template: Llmc, tmp_path_factory: pytest.TempPathFactory) -> Llmc:
    llmc = copy_of(template, tmp_path_factory.mktemp("card") / "workspace")
    done = ok(llmc("train", *FLAGS, "--json"))
    (llmc.workspace / "result.json").write_text(done.stdout.splitlines()[-1])
    return llmc


@pytest.fixture
def llmc(trained: Llmc, tmp_path: Path) -> Llmc:
    return copy_of(trained, tmp_path / "workspace")


def card(llmc: Llmc, source: str = "poet", *flags: str) -> Any:
    """Export and return the card, read by huggingface_hub."""
    out = llmc.workspace / "out"
    ok(llmc("export-weights", source, "--to", "hf", "--out", str(out), *flags))
    return ModelCard.load(out / "README.md")


def rows(made: Any) -> dict[str, str]:
    """Return the cells of a card's tables."""
    lines = [line.strip("| ").split(" | ") for line in str(made.text).splitlines() if "|" in line]
    return {cells[0]: cells[1] for cells in lines if len(cells) == 2}


def test_it_says_what_the_run_recorded(llmc: Llmc) -> None:
    result = json.loads((llmc.workspace / "result.json").read_text())
    made = card(llmc)
    said = rows(made)
    manifest = json.loads((llmc.workspace / "data/texts/manifest.json").read_text())
    tokens = [sum(each["tokens"] for each in manifest[split]) for split in ("train", "val")]
    for size in (manifest["text_bytes"], *tokens):
        assert f"{size:,} " in said["text"]
    assert said["weights at the start"] == "random"
    assert said["steps"] == "4"
    assert said["tokens"].startswith("128: ")
    assert said["validation loss, nats per token"].startswith(f"{result['val_loss']:.4f}")
    bits = f"{result['val_bpb']:.4f} ± {result['val_bpb_error']:.4f}"
    assert said["validation loss, bits per byte"] == bits
    record = json.loads((llmc.workspace / "runs/poet/run.json").read_text())
    assert record["cpu"] in said["time"] and record["isa"] in said["time"]
    assert f"llmc {record['llmc']}" in made.text
    assert said["layers, heads, channels"] == "1, 2, 16"


def test_its_recipe_is_a_preset(llmc: Llmc) -> None:
    text = card(llmc).text
    tables = tomllib.loads(text.partition("```toml\n")[2].partition("```")[0])
    again = preset_of("again", tables, "the card").train
    record = json.loads((llmc.workspace / "runs/poet/run.json").read_text())
    assert asdict(again) == record["settings"]["train"]
    assert tables["train"]["lr"] == 3e-3 and "beta2" not in tables["train"]


def test_the_weights_that_are_exported_are_the_ones_described(llmc: Llmc) -> None:
    """With a rate at which the loss soon rises, the best step is not the last."""
    flags = ("--config", "tiny.toml", "--run", "early", "--lr", "0.05", "--val-every", "2")
    ok(llmc("train", *flags, "--steps", "60", "--patience", "3"))
    val = {line["step"]: line["val_loss"] for line in metrics(llmc, "early") if "val_loss" in line}
    best, last = min(val, key=lambda step: val[step]), max(val)
    for more, step in (((), best), (("--last",), last)):
        said = rows(card(llmc, "early", *more))
        assert said["validation loss, nats per token"].startswith(f"{val[step]:.4f}")
        assert said["tokens"].startswith(f"{32 * step:,}: ")
        assert (f"after {step:,}" in said["steps"]) == (step != last)


def test_what_the_hub_reads(llmc: Llmc) -> None:
    made = card(llmc)
    table = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "llmc"],
    }
    assert made.data.to_dict() == table
    assert "No licence is named" in made.text
    made = card(llmc, "poet", "--license", "cc-by-4.0", "--language", "en,de")
    named = {"license": "cc-by-4.0", "language": ["en", "de"]}
    assert made.data.to_dict() == table | named
    assert "No licence" not in made.text


def test_a_dataset_of_the_hub_is_named_with_its_score(llmc: Llmc) -> None:
    path = llmc.workspace / "runs/poet/run.json"
    record = json.loads(path.read_text())
    record["manifest"]["source"] = [{"hub": "owner/poems", "split": "train"}]
    path.write_text(json.dumps(record))
    data = card(llmc).data
    assert data.datasets == ["owner/poems"]
    loss, bits = data.eval_results
    assert (loss.dataset_type, loss.metric_type, bits.metric_type) == (
        "owner/poems", "loss", "bits_per_byte",
    )  # fmt: skip
    result = json.loads((llmc.workspace / "result.json").read_text())
    assert bits.metric_value == pytest.approx(result["val_bpb"], abs=1e-4)


def test_no_path_of_this_machine_is_in_it(llmc: Llmc) -> None:
    text = str(card(llmc))
    assert str(llmc.workspace) not in text and "/" not in rows(card(llmc))["text"]


def test_weights_without_a_run_have_a_card_of_what_is_known(llmc: Llmc) -> None:
    said = rows(card(llmc, "runs/poet/model.bin"))
    assert (said["trained for"], said["parameters"]) == ("4 steps", rows(card(llmc))["parameters"])
    assert math.isfinite(float(said["validation loss"].split()[0]))
    shape = ("--vocab-size", "257", "--tokenizer", "byte")
    made = card(llmc, "random:tiny.toml", *shape)
    assert "has not been trained" in rows(made)["weights"]
    assert "## Training" not in made.text


@pytest.mark.parametrize("content", [None, "", "[]", '{"manifest": [3, {}], "threads": null}'])
def test_a_damaged_record_costs_no_export(content: str | None, llmc: Llmc) -> None:
    record = llmc.workspace / "runs/poet/run.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    said = rows(card(llmc))
    assert said["steps"] == "4"
    assert "validation loss, nats per token" in said


def test_without_the_text_there_are_no_bits_per_byte(llmc: Llmc) -> None:
    (llmc.workspace / "data/texts/val.bin").unlink()
    said = rows(card(llmc))
    assert "validation loss, nats per token" in said
    assert "validation loss, bits per byte" not in said


def test_sampling_settings_go_along(llmc: Llmc) -> None:
    def generation(sampling: str) -> dict[str, Any]:
        text = (llmc.workspace / "tiny.toml").read_text()
        (llmc.workspace / "mine.toml").write_text(f"{text}\n[sample]\n{sampling}\n")
        name = f"run{len(sampling)}"
        ok(llmc("train", "--config", "mine.toml", "--run", name))
        card(llmc, name)
        found: dict[str, Any] = json.loads(
            (llmc.workspace / "out/generation_config.json").read_text()
        )
        return found

    found = generation("temperature = 0.7\ntop_k = 30\nmin_p = 0.05\nrepetition_penalty = 1.2")
    expected = {
        "do_sample": True, "temperature": 0.7, "top_k": 30, "top_p": 1.0, "min_p": 0.05,
        "repetition_penalty": 1.2, "max_length": 64, "eos_token_id": 256,
    }  # fmt: skip
    assert found | expected == found
    greedy = generation("temperature = 0.0")
    assert greedy["do_sample"] is False and "temperature" not in greedy


@pytest.mark.parametrize(
    "flags",
    [
        ("--to", "hf", "--license", "Apache 2.0"),
        ("--to", "hf", "--license", ""),
        ("--to", "hf", "--language", "English"),
        ("--to", "gguf", "--license", "mit"),
        ("--language", "en"),
    ],
)
def test_what_is_no_licence_and_no_language_is_refused(flags: tuple[str, ...], llmc: Llmc) -> None:
    before = sorted(llmc.workspace.rglob("*"))
    assert "--l" in assert_one_sentence(llmc("export-weights", "poet", *flags), 2)
    assert sorted(llmc.workspace.rglob("*")) == before


def test_an_edited_card_is_not_replaced(llmc: Llmc) -> None:
    card(llmc)
    card(llmc, "poet", "--license", "mit")  # its own card is
    path = llmc.workspace / "out/README.md"
    text = path.read_text()
    for edited in (text.replace("# poet", "# The Poet"), text + "More.\n", "mine"):
        path.write_text(edited)
        again = ("export-weights", "poet", "--to", "hf", "--out", "out")
        assert "README.md has been edited" in assert_one_sentence(llmc(*again), 2)
        assert path.read_text() == edited


def test_the_next_command_uploads_the_folder(llmc: Llmc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given to the hub's own command line, whose calls of the hub are recorded."""
    from huggingface_hub.cli.hf import app

    uploaded: dict[str, Any] = {}

    def create(_: HfApi, repo_id: str, **_more: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=repo_id)

    def upload(_: HfApi, **told: Any) -> str:
        uploaded.update(told)
        return "https://huggingface.co/USER/NAME/commit/1"

    done = ok(llmc("export-weights", "poet", "--to", "hf"))
    assert "no licence" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("next: ")]
    program, *words = shlex.split(line.removeprefix("next: "))
    assert program == "hf"
    monkeypatch.chdir(llmc.workspace)
    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    app(words, standalone_mode=False)
    assert (uploaded["repo_id"], uploaded["path_in_repo"]) == ("USER/NAME", ".")
    assert (Path(uploaded["folder_path"]) / "model.safetensors").is_file()
    assert uploaded["repo_type"] == "model"


def test_each_text_of_a_mixture_is_named(llmc: Llmc) -> None:
    write_texts(llmc.workspace / "more", 30)
    ok(llmc("tokenize", "more", "--tokenizer", "byte"))
    data = ("--data", "data/texts", "--data", "data/more:0.5")
    ok(llmc("train", "--config", "tiny.toml", *data, "--run", "both"))
    text = card(llmc, "both").text
    for name, weight in (("texts", "1"), ("more", "0.5")):
        manifest = json.loads((llmc.workspace / f"data/{name}/manifest.json").read_text())
        (line,) = re.findall(rf"^\| text \| {name}: (.*) \|$", text, re.M)
        assert f"{manifest['train'][0]['tokens']:,} tokens to train on" in line
        assert line.endswith(f"weight {weight}")


def test_tokens_without_a_manifest_have_a_name_and_a_size(llmc: Llmc) -> None:
    file = shutil.copy(llmc.workspace / "data/texts/train.bin", llmc.workspace / "bare.bin")
    ok(llmc("train", "--config", "tiny.toml", "--data", "bare.bin", "--run", "bare"))
    tokens = len(read_tokens(Path(file)))
    assert rows(card(llmc, "bare"))["text"] == f"bare: {tokens:,} tokens to train on"
