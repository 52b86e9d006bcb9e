"""The commit of a folder, as git tells it, without running anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llmc.train.git import head_commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def git(folder: Path, *words: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-b", "main")
    git(folder, "commit", "--allow-empty", "-m", "one")
    git(folder, "commit", "--allow-empty", "-m", "two")
    return folder


def test_a_branch_and_a_folder_below_it(repository: Path) -> None:
    wanted = git(repository, "rev-parse", "HEAD").strip()
    (repository / "a" / "b").mkdir(parents=True)
    assert head_commit(repository) == head_commit(repository / "a" / "b") == wanted


def test_packed_detached_nested_and_symbolic(repository: Path) -> None:
    wanted = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "pack-refs", "--all")
    assert not (repository / ".git" / "refs" / "heads" / "main").exists()
    assert head_commit(repository) == wanted
    git(repository, "checkout", "-b", "some/deep.name")
    assert head_commit(repository) == wanted
    git(repository, "symbolic-ref", "refs/heads/other", "refs/heads/main")
    git(repository, "symbolic-ref", "HEAD", "refs/heads/other")
    assert head_commit(repository) == wanted
    git(repository, "checkout", "--detach", "HEAD~1")
    assert head_commit(repository) == git(repository, "rev-parse", "HEAD").strip() != wanted


def test_a_worktree_and_a_submodule(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-b", "there", str(tmp_path / "there"), "HEAD~1")
    git(tmp_path / "there", "commit", "--allow-empty", "-m", "three")
    wanted = git(tmp_path / "there", "rev-parse", "HEAD").strip()
    assert head_commit(tmp_path / "there") == wanted != head_commit(repository)
    git(repository, "submodule", "add", str(tmp_path / "there"), "inner")
    assert head_commit(repository / "inner") == wanted


def test_none_where_there_is_no_commit(repository: Path, tmp_path: Path) -> None:
    assert head_commit(tmp_path) is None
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init")
    assert head_commit(tmp_path / "new") is None
    for damage in ("", "ref: ../../etc/passwd", "ref: refs/heads/main\0", "x" * 10**6, "ref: HEAD"):
        (repository / ".git" / "HEAD").write_text(damage)
        assert head_commit(repository) is None
    (repository / ".git" / "HEAD").write_text("ref: refs/heads/loop")
    (repository / ".git" / "refs" / "heads" / "loop").write_text("ref: refs/heads/loop")
    assert head_commit(repository) is None


def test_nothing_of_the_repository_is_run(repository: Path, tmp_path: Path) -> None:
    run = tmp_path / "ran"
    (repository / ".gitattributes").write_text("* filter=evil\n")
    with (repository / ".git" / "config").open("a") as file:
        file.write(f'[core]\n\tfsmonitor = "touch {run}; false"\n')
        file.write(f'[filter "evil"]\n\tclean = "touch {run}; cat"\n')
    assert head_commit(repository) is not None
    assert not run.exists()
    git(repository, "status")
    assert run.exists()  # git itself runs it
