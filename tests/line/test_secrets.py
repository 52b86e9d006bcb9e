"""No file that llmc writes, and nothing that it prints, has the secrets of an address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Llmc
from tests.helpers.web import Web
from tests.helpers.workspace import empty_workspace, ok

USER, PASSWORD, TOKEN = "someone", "PASSW0RD", "S1GNATURE"
SECRETS = (USER, PASSWORD, TOKEN)


def address(web: Web, path: str) -> str:
    place = web.url.removeprefix("http://")
    return f"http://{USER}:{PASSWORD}@{place}/{path}?X-Amz-Signature={TOKEN}&token={TOKEN}"


def assert_nowhere(folders: list[Path]) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            assert not any(secret in path.name for secret in SECRETS)
            if path.is_file():
                data = path.read_bytes()
                assert not any(secret.encode() in data for secret in SECRETS), path


def test_a_text_s_address_is_recorded_without_them(tmp_path: Path, cache: Path, web: Web) -> None:
    own = tmp_path / "cache"
    own.mkdir()
    (own / "native").symlink_to((cache / "native").resolve())
    llmc = empty_workspace(tmp_path / "workspace", own)
    url = address(web, "x.txt")
    web.put(f"/x.txt{url[url.index('?') :]}", b"some text to train on. " * 200)
    commands = [
        ["tokenize", url, "--tokenizer", "byte", "--out", "data/x"],
        ["tokenize", url, "--tokenizer", "byte", "--out", "data/x"],
        ["prepare", url, "--tokenizer", "byte", "--model", "random:tiny.toml"],
        ["train", "--config", "tiny.toml", "--run", "r"],
        ["inspect", "data/x", "--json"],
        ["inspect", "runs/r", "--json"],
        ["runs", "--json"],
    ]
    for command in commands:
        done = ok(llmc(*command))
        assert not any(secret in done.stdout + done.stderr for secret in SECRETS), command
    source = json.loads((tmp_path / "workspace/data/x/manifest.json").read_text())["source"]
    assert source[0]["url"] == f"{web.url}/x.txt"
    assert_nowhere([tmp_path / "workspace", own])


@pytest.mark.parametrize(
    "words",
    [
        ["tokenize", "{}", "--tokenizer", "byte"],
        ["tokenize", "texts", "{}", "--tokenizer", "byte", "--field", "a"],
        ["tokenize", "texts", "--tokenizer", "{}"],
        ["fetch", "tinyshakespeare", "--source", "{}"],
        ["fetch", "gpt2", "--source", "{}"],
        ["fetch", "{}"],
        ["prepare", "{}"],
        ["inspect", "{}"],
        ["train", "--data", "{}"],
        ["train", "--model", "{}"],
        ["train", "--config", "{}"],
        ["train", "--resume", "{}"],
        ["sample", "--model", "{}"],
        ["eval", "{}"],
        ["plot", "{}"],
        ["export-weights", "{}"],
        ["decode", "--tokenizer", "{}"],
        ["serve", "--model", "{}"],
        ["help", "{}"],
        ["{}"],
    ],
)
def test_an_error_shows_none(words: list[str], llmc: Llmc, web: Web) -> None:
    for path in ("missing.txt", "missing.zip"):
        url = address(web, path)
        for variables in ({}, {"LLMC_TRACEBACK": "1"}, {"LLMC_OFFLINE": "1"}):
            done = llmc(*(word.format(url) for word in words), env=variables)
            assert done.returncode in (1, 2, 3)
            assert not any(secret in done.stdout + done.stderr for secret in SECRETS), done.stderr
    assert_nowhere([llmc.workspace])
