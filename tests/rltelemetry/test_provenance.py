"""Where a run comes from: read from git's own files, without git and without credentials."""

import getpass
import shutil
import subprocess
from pathlib import Path

import pytest

from rltelemetry.provenance import git_tags, source_tags

COMMIT = "mlflow.source.git.commit"
BRANCH = "mlflow.source.git.branch"
ORIGIN = "mlflow.source.git.repoURL"


def git(directory: Path, *arguments: str) -> str:
    if shutil.which("git") is None:
        pytest.skip("git is not there")
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=directory, capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"},
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    made = tmp_path / "checkout"
    made.mkdir()
    git(made, "init", "-q")
    git(made, "commit", "-q", "--allow-empty", "-m", "first")
    return made


def test_branch_and_commit_are_those_of_git(checkout: Path) -> None:
    inside = checkout / "a" / "b"
    inside.mkdir(parents=True)
    assert git_tags(inside) == {BRANCH: "main", COMMIT: git(checkout, "rev-parse", "HEAD")}


def test_packed_references_are_read(checkout: Path) -> None:
    git(checkout, "pack-refs", "--all")
    assert git_tags(checkout)[COMMIT] == git(checkout, "rev-parse", "HEAD")


def test_detached_head_has_a_commit_and_no_branch(checkout: Path) -> None:
    git(checkout, "checkout", "-q", "--detach")
    assert git_tags(checkout) == {COMMIT: git(checkout, "rev-parse", "HEAD")}


def test_worktree_is_a_checkout_too(checkout: Path) -> None:
    other = checkout.parent / "other"
    git(checkout, "worktree", "add", "-q", "-b", "side", str(other))
    git(other, "commit", "-q", "--allow-empty", "-m", "second")
    git(checkout, "remote", "add", "origin", "https://example.org/x.git")
    assert git_tags(other) == {
        BRANCH: "side",
        COMMIT: git(other, "rev-parse", "HEAD"),
        ORIGIN: "https://example.org/x.git",
    }


def test_credentials_of_the_origin_stay_out(checkout: Path) -> None:
    git(checkout, "remote", "add", "origin", "https://me:hunter2@example.org/x.git")
    assert git_tags(checkout)[ORIGIN] == "https://example.org/x.git"


def test_no_checkout_has_no_tags(tmp_path: Path) -> None:
    assert git_tags(tmp_path) == {}


def test_checkout_without_a_commit_has_only_a_branch(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert git_tags(tmp_path) == {BRANCH: "main"}


def test_user_without_a_name_costs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("no such uid")

    monkeypatch.setattr(getpass, "getuser", nameless)
    tags = source_tags()
    assert "mlflow.user" not in tags
    assert tags["mlflow.source.type"] == "LOCAL"


def test_name_in_another_encoding_costs_nothing(checkout: Path) -> None:
    git(checkout, "remote", "add", "origin", "https://example.org/x.git")
    config = checkout / ".git" / "config"
    config.write_bytes(b"[user]\n\tname = Jos\xe9\n" + config.read_bytes())
    assert git_tags(checkout)[ORIGIN] == "https://example.org/x.git"


@pytest.mark.parametrize("text", ["gitdir: /nonexistent\n", "gitdir: \0\n", "nonsense"])
def test_broken_checkout_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / ".git").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert COMMIT not in source_tags()


def test_arguments_of_the_program_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--token", "hunter2"])
    assert "hunter2" not in str(source_tags())
