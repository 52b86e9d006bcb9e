"""The flags of llmc serve, and why it may not start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.served import FAKE, Served
from tests.helpers.serving import KEY


def test_other_machines_need_a_key(llmc: Llmc) -> None:
    words = ["serve", "--host", "0.0.0.0", "--quiet"]
    assert "set LLMC_API_KEY" in assert_one_sentence(llmc(*words), 2)
    for key in ("", "short", "sixteen or more characters", "sechzehn-oder-möhr-zeichen"):
        said = assert_one_sentence(llmc(*words, env={"LLMC_API_KEY": key}), 2)
        assert "LLMC_API_KEY must be 16 or more" in said
    said = assert_one_sentence(llmc(*words, env={"LLMC_API_KEY": KEY}), 3)
    assert "no trained model" in said


def test_flags_that_exclude_each_other(llmc: Llmc) -> None:
    words = ["serve", "--run", "x", "--model", "y"]
    assert "exclude each other" in assert_one_sentence(llmc(*words), 2)
    assert "'--port'" in assert_one_sentence(llmc("serve", "--port", "65536"), 2)


def test_an_origin_is_one(llmc: Llmc) -> None:
    for origin in ("example.org", "https://example.org/", "https://a.org/x", "HTTPS://A.ORG", ""):
        said = assert_one_sentence(llmc("serve", "--cors", origin, "--quiet"), 2)
        assert "--cors takes an origin" in said
    done = llmc("serve", "--cors", "http://a.org:8080", "--cors", "*")
    assert done.returncode == 3 and "pages of any site may use this server" in done.stderr


def test_a_missing_package_is_named(llmc: Llmc) -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['llmc', 'serve']\n"
        "from llmc.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=llmc.workspace, env=llmc.env(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert re.search(r"pip install .*\[serve\]", assert_one_sentence(done, 3))


def test_a_port_that_is_taken_is_told(server: Served, folder: Path) -> None:
    words = [sys.executable, str(FAKE), str(folder / "parrot.bin"), "--port", str(server.port)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = assert_one_sentence(done, 2)
    assert f"port {server.port}" in said and "choose another --port" in said
