"""How fast PPO trains beside its peers, and how soon CartPole is solved: one run, contestants in turns.

    nox -s bench -- ppo
    python benchmarks/ppo.py --peers PYTHON --cases cartpole-64x32 pong-16x32 --repeats 5
    python benchmarks/ppo.py --peers PYTHON --device cuda --cases pong-64x128 halfcheetah-1024x16

Each contestant (benchmarks/peers/) is a process of its own, warmed up before the first measurement; they train in
turns, so that the machine's moods fall on all alike. Rates are environment steps per second of collecting and
learning, medians of the repeats; a ratio is the median of ours over theirs in the same repeat. Task, environments,
horizon, epochs, minibatches and network are the same; gymnasium's own environments for SB3 (envpool's for Pong), and
envpool's and its own default network for PufferLib. Dummy steps after an episode's end are not counted as ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final, NamedTuple

import torch

PEERS: Final = Path(__file__).resolve().parent / "peers"

Case = dict[str, Any]


class Contestant(NamedTuple):
    """Who trains: a script, with settings of its own beside the case's, and the environment that it runs in."""

    name: str
    script: str
    settings: dict[str, Any]
    is_peer: bool


PLAIN: Final = Contestant("ours, plain", "ours.py", {"compile": "none"}, is_peer=False)
FAR: Final = Contestant(
    "ours, plain, far threads", "ours.py", {"compile": "none", "near_threads": False}, is_peer=False
)
"""As it would be if the pool's thread stayed where the scheduler puts it."""
COMPILED: Final = Contestant("ours, compiled", "ours.py", {"compile": "default"}, is_peer=False)
GROUPS: Final = Contestant(
    "ours, compiled, 2 groups", "ours.py", {"compile": "default", "num_groups": 2}, is_peer=False
)
HALF: Final = Contestant("ours, bf16", "ours.py", {"compile": "none", "precision": "bf16"}, is_peer=False)
CAPTURED: Final = Contestant("ours, captured", "ours.py", {"compile": "none", "cuda_graphs": True}, is_peer=False)
BOTH: Final = Contestant(
    "ours, compiled, captured", "ours.py", {"compile": "default", "cuda_graphs": True}, is_peer=False
)
ALL: Final = Contestant(
    "ours, both, bf16", "ours.py", {"compile": "default", "cuda_graphs": True, "precision": "bf16"}, is_peer=False
)
SB3: Final = Contestant("SB3", "sb3.py", {}, is_peer=True)
PUFFER: Final = Contestant("PufferLib 3.0", "puffer.py", {}, is_peer=True)

SMALL: Final = {"num_epochs": 4, "num_minibatches": 4, "normalize": False, "image": False, "threads": 1, "seed": 1}
CASES: Final[dict[str, tuple[Case, tuple[Contestant, ...]]]] = {
    "cartpole-64x32": (
        {**SMALL, "task": "CartPole-v1", "num_envs": 64, "horizon": 32},
        (PLAIN, FAR, COMPILED, GROUPS, SB3, PUFFER),
    ),
    "cartpole-4x128": (
        {**SMALL, "task": "CartPole-v1", "num_envs": 4, "horizon": 128},
        (PLAIN, FAR, COMPILED, SB3, PUFFER),
    ),
    "pendulum-64x32": (
        {**SMALL, "task": "Pendulum-v1", "num_envs": 64, "horizon": 32, "normalize": True},
        (PLAIN, COMPILED, GROUPS, SB3),
    ),
    "halfcheetah-64x32": (
        {**SMALL, "task": "HalfCheetah-v4", "num_envs": 64, "horizon": 32, "normalize": True},
        (PLAIN, COMPILED, GROUPS, SB3),
    ),
    "pong-16x32": (
        {**SMALL, "task": "Pong-v5", "num_envs": 16, "horizon": 32, "image": True, "threads": 2},
        (PLAIN, HALF, SB3),
    ),
    # what a GPU is for: many environments, and images
    "cartpole-1024x32": (
        {**SMALL, "task": "CartPole-v1", "num_envs": 1024, "horizon": 32},
        (PLAIN, CAPTURED, BOTH),
    ),
    "halfcheetah-1024x16": (
        {**SMALL, "task": "HalfCheetah-v4", "num_envs": 1024, "horizon": 16, "normalize": True, "threads": 8},
        (PLAIN, CAPTURED, BOTH),
    ),
    "pong-64x128": (
        {**SMALL, "task": "Pong-v5", "num_envs": 64, "horizon": 128, "image": True, "threads": 8},
        (PLAIN, CAPTURED, BOTH, ALL, SB3),
    ),
}
ON_A_GPU: Final = ("cartpole-1024x32", "halfcheetah-1024x16", "pong-64x128")


