"""``llmc eval --task hellaswag`` through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmc.fetch.registry import EVALUATIONS, HELLASWAG
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.models import RAGGED, save_model
from tests.helpers.served import served
from tests.helpers.workspace import PRESET, copy_of, ok
from tests.unit.evaluate.test_hellaswag import PUBLISHED, write

PHRASE = "the cat sat on the mat. "


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """A model that has learned one phrase by heart, and questions about it.

    Windows of 61 tokens begin everywhere in the phrase of 24: it cannot go by the position.
    """
    folder = tmp_path_factory.mktemp("hellaswag") / "workspace"
    folder.mkdir()
    (folder / "phrase.txt").write_text(PHRASE * 300)
    (folder / "tiny.toml").write_text(PRESET)
    llmc = Llmc(folder, cache)
    ok(llmc("prepare", "phrase.txt", "--tokenizer", "byte", "--model", "random:tiny.toml"))
    train = ["--steps", "300", "--seq-len", "61", "--lr", "0.01", "--val-every", "0"]
    train += ["--run", "parrot", "--quiet"]
    ok(llmc("train", "--config", "tiny.toml", *train))
    wrong = ["on the hat.", "the mat.", "dogs bark"]
    items = [
        {"ctx": "the cat sat on the mat. the cat sat", "label": at, "endings": list(wrong)}
        for at in range(4)
    ]
    for at, item in enumerate(items):
        item["endings"].insert(at, "on the mat.")  # type: ignore[attr-defined]
    write(folder / "right.jsonl", *items)
    write(folder / "wrong.jsonl", *({**item, "label": (item["label"] + 1) % 4} for item in items))  # type: ignore[operator]
    return llmc


def asked(llmc: Llmc, *args: str) -> dict[str, Any]:
    flags = ["--task", "hellaswag", "--json", "--quiet"]
    fields: dict[str, Any] = json.loads(ok(llmc("eval", *args, *flags)).stdout)
    return fields


def test_what_it_has_learned_by_heart_it_knows(template: Llmc) -> None:
    fields = asked(template, "--data", "right.jsonl")
    assert (fields["acc"], fields["acc_norm"], fields["examples"]) == (1, 1, 4)
    assert fields["acc_norm_error"] == 0
    assert fields["task"] == "hellaswag" and fields["endings_cut"] == 0
    fields = asked(template, "parrot", "--data", "wrong.jsonl", "--threads", "1")
    assert (fields["acc"], fields["acc_norm"]) == (0, 0)
    assert asked(template, "--data", "right.jsonl", "--max-examples", "2")["examples"] == 2
    narrow = asked(template, "--data", "right.jsonl", "--dtype", "int8")
    assert (narrow["acc"], narrow["acc_norm"], narrow["dtype"]) == (1, 1, "int8")


def test_a_served_model_s_echo_scores_it_too(template: Llmc) -> None:
    """By the requests of lm-evaluation-harness's ``local-completions``."""
    argv = [*template.command, "serve", "--port", "0"]
    lines = (template.workspace / "right.jsonl").read_text().splitlines()
    with served(argv, template.env(), template.workspace) as server:
        hits = 0
        for item in map(json.loads, lines):
            context = [*item["ctx"].encode()]
            rows = [[*context, *f" {ending}".encode()] for ending in item["endings"]]
            answer = server.complete(
                model="parrot", prompt=rows, temperature=0, max_tokens=1, logprobs=1, seed=1234,
                echo=True,
            ).json()  # fmt: skip
            scores = []
            for choice, row in zip(answer["choices"], rows, strict=True):
                told = choice["logprobs"]["token_logprobs"]
                assert len(told) == len(row) + 1
                scores.append(sum(told[len(context) : -1]))
            hits += scores.index(max(scores)) == item["label"]
    assert hits / len(lines) == asked(template, "--data", "right.jsonl")["acc"] == 1


def test_what_a_person_sees(llmc: Llmc) -> None:
    done = ok(llmc("eval", "--task", "hellaswag", "--data", "right.jsonl"))
    assert done.stdout.splitlines()[0].startswith("acc_norm   100.00 ± 0.00 %")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    long = {**PUBLISHED, "ctx": PHRASE * 4 + "the cat", "endings": ["sat on the mat."] * 4}
    write(llmc.workspace / "long.jsonl", long)
    done = ok(llmc("eval", "--task", "hellaswag", "--data", "long.jsonl"))
    assert "4 of 4 endings with their context are longer than the model's 64" in done.stderr


@pytest.fixture
def llmc(template: Llmc, tmp_path: Path) -> Llmc:
    return copy_of(template, tmp_path / "workspace")


def test_a_file_that_is_not_there_names_fetch(template: Llmc) -> None:
    flags = ["eval", "--task", "hellaswag", "--quiet"]
    assert "run 'llmc fetch hellaswag' first" in assert_one_sentence(template(*flags), 3)
    error = assert_one_sentence(template(*flags, "--data", "gone.jsonl"), 3)
    assert "get it with 'llmc fetch hellaswag'" in error
    for flag in (["--split", "val"], ["--max-tokens", "5"], ["--seq-len", "5"]):
        assert "has no meaning for --task hellaswag" in assert_one_sentence(
            template(*flags, *flag), 2
        )
    assert "line 1, is not an example" in assert_one_sentence(
        template(*flags, "--data", "phrase.txt"), 1
    )


def test_a_model_whose_tokenizer_is_not_known_is_refused(llmc: Llmc) -> None:
    save_model(llmc.workspace / "alien.bin", RAGGED)
    flags = ["eval", "alien.bin", "--task", "hellaswag", "--data", "right.jsonl", "--quiet"]
    assert "tokenizer of alien.bin is unknown" in assert_one_sentence(llmc(*flags), 1)


def test_it_is_fetched_to_where_eval_looks(llmc: Llmc) -> None:
    (file,) = HELLASWAG.files
    assert EVALUATIONS["hellaswag"] is HELLASWAG
    assert file.url is not None and file.url.endswith("/rowanz/hellaswag/master/data/" + file.name)
    error = assert_one_sentence(llmc("fetch", "hellaswag", "--source", "right.jsonl"), 1)
    assert "is not the expected file" in error
    assert not (llmc.workspace / "data/hellaswag").exists()
    folder = llmc.workspace / "data/hellaswag"
    folder.mkdir()
    (llmc.workspace / "right.jsonl").rename(folder / file.name)
    assert asked(llmc)["data"] == ["data/hellaswag/hellaswag_val.jsonl"]
    assert "hellaswag" in ok(llmc("fetch", "--help")).stdout
