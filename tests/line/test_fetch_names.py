"""What ``llmc fetch`` knows by name: the hub's files, the standard library, tinyshakespeare."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from llmc.cli.context import Context
from llmc.errors import Usage
from llmc.fetch.named import fetch_named
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.fetching import CONFIG, TEXT, WEIGHTS, nothing_in
from tests.helpers.web import COMMIT, Web


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache: what one test downloads is not there for the next."""
    monkeypatch.setenv("LLMC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_a_network_the_error_offers_source(llmc: Llmc) -> None:
    for name in ("tinyshakespeare", "gpt2", "tinystories"):
        error = assert_one_sentence(llmc("fetch", name), 1)
        assert "no answer from" in error
        assert "--source PATH" in error
    assert nothing_in(llmc.workspace)


def test_a_model_comes_from_the_hub(llmc: Llmc, web: Web) -> None:
    git_sha1 = hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()
    web.put_on_hub("openai-community/gpt2", "config.json", CONFIG, etag=git_sha1)
    web.put_on_hub("openai-community/gpt2", "model.safetensors", WEIGHTS)
    done = llmc("fetch", "gpt2", "--json", env={"HF_ENDPOINT": web.url})
    assert done.returncode == 0, done.stderr
    folder = llmc.workspace / "models" / "gpt2"
    assert json.loads(done.stdout) == {
        "name": "gpt2",
        "folder": "models/gpt2",
        "files": ["config.json", "model.safetensors"],
    }
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == CONFIG
    assert "next: llmc export-weights gpt2" in done.stderr


def test_tinystories_comes_from_the_hub(llmc: Llmc, web: Web) -> None:
    repo = "datasets/roneneldan/TinyStories"
    for split in ("train", "valid"):
        web.put_on_hub(repo, f"TinyStoriesV2-GPT4-{split}.txt", split.encode())
    done = llmc("fetch", "tinystories", env={"HF_ENDPOINT": web.url})
    assert done.returncode == 0, done.stderr
    folder = llmc.workspace / "data" / "tinystories"
    assert (folder / "TinyStoriesV2-GPT4-valid.txt").read_bytes() == b"valid"
    assert "next: llmc tokenize tinystories" in done.stderr


@pytest.mark.parametrize("fault", ["absent", "short", "changed"])
def test_a_faulty_hub_leaves_nothing(llmc: Llmc, web: Web, fault: str) -> None:
    repo = "openai-community/gpt2"
    etag = hashlib.sha256(b"the published config").hexdigest() if fault == "changed" else None
    if fault != "absent":
        web.put_on_hub(repo, "config.json", CONFIG, etag=etag)
    if fault == "short":
        # The size that was announced is not the size that comes.
        web.trimmed.add(f"/{repo}/resolve/{COMMIT}/config.json")
    error = assert_one_sentence(llmc("fetch", "gpt2", env={"HF_ENDPOINT": web.url}), 1)
    words = {
        "absent": "answered 404",
        "short": "is not the announced file: it has 14 bytes, not 15",
        "changed": "is not the expected file",
    }
    assert words[fault] in error
    assert "nothing was saved" in error
    assert nothing_in(llmc.workspace)


def test_a_model_comes_from_a_local_folder(here: Context, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    folder = fetch_named(here.workspace, "gpt2-xl", source=str(tmp_path))
    assert folder == here.workspace.models / "gpt2-xl"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_stdlib_is_there_already(llmc: Llmc) -> None:
    done = llmc("fetch", "stdlib", "--json")
    assert done.returncode == 0
    assert (Path(json.loads(done.stdout)["folder"]) / "os.py").is_file()
    assert "next: llmc tokenize stdlib" in done.stderr
    assert nothing_in(llmc.workspace)


def test_stdlib_takes_no_source(here: Context, tmp_path: Path) -> None:
    with pytest.raises(Usage, match=f"llmc tokenize {tmp_path}"):
        fetch_named(here.workspace, "stdlib", source=str(tmp_path))


def test_an_unknown_name_is_a_usage_error(llmc: Llmc) -> None:
    error = assert_one_sentence(llmc("fetch", "gpt2-xxl"), 2)
    assert "did you mean 'gpt2-xl'?" in error


def test_tinyshakespeare_from_a_local_copy(llmc: Llmc, tinyshakespeare: Path) -> None:
    done = llmc("fetch", "tinyshakespeare", "--source", tinyshakespeare)
    assert done.returncode == 0, done.stderr
    path = llmc.workspace / "data" / "tinyshakespeare" / "tinyshakespeare.txt"
    assert path.read_bytes() == tinyshakespeare.read_bytes()


def test_tinyshakespeare_with_one_byte_changed_is_refused(llmc: Llmc, tmp_path: Path) -> None:
    (tmp_path / "copy.txt").write_bytes(TEXT)
    done = llmc("fetch", "tinyshakespeare", "--source", tmp_path / "copy.txt")
    error = assert_one_sentence(done, 1)
    assert "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed" in error
    assert nothing_in(llmc.workspace)
