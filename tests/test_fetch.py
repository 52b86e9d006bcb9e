from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from conftest import Llmc, assert_one_sentence
from web import COMMIT, Web

from llmc.commands.fetch import fetch_dataset
from llmc.context import Context
from llmc.datasets import FETCHED, Dataset, RemoteFile
from llmc.download import download
from llmc.errors import BadData, Usage

TEXT = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 1000
CONFIG = b'{"n_layer": 12}'
WEIGHTS = bytes(range(256)) * 4096
GPT2 = "openai-community/gpt2"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return an empty cache: what one test downloads is not there for the next."""
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMC_CACHE_DIR", str(cache))


@pytest.fixture
def poem(monkeypatch: pytest.MonkeyPatch, web: Web) -> Dataset:
    """Register a dataset like tinyshakespeare: one file with a known hash."""
    sha256 = hashlib.sha256(TEXT).hexdigest()
    dataset = Dataset("poem", (RemoteFile("poem.txt", f"{web.url}/input.txt", sha256),))
    monkeypatch.setitem(FETCHED, "poem", dataset)
    web.put("/input.txt", TEXT)
    return dataset


def nothing_in(folder: Path) -> bool:
    return not folder.exists() or not list(folder.rglob("*"))


def test_a_file_is_downloaded_once(here: Context, poem: Dataset, web: Web) -> None:
    folder = fetch_dataset(here, poem.name, source=None, force=False)
    assert folder == here.workspace.data / "poem"
    assert [path.name for path in folder.iterdir()] == ["poem.txt"]
    assert (folder / "poem.txt").read_bytes() == TEXT
    fetch_dataset(here, poem.name, source=None, force=False)
    assert web.asked == ["GET /input.txt"]
    fetch_dataset(here, poem.name, source=None, force=True)
    assert len(web.asked) == 2


def test_a_file_that_changed_is_fetched_again(here: Context, poem: Dataset) -> None:
    path = here.workspace.data / "poem" / "poem.txt"
    path.parent.mkdir(parents=True)
    path.write_text("half of it")
    fetch_dataset(here, poem.name, source=None, force=False)
    assert path.read_bytes() == TEXT


def test_progress_adds_up_to_the_size(tmp_path: Path, web: Web) -> None:
    web.put("/x", TEXT * 50)
    steps: list[tuple[int, int | None]] = []
    download(f"{web.url}/x", tmp_path / "x", advance=lambda *step: steps.append(step))
    assert sum(step for step, _ in steps) == len(TEXT) * 50
    assert {total for _, total in steps} == {len(TEXT) * 50}


@pytest.mark.parametrize("kind", ["file", "folder", "mirror"])
def test_source_is_a_local_copy_or_a_mirror(
    here: Context, poem: Dataset, web: Web, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "poem.txt").write_bytes(TEXT)
    web.put("/mirror", TEXT)
    sources = {
        "file": str(tmp_path / "poem.txt"),
        "folder": str(tmp_path),
        "mirror": f"{web.url}/mirror",
    }
    folder = fetch_dataset(here, poem.name, source=sources[kind], force=False)
    assert (folder / "poem.txt").read_bytes() == TEXT
    assert web.asked == (["GET /mirror"] if kind == "mirror" else [])


@pytest.mark.parametrize("kind", ["file", "mirror"])
def test_another_text_is_refused_and_not_kept(
    here: Context, poem: Dataset, web: Web, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "poem.txt").write_bytes(TEXT[:-1])
    web.put("/mirror", TEXT[:-1])
    source = {"file": str(tmp_path / "poem.txt"), "mirror": f"{web.url}/mirror"}[kind]
    with pytest.raises(BadData, match="is not the expected file: its SHA-256 is"):
        fetch_dataset(here, poem.name, source=source, force=False)
    assert nothing_in(here.workspace.data)


def test_a_404_page_is_not_kept(here: Context, poem: Dataset, web: Web) -> None:
    del web.files["/input.txt"]
    with pytest.raises(BadData, match=r"/input\.txt answered 404 Not Found.*--source PATH"):
        fetch_dataset(here, poem.name, source=None, force=False)
    assert nothing_in(here.workspace.data)


def test_a_web_page_where_no_hash_is_known_is_not_kept(tmp_path: Path, web: Web) -> None:
    web.put("/x", b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")
    with pytest.raises(BadData, match="answered with a web page"):
        download(f"{web.url}/x", tmp_path / "x")
    assert nothing_in(tmp_path)


def test_a_download_that_breaks_off_leaves_the_old_file(
    here: Context, poem: Dataset, web: Web
) -> None:
    folder = fetch_dataset(here, poem.name, source=None, force=False)
    web.broken.add("/input.txt")
    with pytest.raises(BadData, match=r"broke off after .* bytes; nothing was saved"):
        fetch_dataset(here, poem.name, source=None, force=True)
    assert [path.name for path in folder.iterdir()] == ["poem.txt"]
    assert (folder / "poem.txt").read_bytes() == TEXT


def test_a_missing_local_copy_is_named(here: Context, poem: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"cannot read .*gone\.txt: No such file"):
        fetch_dataset(here, poem.name, source=str(tmp_path / "gone.txt"), force=False)
    assert nothing_in(here.workspace.data)


def test_a_dataset_of_two_files_needs_a_folder(here: Context, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("x")
    with pytest.raises(BadData, match=r"is not a folder with TinyStoriesV2-GPT4-train\.txt"):
        fetch_dataset(here, "tinystories", source=str(tmp_path / "one.txt"), force=False)


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
        "short": "broke off",
        "changed": "is not the file the hub announced",
    }
    assert words[fault] in error
    assert "nothing was saved" in error
    assert nothing_in(llmc.workspace)


def test_a_model_comes_from_a_local_folder(here: Context, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    folder = fetch_dataset(here, "gpt2-xl", source=str(tmp_path), force=False)
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
        fetch_dataset(here, "stdlib", source=str(tmp_path), force=False)


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
