"""`torchrun -m trainers ppo`: two processes, one run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rltelemetry.testing import FakeMlflow
from trainers.checkpoint import decode, newest_good

pytestmark = pytest.mark.timeout(600)

NUM_UPDATES = 12
FLAGS = [
    *("--device", "cpu", "--environment.num-envs", "16", "--environment.normalize-obs"),
    *("--training-core.horizon", "32", "--training-core.total-timesteps", str(NUM_UPDATES * 512)),
    *("--evaluation.eval-interval", "4", "--evaluation.num-eval-episodes", "2", "--evaluation.num-envs", "2"),
    *("--checkpointing.interval", "1"),
]


class Torchrun:
    """Two ranks of `ppo`, and whoever watches over them."""

    def __init__(self, folder: Path, uri: str, *flags: str, max_restarts: int = 0) -> None:
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder / "state")}
        launcher = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(max_restarts)]
        where = ["--logging.tracking-uri", uri, "--checkpointing.directory", str(folder / "checkpoints")]
        argv = [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "trainers", "ppo", *where, *flags]
        self.text = ""
        self._process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ, cwd=folder
        )

    def events(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line
            if line.startswith("{"):
                yield json.loads(line)

    def rank(self, number: int) -> int:
        """The process of a rank."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return next(
            int(child) for child in children if f"\0RANK={number}\0" in Path(f"/proc/{child}/environ").read_text()
        )

    def end(self) -> int:
        list(self.events())
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.wait(timeout=120)


def steps(server: FakeMlflow) -> list[int]:
    (run,) = server.runs()
    return sorted(point.step for point in server.points(run.run_id) if point.key == "trainer/entropy")


def test_two_ranks_are_one_run_that_only_the_first_talks_of(tmp_path: Path) -> None:
    with FakeMlflow() as server:
        launched = Torchrun(tmp_path, server.uri, *FLAGS)
        seen = Counter((event["event"], event.get("update")) for event in launched.events())
        assert launched.end() == 0, launched.text
        found = steps(server)
    assert len(found) == len(set(found)) == NUM_UPDATES
    assert 0.9 * NUM_UPDATES * 512 < found[-1] <= NUM_UPDATES * 512, "steps of both"
    assert all(seen["throughput", update] == 1 for update in range(1, NUM_UPDATES + 1))
    newest = newest_good(tmp_path / "checkpoints", pytest.fail)
    checkpoint = decode(newest.content, "x")
    assert newest.update == NUM_UPDATES
    assert len(checkpoint.ranks) == 1
    assert checkpoint.ranks[0]["episodes"]["num_finished"] > 0


@pytest.mark.faults
def test_rank_that_is_killed_comes_back_from_the_last_checkpoint(tmp_path: Path) -> None:
    long = ["--training-core.total-timesteps", str(200 * 512), "--resume", "auto"]
    with FakeMlflow() as server:
        launched_at = time.monotonic()
        launched = Torchrun(tmp_path, server.uri, *FLAGS, *long, max_restarts=3)
        for event in launched.events():
            if event["event"] == "training starts":
                start_s = time.monotonic() - launched_at
            if event.get("update", 0) >= 5:
                os.kill(launched.rank(1), signal.SIGKILL)
                break
        killed_at = time.monotonic()
        for event in launched.events():
            if "goes on from" in event["event"]:
                back_s = time.monotonic() - killed_at
                break
        assert launched.end() == 0, launched.text
        found = steps(server)
    assert back_s < 1.5 * start_s + 5.0, "it takes no more than a start"
    assert len(found) == len(set(found)) >= 200
