"""Datasets of the hub, from a server on this machine that speaks its protocol."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmc.errors import BadData, Usage
from llmc.paths import Workspace
from llmc.text.hub import HubName, parse_name
from llmc.text.source import AS_USUAL, Reading, Source, documents_of, open_source
from llmc.tokens.chat import template_for
from llmc.tokens.options import TokenizeOptions
from llmc.tokens.template import CHATML
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.hub import Hub, serving
from tests.helpers.workspace import ok

REPO = "owner/stories"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub that this process asks too, with a cache of its own."""
    from huggingface_hub import constants, hf_api

    with serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            served.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(hf_api.HfApi, "endpoint", served.url, raising=False)
        yield served


def opened(name: str, reading: Reading = AS_USUAL) -> Source:
    return open_source(Workspace(Path("nowhere")), [f"hf:{name}"], reading)


def documents(source: Source) -> list[str]:
    return list(documents_of(pickle.loads(pickle.dumps(source.parts))))


def jsonl(*texts: str, field: str = "text") -> bytes:
    return "".join(json.dumps({field: text, "id": 1}) + "\n" for text in texts).encode()


def parquet(*texts: str, field: str = "text") -> bytes:
    pa = pytest.importorskip("pyarrow")
    stored = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({field: texts}), stored)
    return stored.getvalue()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:a/b", HubName("a/b")),
        ("hf:a/b:test", HubName("a/b", None, "test")),
        ("hf:a/b:test:story", HubName("a/b", None, "test", "story")),
        ("hf:a/b::story", HubName("a/b", None, None, "story")),
        ("hf:a/b.c-d@v1.0:en/train", HubName("a/b.c-d", "v1.0", "en/train")),
    ],
)
def test_names_are_taken_apart(text: str, name: HubName) -> None:
    assert parse_name(text) == name


def test_the_first_file_says_whether_they_hold_conversations(hub: Hub) -> None:
    talk = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    lines = "".join(json.dumps(each) + "\n" for each in talk).encode()
    hub.put_dataset(REPO, {f"train-{n}.jsonl": lines for n in range(3)})
    source = opened(REPO)
    assert template_for(source, TokenizeOptions()) == CHATML
    hub.put_dataset(REPO, {f"train-{n}.jsonl": jsonl("a") for n in range(3)})
    before = len(hub.asked_of(REPO))
    assert template_for(opened(REPO), TokenizeOptions()) is None
    asked = [each for each in hub.asked_of(REPO)[before:] if "train-" in each]
    assert asked and all("train-0" in each for each in asked)


@pytest.mark.parametrize("text", ["hf:", "hf:b", "hf:a/b/c", "hf:a/b:c:d:e", "hf:a/b:", "hf:a b/c"])
def test_other_names_are_usage_errors(text: str) -> None:
    with pytest.raises(Usage, match="is not hf:owner/name"):
        parse_name(text)


def test_parquet_comes_when_its_turn_comes_and_once(hub: Hub) -> None:
    files = {
        "data/train-00001-of-00002.parquet": parquet("c"),
        "data/train-00000-of-00002.parquet": parquet("a" * 2000, "b"),
        "data/validation-00000-of-00001.parquet": parquet("v"),
        "README.md": b"# Stories",
        "extra.txt": b"not read: there is parquet",
    }
    commit = hub.put_dataset(REPO, files)
    source = opened(REPO)
    assert hub.asked_of(REPO) == [f"GET /api/datasets/{REPO}"]
    assert documents(source) == ["a" * 2000, "b", "c"]
    assert source.val_parts is not None
    assert list(documents_of(source.val_parts)) == ["v"]
    asked = len(hub.asked_of(REPO))
    assert documents(source) == ["a" * 2000, "b", "c"]
    assert len(hub.asked_of(REPO)) == asked
    assert source.name == "stories"
    (record,) = source.records
    assert record["hub"] == REPO
    assert record["revision"] == commit
    assert record["split"] == "train"
    assert record["files"] == 2
    assert record["bytes"] == source.parts[0].bytes + source.parts[1].bytes  # type: ignore[operator]
    assert any("other splits: validation" in note for note in source.notes)


def test_a_split_and_a_column_by_name(hub: Hub) -> None:
    hub.put_dataset(REPO, {"train.jsonl": jsonl("a", field="story"), "test.jsonl": jsonl("t")})
    assert documents(opened(f"{REPO}:train:story")) == ["a"]
    source = opened(f"{REPO}:test")
    assert documents(source) == ["t"]
    assert source.val_parts is None
    with pytest.raises(BadData, match=f"hf:{REPO} has no split 'dev': name one of test, train"):
        opened(f"{REPO}:dev")
    with pytest.raises(BadData, match=r"train\.jsonl, line 1: no field 'text'.*'story', 'id'"):
        documents(opened(REPO))
    with pytest.raises(Usage, match="names the column 'story', --field another"):
        opened(f"{REPO}:train:story", Reading(field="text"))


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"train.json": json.dumps([{"text": "a"}]).encode(), "dataset_infos.json": b"{}"}, ["a"]),
        ({"x/train/1.jsonl.gz": gzip.compress(jsonl("a")), "LICENSE.txt": b"no"}, ["a"]),
        ({"poems.txt": b"a\n<|endoftext|>\nb"}, ["a", "b"]),
        ({"one.jsonl": jsonl("a"), "two.jsonl": jsonl("b")}, ["a", "b"]),
    ],
)
def test_files_of_other_formats(hub: Hub, files: dict[str, bytes], wanted: list[str]) -> None:
    hub.put_dataset(REPO, files)
    assert documents(opened(REPO)) == wanted