class Process:
    """A contestant at work."""

    def __init__(self, contestant: Contestant, case: Case, peers_python: str) -> None:
        self.contestant = contestant
        python = peers_python if contestant.is_peer else sys.executable
        threads = str(case["threads"])
        self._process = subprocess.Popen(
            [python, str(PEERS / contestant.script), json.dumps({**case, **contestant.settings})],
            stdin=PIPE,
            stdout=PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )

    def ask(self, **request: Any) -> dict[str, float]:
        """Send a request and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self._process.stdout.readline() or "null")
        if answer is None:
            raise SystemExit(f"{self.contestant.name} has died; run {self.contestant.script} by hand to see why")
        return answer

    def rate(self, seconds: float) -> float:
        """Environment steps per second."""
        answer = self.ask(what="train", seconds=seconds)
        return answer["steps"] / answer["seconds"]

    def warm_up(self) -> float:
        """Imports, compilation, first allocations; returns the seconds they took."""
        start = time.perf_counter()
        self.rate(0.1)
        self.rate(0.1)
        return time.perf_counter() - start

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def compare(name: str, peers_python: str, device: str, repeats: int, seconds: float) -> None:
    """Measure one case and print its table."""
    case, contestants = CASES[name]
    case = {**case, "device": device}
    present = [contestant for contestant in contestants if peers_python or not contestant.is_peer]
    processes = [Process(contestant, case, peers_python) for contestant in present]
    with ThreadPoolExecutor(len(processes)) as pool:  # all at once: nothing is measured yet
        for process, took in zip(processes, pool.map(Process.warm_up, processes), strict=True):
            print(f"  {process.contestant.name}: ready after {took:.0f} s", flush=True)
    rates = [[process.rate(seconds) for process in processes] for _ in range(repeats)]
    for process in processes:
        process.close()
    peers = [index for index, contestant in enumerate(present) if contestant.is_peer]
    titles = [f"over {present[index].name}" for index in peers]
    print(f"\n| {name:24} | {'steps/s':>9} |" + "".join(f" {title:>18} |" for title in titles))
    print(f"|{'-' * 26}|{'-' * 11}|" + f"{'-' * 20}|" * len(peers))
    for index, contestant in enumerate(present):
        ratios = [statistics.median(row[index] / row[peer] for row in rates) for peer in peers]
        rate = statistics.median(row[index] for row in rates)
        print(f"| {contestant.name:24} | {rate:9,.0f} |" + "".join(f" {ratio:17.2f}x |" for ratio in ratios))
    print(flush=True)


def race(peers_python: str, seeds: int) -> None:
    """Seconds to an evaluation of 475 on CartPole-v1, ours with the quick preset, SB3 with RL Zoo's values."""
    case = {**SMALL, "task": "CartPole-v1", "num_envs": 64, "horizon": 32, "device": "cpu"}
    ours, theirs = Process(PLAIN, case, peers_python), Process(SB3, case, peers_python)
    ours.warm_up()
    theirs.warm_up()
    times = [(ours.ask(what="race")["seconds"], theirs.ask(what="race")["seconds"]) for _ in range(seeds)]
    ours.close()
    theirs.close()
    print("| CartPole-v1, seconds to an evaluation of 475 | ours | SB3, RL Zoo | theirs over ours |")
    print("|---|---|---|---|")
    for seed, (mine, other) in enumerate(times, 1):
        print(f"| seed {seed} | {mine:.1f} | {other:.1f} | {other / mine:.1f}x |")
    middle = [statistics.median(column) for column in zip(*times, strict=True)]
    print(f"| median | {middle[0]:.1f} | {middle[1]:.1f} | {statistics.median(b / a for a, b in times):.1f}x |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=os.environ.get("PEERS_PYTHON", ""), help="python that has the peers")
    on_a_cpu = [*(name for name in CASES if name not in ON_A_GPU), "race"]
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "race"], default=on_a_cpu)
    parser.add_argument("--device", default="cpu", help="where networks are: cpu or cuda; the race is a CPU's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each contestant in each repeat")
    options = parser.parse_args(arguments)
    for name in options.cases:
        if name != "race":
            compare(name, options.peers, options.device, options.repeats, options.seconds)
        elif options.peers:
            race(options.peers, seeds=3)
    facts = {"python": sys.version.split()[0], "torch": torch.__version__, "cores": os.cpu_count()}
    if options.device != "cpu":
        facts["device"] = torch.cuda.get_device_name(options.device)
    print(json.dumps({**facts, "repeats": options.repeats, "command": " ".join(["benchmarks/ppo.py", *sys.argv[1:]])}))


if __name__ == "__main__":
    main()
