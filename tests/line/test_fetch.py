from __future__ import annotations

import hashlib
import io
import os
import pty
import re
import shutil
import signal
import subprocess
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.errors import BadData
from llmc.fetch.download import download
from llmc.fetch.named import fetch_named
from llmc.fetch.registry import FETCHED, Dataset, RemoteFile
from llmc.paths import Workspace
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.fetching import CONFIG, TEXT, WEIGHTS, nothing_in
from tests.helpers.report import Listener
from tests.helpers.web import COMMIT, Act, Web, part_size, wait_until

GPT2 = "openai-community/gpt2"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache: what one test downloads is not there for the next."""
    monkeypatch.setenv("LLMC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def poem(monkeypatch: pytest.MonkeyPatch, web: Web) -> Dataset:
    """Register a dataset like tinyshakespeare: one file with a known hash."""
    sha256 = hashlib.sha256(TEXT).hexdigest()
    dataset = Dataset("poem", (RemoteFile("poem.txt", f"{web.url}/input.txt", sha256),))
    monkeypatch.setitem(FETCHED, "poem", dataset)
    web.put("/input.txt", TEXT)
    return dataset


def test_a_file_is_downloaded_once(here: Context, poem: Dataset, web: Web) -> None:
    folder = fetch_named(here.workspace, poem.name)
    assert folder == here.workspace.data / "poem"
    assert [path.name for path in folder.iterdir()] == ["poem.txt"]
    assert (folder / "poem.txt").read_bytes() == TEXT
    fetch_named(here.workspace, poem.name)
    assert web.asked == ["GET /input.txt"]
    fetch_named(here.workspace, poem.name, force=True)
    assert len(web.asked) == 2


def test_a_file_that_changed_is_fetched_again(here: Context, poem: Dataset) -> None:
    path = here.workspace.data / "poem" / "poem.txt"
    path.parent.mkdir(parents=True)
    path.write_text("half of it")
    fetch_named(here.workspace, poem.name)
    assert path.read_bytes() == TEXT


def test_progress_adds_up_to_the_size(tmp_path: Path, web: Web) -> None:
    web.put("/x", TEXT * 50)
    steps: list[tuple[int, int | None]] = []
    download(
        f"{web.url}/x", tmp_path / "x", report=Listener(advance=lambda *step: steps.append(step))
    )
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
    folder = fetch_named(here.workspace, poem.name, source=sources[kind])
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
        fetch_named(here.workspace, poem.name, source=source)
    assert nothing_in(here.workspace.data)


def test_a_404_page_is_not_kept(here: Context, poem: Dataset, web: Web) -> None:
    del web.files["/input.txt"]
    with pytest.raises(BadData, match=r"/input\.txt answered 404 Not Found.*--source PATH"):
        fetch_named(here.workspace, poem.name)
    assert nothing_in(here.workspace.data)


def test_a_web_page_where_no_hash_is_known_is_not_kept(tmp_path: Path, web: Web) -> None:
    web.put("/x", b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")
    with pytest.raises(BadData, match="answered with a web page"):
        download(f"{web.url}/x", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_download_that_breaks_off_leaves_the_old_file(
    here: Context, poem: Dataset, web: Web
) -> None:
    folder = fetch_named(here.workspace, poem.name)
    web.broken.add("/input.txt")
    with pytest.raises(BadData, match=r"broke off .*; 30,500 of 61,000 bytes are kept"):
        fetch_named(here.workspace, poem.name, force=True)
    assert [path.name for path in folder.iterdir()] == ["poem.txt"]
    assert (folder / "poem.txt").read_bytes() == TEXT


def test_another_workspace_takes_it_from_the_cache(
    here: Context, poem: Dataset, web: Web, tmp_path: Path
) -> None:
    folder = fetch_named(here.workspace, poem.name)
    other = fetch_named(Workspace(tmp_path / "another"), poem.name)
    assert (other / "poem.txt").samefile(folder / "poem.txt")
    assert len(web.asked) == 1


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write a .tar.gz or a .zip."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            for name, data in files.items():
                zipped.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize("place", ["here", "there"])
def test_source_is_an_archive(
    here: Context, web: Web, tmp_path: Path, suffix: str, place: str
) -> None:
    files = {
        "README.md": b"#",
        "gpt2/config.json": CONFIG,
        "gpt2/model.safetensors": WEIGHTS,
        "gpt2/merges.txt": b"",
    }
    archive = pack(tmp_path / f"gpt2{suffix}", files)
    web.put(f"/{archive.name}?download=true", archive.read_bytes())
    source = str(archive) if place == "here" else f"{web.url}/{archive.name}?download=true"
    folder = fetch_named(here.workspace, "gpt2", source=source)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_an_archive_of_one_file_may_call_it_otherwise(
    here: Context, poem: Dataset, tmp_path: Path
) -> None:
    archive = pack(tmp_path / "poem.zip", {"the-poem.txt": TEXT})
    folder = fetch_named(here.workspace, poem.name, source=str(archive))
    assert (folder / "poem.txt").read_bytes() == TEXT


def test_an_archive_without_the_files_is_refused(here: Context, tmp_path: Path) -> None:
    archive = pack(tmp_path / "gpt2.zip", {"a/config.json": CONFIG, "b/model.safetensors": b""})
    with pytest.raises(
        BadData, match=r"does not hold config\.json and model\.safetensors in one folder"
    ):
        fetch_named(here.workspace, "gpt2", source=str(archive))
    archive = pack(tmp_path / "gpt2.tar.gz", {"../config.json": CONFIG})
    with pytest.raises(BadData, match=r"'\.\./config\.json' leads out of its folder"):
        fetch_named(here.workspace, "gpt2", source=str(archive))
    assert nothing_in(here.workspace.models)


def test_the_bar_starts_at_what_was_there(
    here: Context, poem: Dataset, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.headers["/input.txt"] = {"ETag": '"one"'}
    web.acts["/input.txt"] = [Act(cut=30_000)]
    with pytest.raises(BadData, match="30,000 of 61,000 bytes are kept"):
        fetch_named(here.workspace, poem.name)
    ui = Ui()
    ui.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    calls: list[dict[str, object]] = []
    monkeypatch.setattr(Progress, "reset", lambda _self, _task, **given: calls.append(given))
    fetch_named(here.workspace, poem.name, report=ui)
    assert calls[0] == {"total": 61_000, "completed": 30_000}


def test_a_terminal_sees_the_rate_and_what_is_tried_again(llmc: Llmc, web: Web) -> None:
    web.put_on_hub(GPT2, "config.json", CONFIG)
    web.put_on_hub(GPT2, "model.safetensors", WEIGHTS)
    path = f"/{GPT2}/resolve/{COMMIT}/model.safetensors"
    web.acts[path] = [Act(503, {"Retry-After": "0"}), Act(pause_s=0.01)]
    env = {"HF_ENDPOINT": web.url, "LLMC_RETRIES": "1", "TERM": "xterm", "COLUMNS": "120"}
    seen = on_a_terminal([*llmc.command, "fetch", "gpt2"], llmc.workspace, llmc.env(env))
    assert "answered 503 Service Unavailable and asks to wait 0 s: trying again" in seen
    assert re.search(r"model\.safetensors .*/1\.0 MB.* [MkB]+/s 0:00:0\d", seen), seen[-2000:]


def test_ctrl_c_leaves_a_part_and_says_so(llmc: Llmc, web: Web, cache: Path) -> None:
    web.put_on_hub(GPT2, "config.json", CONFIG)
    web.put_on_hub(GPT2, "model.safetensors", WEIGHTS)
    path = f"/{GPT2}/resolve/{COMMIT}/model.safetensors"
    web.acts[path] = [Act(pause_s=0.05)]
    env = llmc.env({"HF_ENDPOINT": web.url})
    command = [*llmc.command, "fetch", "gpt2"]
    with subprocess.Popen(
        command, cwd=llmc.workspace, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: part_size(cache) > 100_000)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(
        r"stopped; [\d,]+ of 1,048,576 bytes are kept: the same command goes on", said
    ), said
    assert "Traceback" not in said
    kept = part_size(cache)
    done = llmc("fetch", "gpt2", env={"HF_ENDPOINT": web.url})
    assert done.returncode == 0, done.stderr
    assert web.ranges(path) == [None, f"bytes={kept}-"]
    assert (llmc.workspace / "models" / "gpt2" / "model.safetensors").read_bytes() == WEIGHTS


def test_offline_says_what_is_missing_and_takes_what_is_there(llmc: Llmc, web: Web) -> None:
    error = assert_one_sentence(llmc("fetch", "tinyshakespeare", "--offline"), 1)
    assert "tinyshakespeare.txt is not in the cache, and the network is switched off" in error
    assert "--source PATH" in error
    web.put_on_hub(GPT2, "config.json", CONFIG)
    web.put_on_hub(GPT2, "model.safetensors", WEIGHTS)
    env = {"HF_ENDPOINT": web.url, "HF_HUB_OFFLINE": "1"}
    error = assert_one_sentence(llmc("fetch", "gpt2", env=env), 1)
    assert "config.json is not in the cache" in error
    assert web.asked == []
    assert nothing_in(llmc.workspace)
    assert llmc("fetch", "gpt2", env={"HF_ENDPOINT": web.url}).returncode == 0
    shutil.rmtree(llmc.workspace / "models")
    asked = len(web.asked)
    done = llmc("--offline", "fetch", "gpt2", env={"HF_ENDPOINT": web.url})
    assert done.returncode == 0, done.stderr
    assert (llmc.workspace / "models" / "gpt2" / "model.safetensors").read_bytes() == WEIGHTS
    assert len(web.asked) == asked


def test_help_explains_the_use_of_the_network(llmc: Llmc) -> None:
    shown = " ".join(llmc("fetch", "--help").stdout.split())
    for word in ("--offline", "LLMC_OFFLINE", "HF_ENDPOINT", "HF_TOKEN", "HTTPS_PROXY"):
        assert word in shown


def on_a_terminal(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """Run a command on a terminal of its own; return what it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=folder, env=env, stderr=theirs, stdout=theirs) as process:
        os.close(theirs)
        seen = bytearray()
        with suppress(OSError):  # Linux ends a terminal with EIO
            while data := os.read(ours, 1 << 16):
                seen += data
        os.close(ours)
    assert process.returncode == 0, seen.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_a_missing_local_copy_is_named(here: Context, poem: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"cannot read .*gone\.txt: No such file"):
        fetch_named(here.workspace, poem.name, source=str(tmp_path / "gone.txt"))
    assert nothing_in(here.workspace.data)


def test_a_dataset_of_two_files_needs_a_folder(here: Context, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("x")
    with pytest.raises(BadData, match=r"is not a folder with TinyStoriesV2-GPT4-train\.txt"):
        fetch_named(here.workspace, "tinystories", source=str(tmp_path / "one.txt"))
