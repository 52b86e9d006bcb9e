"""What several tests share: the command line as a person runs it, and no way to the network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.engine.build import ensure_native
from llmc.errors import BadData
from llmc.paths import Workspace
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.helpers.engine import Native, build
from tests.helpers.in_process import needs_process, run_in_process
from tests.helpers.isas import ALL_ISAS, runnable_isas
from tests.helpers.places import ROOT
from tests.helpers.web import Web, serving

# Nothing listens on the discard port: whoever asks for the outside world is refused at once.
NO_NETWORK = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "LLMC_RETRIES": "0",
}
# A background job of a shell begins with Ctrl-C ignored, one of nohup with SIGHUP, and so would all
# that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# The tests' processes share the cores already; in each of them PyTorch's threads would spin for
# each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Wall-clock limits per example say more about how busy the machine is than about the code.
settings.register_profile("quick", deadline=None, max_examples=30)
settings.register_profile("full", deadline=None, max_examples=100)

OURS = ("LLMC_", "HF_", "HUGGING_FACE_")


def pytest_configure(config: pytest.Config) -> None:
    """Let Hypothesis try more examples where slow tests run too."""
    settings.load_profile("quick" if config.option.markexpr == "not full" else "full")


@pytest.fixture(scope="session", autouse=True)
def alone() -> Iterator[None]:
    """Keep tests, and processes they start, on this machine, without the settings of the shell."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OURS)]:
            if not name.startswith("LLMC_TEST_"):
                patch.delenv(name)
        for name, value in NO_NETWORK.items():
            patch.setenv(name, value)
        patch.delenv("ALL_PROXY", raising=False)
        patch.delenv("all_proxy", raising=False)
        # Next commands are spelled 'llmc …' where that runs this installation.
        patch.setenv("PATH", sysconfig.get_path("scripts"), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests of this run, those of other workers included.

    Compiled engines and zig's own cache are kept from one run to the next: a build is named by a
    hash of everything it is made of.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    engines = Path(os.environ.get("LLMC_TEST_ENGINES", ROOT / "build" / "test-engines"))
    with FileLock(folder.with_suffix(".lock")), pytest.MonkeyPatch.context() as patch:
        if not folder.exists():
            folder.mkdir()
            (engines / "zig").mkdir(parents=True, exist_ok=True)
            (folder / "native").symlink_to(engines.resolve())
            (folder / "zig").symlink_to((engines / "zig").resolve())
        patch.setenv("LLMC_CACHE_DIR", str(folder))
        ensure_native()
    return folder


@pytest.fixture(scope="session")
def native(cache: Path) -> Native:
    """Return the compiled engine."""
    return build(cache)


@pytest.fixture(scope="session")
def isas(native: Native, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the instruction sets that the engine has and this machine runs, worst first."""
    return runnable_isas(native, tmp_path_factory.mktemp("probe"))


@pytest.fixture(params=ALL_ISAS)
def isa(request: pytest.FixtureRequest, isas: list[str]) -> str:
    """Return each instruction set in turn; skip the test with one that cannot run here."""
    name = str(request.param)
    if name not in isas:
        pytest.skip(f"this machine cannot run {name}, or the build does not have it")
    return name


@dataclass(frozen=True)
class Llmc:
    """Runs ``llmc`` in a workspace of its own; that is its current directory too.

    Commands run in the tests' own process where they can: starting Python takes longer than most of
    them. :attr:`command` starts a process.
    """

    workspace: Path
    cache: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of the commands: this one's, without settings that leak in."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        isolated = {
            "LLMC_CACHE_DIR": str(self.cache),
            "LLMC_RETRIES": "0",
            "HF_HOME": str(self.cache / "hub"),
        }
        return {**kept, **isolated, **self.environment, **(extra or {})}

    def raw(
        self, *args: str | Path, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command; stdout and stderr come back as bytes."""
        words = [*map(str, args)]
        if needs_process(words, {**self.environment, **(env or {})}):
            return subprocess.run(
                [*self.command, *words],
                cwd=self.workspace,
                env=self.env(env),
                input=stdin,
                capture_output=True,
                check=False,
                timeout=300,
            )
        return run_in_process(words, cwd=self.workspace, env=self.env(env), stdin=stdin)

    def __call__(
        self, *args: str | Path, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; stdout and stderr come back as text."""
        done = self.raw(*args, stdin=stdin.encode(), env=env)
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def start(
        self, *args: str | Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a process, with pipes on stdout and stderr; ``options`` are Popen's."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        argv = [*self.command, *map(str, args)]
        return subprocess.Popen(argv, cwd=self.workspace, env=self.env(env), **{**pipes, **options})

    @property
    def command(self) -> list[str]:
        """What starts llmc, for tests that need the pipes themselves."""
        return [sys.executable, "-m", "llmc"]


@pytest.fixture
def llmc(tmp_path: Path, cache: Path) -> Llmc:
    """Return the command line, in an empty workspace."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return Llmc(workspace, cache)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    """Return a prepared workspace to copy: a dataset of bytes and a tiny model, no run."""
    from tests.helpers.workspace import prepared_workspace  # it imports Llmc

    return prepared_workspace(tmp_path_factory.mktemp("prepared") / "workspace", cache)


@pytest.fixture
def here(tmp_path: Path) -> Context:
    """Return the context that commands' core functions take, in an empty workspace."""
    return Context(Workspace(tmp_path / "workspace"), Ui(quiet=True))


@pytest.fixture
def web() -> Iterator[Web]:
    """Return a server on this machine that does what it is told."""
    with serving() as web:
        yield web


@pytest.fixture(scope="session")
def gpt2() -> Tokenizer:
    """Return GPT-2's tokenizer, where its vocabulary is on this machine."""
    try:
        return load_tokenizer("gpt2")
    except BadData as error:
        pytest.skip(f"GPT-2's vocabulary is not on this machine: {error}")


@pytest.fixture(scope="session")
def tinyshakespeare() -> Path:
    """Return the real text, from the folder that LLMC_TEST_DATA names."""
    folder = os.environ.get("LLMC_TEST_DATA")
    path = Path(folder or "") / "tinyshakespeare.txt"
    if folder is None or not path.is_file():
        pytest.skip("LLMC_TEST_DATA names no folder with tinyshakespeare.txt in it")
    return path


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Hold a failed command to the rules: its exit code, one error line, no traceback, no data."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]
