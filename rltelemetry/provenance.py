"""Where a run comes from, as the tags that fill MLflow's run page: user, script, git commit.

Git's files are read directly: starting `git` would hold the worker up, and it may not be installed.
"""

import contextlib
import getpass
import socket
import sys
from pathlib import Path

from rltelemetry.redact import redact

__all__ = ["git_tags", "source_tags"]


def source_tags() -> dict[str, str]:
    """Return the tags of this program."""
    tags = {"mlflow.source.name": sys.argv[0] or "python", "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(Exception):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    with contextlib.suppress(OSError):
        tags["rltelemetry.host"] = socket.gethostname()
    with contextlib.suppress(OSError, ValueError):  # a path may hold what no path can
        tags |= git_tags(Path.cwd())
    return tags


def git_tags(directory: Path) -> dict[str, str]:
    """Return commit, branch and origin of the git checkout that holds `directory`; empty if there is none."""
    git = next((parent / ".git" for parent in (directory, *directory.parents) if (parent / ".git").exists()), None)
    if git is None:
        return {}
    if git.is_file():  # a worktree: the file names its folder
        git = (git.parent / _read(git).removeprefix("gitdir:").strip()).resolve()
    common = git
    with contextlib.suppress(OSError):
        common = (git / _read(git / "commondir").strip()).resolve()
    head = _read(git / "HEAD").strip()
    tags: dict[str, str] = {}
    if head.startswith("ref:"):
        reference = head.removeprefix("ref:").strip()
        tags["mlflow.source.git.branch"] = reference.removeprefix("refs/heads/")
        head = _commit_of(common, reference)
    if head:
        tags["mlflow.source.git.commit"] = head
    if origin := _origin(common):
        tags["mlflow.source.git.repoURL"] = origin
    return tags


def _commit_of(git: Path, reference: str) -> str:
    with contextlib.suppress(OSError):
        return _read(git / reference).strip()
    with contextlib.suppress(OSError):
        for line in _read(git / "packed-refs").splitlines():
            commit, _, name = line.partition(" ")
            if name == reference:
                return commit
    return ""


def _origin(git: Path) -> str:
    """The address of the remote `origin`, without credentials."""
    section = ""
    with contextlib.suppress(OSError):
        for line in _read(git / "config").splitlines():
            text = line.strip()
            if text.startswith("["):
                section = text
            elif section == '[remote "origin"]' and text.startswith("url"):
                return redact(text.partition("=")[2].strip()).replace("***@", "")
    return ""


def _read(path: Path) -> str:
    """What a file of git's says; a name in it may be in any encoding."""
    return path.read_text(errors="replace")
