"""Every task of the project: `nox -s train` trains, `nox` tests. Nothing but pip and this file is needed.

The packages are installed with uv where it is there and with pip otherwise. torch comes as the pinned CPU build
(.ci/constraints.txt) unless this is a machine with an NVIDIA GPU, or RLTELEMETRY_GPU=1 says so.
"""

import itertools
import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "tests", "telemetry"]
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"

# uv does not read pip's settings; where pip is told of a folder of wheels, uv is told of it, too.
if links := os.environ.get("PIP_FIND_LINKS"):
    os.environ.setdefault("UV_FIND_LINKS", links)

HAS_GPU = os.environ.get("RLTELEMETRY_GPU") == "1" or shutil.which("nvidia-smi") is not None
CONSTRAINTS = () if HAS_GPU else ("-c", ".ci/constraints.txt")
PROJECT = nox.project.load_toml("pyproject.toml")
TEST_PACKAGES = nox.project.dependency_groups(PROJECT, "tests")
# What the tests meet: they bring torch, which `telemetry` must not have.
PARTNER_PACKAGES = nox.project.dependency_groups(PROJECT, "partners")
LINT_PACKAGES = nox.project.dependency_groups(PROJECT, "lint")
# One thread a process: the tests run side by side, and small networks are slower on two threads than on one.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def install(session: nox.Session, *extras: str, packages: tuple[str, ...] = ()) -> None:
    project = f".[{','.join(extras)}]" if extras else "."
    session.install(*CONSTRAINTS, "-e", project, *packages)


@nox.session
def train(session: nox.Session) -> None:
    """Train PPO on CartPole-v1 and show it in MLflow; arguments after `--` go to `ppo`."""
    install(session, "trainers", "mlflow")
    config = Path("configs/ppo.yaml").resolve()
    session.chdir(session.invoked_from)  # where its user stands: that is where runs, checkpoints and server are kept
    # Ctrl-C reaches the training, too: nox must not kill it while it saves
    arguments = ("--config", str(config), "--logging.artifacts", *session.posargs)
    session.run("ppo", *arguments, interrupt_timeout=10.0, terminate_timeout=10.0)
    if Path(".rltelemetry", "server.json").exists():
        session.log(f"MLflow stays up; stop it with: {os.path.relpath(session.bin)}/rltelemetry down")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, on a real MLflow server and real environments."""
    install(session, "all", packages=(*TEST_PACKAGES, *PARTNER_PACKAGES))
    arguments = session.posargs or ["-n", "2", "--dist", "loadfile", "-m", "not faults and not compile"]
    session.run("pytest", *arguments, env=ONE_THREAD)


@nox.session
def compile(session: nox.Session) -> None:
    """Check that compiled training is plain training; takes minutes."""
    install(session, "all", packages=tuple(TEST_PACKAGES))
    session.run("pytest", "tests/trainers", "-m", "compile", *session.posargs, env=ONE_THREAD)


@nox.session
def faults(session: nox.Session) -> None:
    """Break the network, the server, the disk and the process, for minutes, and look whether anything was lost."""
    install(session, "all", packages=(*TEST_PACKAGES, *PARTNER_PACKAGES))
    session.run("pytest", "-n", "2", "--dist", "loadfile", "-m", "faults", *session.posargs, env=ONE_THREAD)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, style and types."""
    install(session, "all", packages=(*TEST_PACKAGES, *PARTNER_PACKAGES, *LINT_PACKAGES))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")


@nox.session
def telemetry(session: nox.Session) -> None:
    """Run rltelemetry's tests with its own dependencies only: no torch, no mlflow, no envpool."""
    install(session, packages=tuple(TEST_PACKAGES))
    session.run("python", "-c", "import importlib.util as u; assert u.find_spec('torch') is None")
    session.run(
        "pytest", "tests/rltelemetry", "tests/test_layers.py", "-m", "not faults and not compile", *session.posargs
    )


@nox.session
def peers(session: nox.Session) -> None:
    """Install the trainers that ours is compared with, in an environment of their own."""
    session.install(*CONSTRAINTS, "stable-baselines3", "envpool", "gymnasium[mujoco]", "ninja")
    # it asks for another build of torch; what else it needs is little
    session.install("--no-deps", "pufferlib-core")
    session.install(*CONSTRAINTS, "rich", "rich-argparse", "psutil", "setuptools", "nvidia-ml-py", "pyro-ppl")


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks, beside their peers: `nox -s bench -- log_call`, `nox -s bench -- ppo --cases pong-16x32`."""
    install(session, "all", packages=("tensorboard", "wandb", "matplotlib"))
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), session.posargs))
    arguments, env = session.posargs[len(names) :], dict(ONE_THREAD)
    if "ppo" in names:
        session.run(sys.executable, "-m", "nox", "-s", "peers", external=True)
        env["PEERS_PYTHON"] = str(Path(session.virtualenv.location).resolve().parent / "peers" / "bin" / "python")
    for name in names or ["log_call", "rollout"]:
        session.run("python", f"benchmarks/{name}.py", *arguments, env=env)
