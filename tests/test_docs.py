"""Every code block and command of the documentation works: it is run, on a real MLflow server, as a reader would."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT, Block, blocks_of

from rltelemetry.settings import ENVIRONMENT
from rltelemetry.testing import MlflowServer

pytestmark = [pytest.mark.mlflow, pytest.mark.timeout(400)]

LIMIT_S = 300
SHOWN_ONLY = {"text", "ssh_config", "sshd_config", "yaml"}
ELSEWHERE = {"laptop", "host"}
"""Marks of the blocks that `test_tunnel_runbook` runs."""

NOT_RUN = {
    r"\bpip install\b": "whoever runs the tests has done it",
    r"^nox\b": "the sessions are steps of .ci/run",
}
"""Lines of commands that are not run, and why."""

READERS = {
    r"checkpoints/[^\s`]*": '"$(ls -d checkpoints/*/ | tail -1)"',
    r"\b(run|other)\.yaml\b": "configs/ppo.yaml",
}
"""Names that are the reader's, and what stands for them here."""

REPOSITORY = (
    "benchmarks",
    "configs",
    "docs",
    "rltelemetry",
    "tests",
    "trainers",
    "noxfile.py",
    "pyproject.toml",
    "README.md",
)
"""What a reader finds in a fresh clone: a checkout may hold checkpoints and a database of runs of its own, too."""

SHORT = "--training-core.total-timesteps 2048 --evaluation.num-eval-episodes 4"
PREAMBLE = """
import structlog, rltelemetry
log = structlog.get_logger()
"""
"""What a page may take for granted behind its first lines."""

ALL = [block for document in DOCUMENTS for block in blocks_of(document)]
BASH = [
    block
    for block in ALL
    if block.language == "bash" and block.excuse is None and not ELSEWHERE & {*block.words.split()}
]
PAGES = sorted({block.document for block in ALL if block.language == "python"})


def commands(block: Block) -> str:
    """The lines of a block that are run; a training in them is a short one."""
    kept = [line for line in block.text.splitlines() if not any(re.search(pattern, line) for pattern in NOT_RUN)]
    text = "\n".join(kept)
    for pattern, name in READERS.items():
        text = re.sub(f"^([^#\n]*?){pattern}", rf"\1{name}", text, flags=re.MULTILINE)
    return text


def lay_out(repository: Path, desk: Path) -> None:
    for name in REPOSITORY:
        (desk / name).symlink_to(repository / name)


@pytest.fixture
def desk(tmp_path: Path, mlflow_server: MlflowServer) -> Path:
    """A directory that looks like the repository, and takes what the commands leave behind; short trainings."""
    lay_out(ROOT, tmp_path)
    shims = tmp_path / ".bin"
    shims.mkdir()
    for name in ("ppo", "spo"):
        shim = shims / name
        real = Path(sys.executable).parent / name
        shim.write_text(f'#!/bin/sh\ncase "$*" in *--config*) set -- "$@" {SHORT};; esac\nexec {real} "$@"\n')
        shim.chmod(0o755)
    os.environ["PATH"] = f"{shims}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ |= {
        "MLFLOW_TRACKING_URI": mlflow_server.uri,
        "RLTELEMETRY_EXIT_TIMEOUT_S": "30",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
    }
    mlflow_server.create_run("the reader's first")  # something to look at
    return tmp_path


def run(command: list[str], directory: Path) -> None:
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]


@pytest.mark.parametrize("block", BASH, ids=[block.name for block in BASH])
def test_commands_work(block: Block, desk: Path) -> None:
    pytest.importorskip("torch")
    run(["bash", "-euo", "pipefail", "-c", commands(block)], desk)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_python_of_a_page_works_from_its_top_to_its_end(page: Path, desk: Path, mlflow_server: MlflowServer) -> None:
    texts = [block.text for block in blocks_of(page) if block.language == "python" and block.excuse is None]
    program = PREAMBLE + "\n".join(texts).replace("http://localhost:5000", mlflow_server.uri)
    run([sys.executable, "-c", program], desk)


def test_desk_has_nothing_that_runs_have_left_in_the_checkout(tmp_path: Path) -> None:
    """`nox -s train` leaves checkpoints and a database where `nox` runs next."""
    checkout, desk = tmp_path / "checkout", tmp_path / "desk"
    for directory in (desk, *(checkout / name for name in (*REPOSITORY, "checkpoints", "mlflow.db", "mlartifacts"))):
        directory.mkdir(parents=True)
    lay_out(checkout, desk)
    assert {path.name for path in desk.iterdir()} == set(REPOSITORY)
    assert all((ROOT / name).exists() for name in REPOSITORY)


def test_every_block_is_run_or_says_why_not() -> None:
    for block in ALL:
        known = block.language in SHOWN_ONLY or block.language in {"bash", "python"}
        assert known, f"{block.name}: {block.language!r} is neither run nor marked"
        assert block.excuse != "", f"{block.name}: no-test needs a reason"


def test_every_local_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_place_in_the_code_that_a_page_names_exists() -> None:
    named = [place for page in DOCUMENTS for place in re.findall(r"`([a-z_/]+\.py): ([\w.]+)`", page.read_text())]
    assert len(named) > 20
    for path, name in named:
        scope: list[ast.stmt] = ast.parse((ROOT / "trainers" / path).read_text()).body
        for part in name.split("."):
            found = [node for node in scope if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part]
            assert found, f"{path}: {name}"
            scope = found[0].body


def test_readme_names_every_environment_variable() -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    said = " ".join(rows)
    missing = [
        name
        for variable in ENVIRONMENT
        for name in variable.names
        if name not in said and f"`{re.sub('^MLFLOW_TRACKING', '', name)}`" not in said
    ]
    assert missing == []


def test_messages_that_troubleshooting_quotes_are_those_of_the_code() -> None:
    packages = ("rltelemetry", "trainers")
    source = "\n".join(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", source)
    rows = re.findall(r"^\| `([^`|]+)`", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    from_servers = {"got HTTP 403: Invalid Host header", "got HTTP 404: 404 Not Found", "got HTTP 401"}
    assert len(rows) > 10
    for quoted in set(rows) - from_servers:
        for part in quoted.split(": "):
            assert part in code, quoted
