"""A run exported for the hub, opened by transformers' pipeline and by lm-evaluation-harness."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import Llmc
from tests.helpers.served import served
from tests.helpers.workspace import ok, prepared_workspace

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="no lm_eval here")

TEXTS = ("Größe und élan.\n", "the of the of\n")
TASK = """\
task: mine
dataset_path: json
dataset_kwargs:
  data_files:
    test: mine.jsonl
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """A workspace with an exported run whose preset has sampling settings."""
    llmc = prepared_workspace(tmp_path_factory.mktemp("shared") / "workspace", cache)
    preset = llmc.workspace / "tiny.toml"
    preset.write_text(preset.read_text() + "\n[sample]\ntemperature = 0.7\ntop_k = 20\n")
    ok(llmc("train", "--config", "tiny.toml", "--run", "poet"))
    ok(llmc("export-weights", "poet", "--to", "hf", "--out", "shared"))
    return llmc


def test_its_generation_settings_are_valid(shared: Llmc) -> None:
    found = transformers.GenerationConfig.from_pretrained(shared.workspace / "shared")
    found.validate(strict=True)
    assert (found.do_sample, found.temperature, found.top_k) == (True, 0.7, 20)


def test_a_pipeline_stops_at_the_last_position(shared: Llmc) -> None:
    """Beyond it GPT-2 has no embedding, and transformers fails."""
    write = transformers.pipeline("text-generation", model=str(shared.workspace / "shared"))
    (told,) = write("the of", return_tensors=True)
    ids = told["generated_token_ids"]
    assert bytes(ids[:6]) == b"the of"
    assert 6 < len(ids) <= 64


def lm_eval(here: Path, name: str, task: str, model: list[str]) -> dict[str, float]:
    """Return what lm-evaluation-harness measures of a model on a task, offline."""
    tasks, out = here / f"{name}-task", here / f"{name}-out"
    tasks.mkdir()
    (tasks / f"{name}.yaml").write_text(task)
    words = [*model, "--include_path", str(tasks), "--tasks", name, "--output_path", str(out)]
    home = {"HF_HOME": str(here / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-m", "lm_eval", *words, "--batch_size", "4"],
        cwd=here,
        env={**os.environ, **home},
        check=True,
        timeout=600,
    )
    (result,) = out.rglob("results_*.json")
    measured: dict[str, float] = json.loads(result.read_text())["results"][name]
    return measured


@pytest.mark.full
@needs_lm_eval
def test_lm_eval_measures_the_loss_of_the_model(shared: Llmc) -> None:
    """On a task that is a local file; each text fits into one window, after a bos token."""
    here = shared.workspace
    (here / "mine.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    words = ["--model", "hf", "--model_args", "pretrained=shared", "--device", "cpu"]
    measured = lm_eval(here, "mine", TASK, words)["bits_per_byte,none"]

    tokenizer = transformers.AutoTokenizer.from_pretrained(here / "shared")
    model = transformers.AutoModelForCausalLM.from_pretrained(here / "shared")
    nats = 0.0
    for text in TEXTS:
        ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]])
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:])
        nats += losses.item() * (len(ids) - 1)
    size = sum(len(text.encode()) for text in TEXTS)
    assert measured == pytest.approx(nats / size / math.log(2), rel=1e-5)


QUESTIONS = """\
task: questions
dataset_path: json
dataset_kwargs:
  data_files:
    validation: questions.jsonl
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{ctx}}"
doc_to_choice: "{{endings}}"
doc_to_target: "{{label}}"
metric_list:
  - metric: acc
"""


@pytest.mark.full
@needs_lm_eval
def test_lm_eval_scores_a_served_model_as_eval_does(shared: Llmc) -> None:
    """Questions in HellaSwag's form, in a local file."""
    here = shared.workspace
    endings = ["the of", "und das", "of the of", "Größe"]
    items = [
        {"ctx": f"{endings[at % 4]} {endings[at // 4]}", "endings": endings, "label": at * 7 % 4}
        for at in range(16)
    ]
    (here / "questions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    flags = ["--task", "hellaswag", "--data", "questions.jsonl", "--json"]
    expected = json.loads(ok(shared("eval", "poet", *flags)).stdout)["acc"]
    with served([*shared.command, "serve", "--port", "0"], shared.env(), here) as server:
        model = f"base_url={server.url}v1/completions,model=poet,tokenizer=shared"
        model += ",tokenizer_backend=huggingface,max_length=63,max_retries=1"
        words = ["--model", "local-completions", "--model_args", model]
        measured = lm_eval(here, "questions", QUESTIONS, words)["acc,none"]
    assert measured == pytest.approx(expected)