@pytest.mark.parametrize(
    "data_files",
    [
        [{"split": "train", "path": "de/*.jsonl"}, {"split": "late", "path": ["en/b.jsonl"]}],
        [{"split": "train", "path": "de"}, {"split": "late", "path": "en/**"}],
    ],
)
def test_the_card_says_which_files_are_which_split(hub: Hub, data_files: list[Any]) -> None:
    card = {"configs": [{"config_name": "default", "data_files": data_files}]}
    hub.put_dataset(REPO, {"de/a.jsonl": jsonl("a"), "en/b.jsonl": jsonl("b")}, card=card)
    assert documents(opened(REPO)) == ["a"]
    assert documents(opened(f"{REPO}:late")) == ["b"]


def test_subsets_are_named_before_the_split(hub: Hub) -> None:
    configs = [{"config_name": name, "data_files": f"{name}/*"} for name in ("de", "en")]
    files = {"de/a.jsonl": jsonl("a"), "en/b.jsonl": jsonl("b")}
    hub.put_dataset(REPO, files, card={"configs": configs})
    with pytest.raises(BadData, match=f"several texts: name one, such as hf:{REPO}:de/train, of"):
        opened(REPO)
    assert documents(opened(f"{REPO}:en/train")) == ["b"]


def test_include_chooses_files(hub: Hub) -> None:
    hub.put_dataset(REPO, {"a-train.jsonl": jsonl("a"), "b-train.jsonl": jsonl("b")})
    assert documents(opened(REPO, Reading(include=("b*",)))) == ["b"]


def test_the_hubs_own_parquet_where_there_is_nothing_else(hub: Hub) -> None:
    hub.put_dataset(REPO, {"train.csv": b"text\na\n"})
    converted = {"default/train/0000.parquet": parquet("a"), "default/test/0000.parquet": b"x"}
    hub.put_dataset(REPO, converted, revision="refs/convert/parquet")
    source = opened(REPO)
    assert documents(source) == ["a"]
    assert any("split train, 1 files" in note for note in source.notes)
    hub.put_dataset("owner/empty", {"README.md": b"nothing"})
    with pytest.raises(BadData, match=r"hf:owner/empty has no .*files"):
        opened("owner/empty")
    with pytest.raises(BadData, match=r"hf:owner/stories has no such revision"):
        opened(f"{REPO}@v9")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "has no dataset owner/stories, or it is private.*HF_TOKEN"),
        (401, "", "has no dataset owner/stories, or it is private.*HF_TOKEN"),
        (403, "GatedRepo", "is gated: accept its terms on the hub, then set HF_TOKEN"),
        (400, "", "answered 400"),
    ],
)
def test_refusals_are_one_sentence(hub: Hub, status: int, code: str, words: str) -> None:
    hub.refuse(REPO, status, code)
    with pytest.raises(BadData, match=words):
        opened(REPO)


def test_a_file_that_is_not_the_announced_one_is_refused(hub: Hub) -> None:
    commit = hub.put_dataset(REPO, {"train.jsonl": jsonl("a" * 2000)})
    path = f"/datasets/{REPO}/resolve/{commit}/train.jsonl"
    status, headers, body = hub.answers[path]
    hub.answers[path] = (status, headers, body.replace(b"a" * 2000, b"b" * 2000))
    with pytest.raises(BadData, match=r"not the file .*announced"):
        documents(opened(REPO))


def test_the_command_reads_the_hub(llmc: Llmc, hub: Hub) -> None:
    hub.put_dataset(REPO, {"train.jsonl": jsonl(*["once upon a time"] * 50)})
    done = llmc(
        "tokenize", f"hf:{REPO}", "--tokenizer", "byte", "--json", env={"HF_ENDPOINT": hub.url}
    )
    made = json.loads(ok(done).stdout)
    assert made["dataset"] == "stories"
    assert made["text_bytes"] == 50 * len("once upon a time")
    assert f"hf:{REPO}: split train, 1 files" in done.stderr


def test_without_a_network_one_sentence(llmc: Llmc) -> None:
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):
        error = assert_one_sentence(llmc("tokenize", "hf:owner/name", env=env), 1)
        assert "cannot reach the hub for hf:owner/name" in error


def test_an_address_is_downloaded_once(llmc: Llmc, hub: Hub) -> None:
    body = gzip.compress(jsonl(*["a story"] * 50))
    hub.answers["/a dir/my.stories.jsonl.gz"] = (200, {}, body)
    url = f"{hub.url}/a%20dir/my.stories.jsonl.gz?download=true"
    first = json.loads(ok(llmc("tokenize", url, "--tokenizer", "byte", "--json")).stdout)
    assert first["dataset"] == "my.stories"
    assert first["source"][0]["url"] == url
    assert first["text_bytes"] == 350
    again = ok(llmc("tokenize", url, "--tokenizer", "byte", "--json"))
    assert json.loads(again.stdout)["train"] == first["train"]


def test_an_address_that_is_not_there(llmc: Llmc, hub: Hub) -> None:
    error = assert_one_sentence(llmc("tokenize", f"{hub.url}/gone.txt"), 1)
    assert "gone.txt answered 404" in error
    assert "check the address" in error
    assert list(llmc.workspace.iterdir()) == []
