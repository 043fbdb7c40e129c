"""How fast the whole PPO loop steps environments, beside envpool alone; and where the time goes.

    nox -s bench -- rollout
    python benchmarks/rollout.py --tasks CartPole-v1 HalfCheetah-v4 --repeats 5
    python benchmarks/rollout.py --tasks Pong-v5 --num-threads 14 --num-groups 2 --device cuda --precision bf16

Per task, interleaved in one process: `envpool` steps the same pool with fixed actions and does nothing else; `collect`
adds the policy, the checks and the storage; `loop` is the whole training with telemetry into a server in a process of
its own. Each update makes 4 passes over its batch in 4 minibatches; other values are PPO's defaults, and nothing is
compiled. Rates are environment steps per second, medians over the repeats; the ratio is to envpool in the same repeat.
Shares are of the loop's wall time. Telemetry is what the loop itself waits for log calls and spans; the CPU time of
telemetry's own threads stands beside it, as a part of the process's CPU time.
"""

import argparse
import contextlib
import gc
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final, NamedTuple

import numpy as np
import psutil
import torch

import rltelemetry
from trainers.config import PpoConfig, load
from trainers.emit import Emitter
from trainers.envs import RenewableEnv, VectorEnv, make_vector_env
from trainers.evaluation import Evaluator
from trainers.loop import train
from trainers.ppo import Ppo
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import Runtime, prepare

PARTS: Final = ("env", "inference", "learning", "telemetry")

PRESETS: Final = {"Pong-v5": Path("configs/ppo_pong.yaml")}
"""Whose network is taken; elsewhere two layers of 64 units, actor and critic apart."""


class Rates(NamedTuple):
    """One repeat: environment steps per second, shares of the loop, and telemetry's part of the process's CPU time."""

    envpool: float
    collect: float
    loop: float
    shares: dict[str, float]
    telemetry_cpu: float


class Shares:
    """Adds up the time that is spent in methods; the wrapper costs 0.2 us a call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, part: str, owner: Any, *methods: str) -> None:
        for method in methods:
            setattr(owner, method, self._timed(part, getattr(owner, method)))

    def watch_spans(self, owner: Any) -> None:
        """Entering and leaving a span is telemetry; what happens inside is not."""
        span = owner.span

        def timed_span(*args: Any, **inputs: Any) -> AbstractContextManager[Any]:
            inner = span(*args, **inputs)
            return _Span(self._timed("telemetry", inner.__enter__), self._timed("telemetry", inner.__exit__))

        owner.span = self._timed("telemetry", timed_span)

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - start

        return timed


class _Span:
    """A context manager out of its two halves."""

    def __init__(self, enter: Callable[[], Any], leave: Callable[..., Any]) -> None:
        self._enter, self._leave = enter, leave

    def __enter__(self) -> Any:
        return self._enter()

    def __exit__(self, *error: object) -> Any:
        return self._leave(*error)


def config_of(task: str, options: argparse.Namespace) -> PpoConfig:
    preset = load(PRESETS[task], PpoConfig) if task in PRESETS else PpoConfig()
    return PpoConfig.model_validate(
        {
            "environment": {
                "task": task,
                **{name: getattr(options, name) for name in ("num_envs", "num_threads", "num_groups")},
            },
            "training_core": {"horizon": options.horizon, "num_epochs": 4},
            "architecture": preset.architecture,
            "evaluation": {"eval_interval": 0},
            "hardware": {
                "device": options.device,
                "precision": options.precision,
                "torch_threads": options.torch_threads,
                "compile": "none",
            },
        }
    )


def make_env(config: PpoConfig, runtime: Runtime, num_groups: int | None = None) -> VectorEnv:
    environment = config.environment
    return make_vector_env(
        environment.task,
        environment.num_envs,
        runtime.seeds.environment,
        num_threads=environment.num_threads,
        num_groups=environment.num_groups if num_groups is None else num_groups,
    )


def envpool_rate(config: PpoConfig, runtime: Runtime, seconds: float) -> float:
    """Steps per second of the bare pool, made and threaded as the trainer's is."""
    env = make_env(config, runtime, num_groups=1)
    env.reset()
    group, _ = env.groups[0]
    pool, actions = group._pool, group._actions._buffer.copy()
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(32):
            pool.step(actions)
        steps += 32 * config.environment.num_envs
    env.close()
    return steps / elapsed


def collect_rate(config: PpoConfig, runtime: Runtime, seconds: float) -> float:
    """Steps per second of rollouts that nobody learns from."""
    env = make_env(config, runtime)
    algorithm = Ppo(env.spec, config, runtime)
    storage, statistics_ = algorithm.make_storage(env.num_envs), EpisodeStatistics(env.num_envs)
    collect(algorithm, env, storage, statistics_)
    steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        collect(algorithm, env, storage, statistics_)
        steps += config.batch_size
    env.close()
    return steps / elapsed


def loop_rate(config: PpoConfig, runtime: Runtime, num_updates: int, tracer: Any) -> tuple[float, dict[str, float]]:
    """Steps per second of a whole training without evaluation, and the shares of its time."""
    env = RenewableEnv(lambda _update: make_env(config, runtime))
    algorithm, emitter, shares = Ppo(env.current.spec, config, runtime), Emitter("ppo", tracer), Shares()
    evaluator = Evaluator(config.evaluation, config.environment)
    train(algorithm, env, evaluator, Emitter("warm", tracer), 2)
    for group, _ in env.current.groups:
        shares.watch("env", group, "send", "receive")
    shares.watch("inference", algorithm, "begin_rollout", "act")
    shares.watch("learning", algorithm, "update")
    shares.watch("telemetry", emitter, "trainer", "actor", "misc", "evaluator")
    shares.watch_spans(emitter)
    gc.collect()
    start = time.perf_counter()
    train(algorithm, env, evaluator, emitter, num_updates)
    elapsed = time.perf_counter() - start
    env.close()
    return num_updates * config.batch_size / elapsed, {part: shares.seconds[part] / elapsed for part in PARTS}


def telemetry_cpu_s() -> float:
    """CPU seconds of the telemetry's threads so far."""
    ours = {thread.native_id for thread in threading.enumerate() if thread.name.startswith("rltelemetry")}
    return sum(thread.user_time + thread.system_time for thread in psutil.Process().threads() if thread.id in ours)


@contextlib.contextmanager
def telemetry_in_use() -> Iterator[rltelemetry.Telemetry]:
    """A pipeline into a server that runs elsewhere, so that its CPU time is not counted."""
    code = "import sys; from rltelemetry.testing import FakeMlflow\n"
    code += "with FakeMlflow() as server: print(server.uri, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        uri = process.stdout.readline().strip()
        with rltelemetry.configure(tracking_uri=uri, console="off", trace_interval_s=1.0) as telemetry:
            telemetry.wait_ready(30)
            yield telemetry
        process.stdin.close()


def measure(config: PpoConfig, runtime: Runtime, seconds: float, tracer: Any) -> Rates:
    pool, rollouts = envpool_rate(config, runtime, seconds), collect_rate(config, runtime, seconds)
    num_updates = max(2, int(seconds * 0.3 * rollouts / config.batch_size))
    process_before, telemetry_before = time.process_time(), telemetry_cpu_s()
    loop, shares = loop_rate(config, runtime, num_updates, tracer)
    cpu = (telemetry_cpu_s() - telemetry_before) / (time.process_time() - process_before)
    return Rates(pool, rollouts, loop, shares, cpu)


def report(config: PpoConfig, repeats: Sequence[Rates]) -> None:
    def median(value: Callable[[Rates], float]) -> float:
        return statistics.median(map(value, repeats))

    shares = {part: median(lambda rates, part=part: rates.shares[part]) for part in PARTS}  # type: ignore[misc]
    print(
        f"{config.environment.task:16} {config.environment.num_envs:5} x {config.training_core.horizon:<4}"
        f"{median(lambda rates: rates.envpool):10,.0f} {median(lambda rates: rates.collect):10,.0f} "
        f"{median(lambda rates: rates.collect / rates.envpool):6.0%} {median(lambda rates: rates.loop):9,.0f} "
        f"{median(lambda rates: rates.loop / rates.envpool):6.1%}   "
        + " ".join(f"{shares[part]:9.1%}" for part in PARTS)
        + f" {1 - sum(shares.values()):7.1%} {median(lambda rates: rates.telemetry_cpu):9.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["CartPole-v1", "Pendulum-v1", "HalfCheetah-v4"])
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=32)
    parser.add_argument("--num-threads", type=int, default=0, help="of the pool; 0 leaves it to the trainer")
    parser.add_argument("--num-groups", type=int, default=1, help="that step in turns; envpool alone steps as one")
    parser.add_argument("--device", default="cpu", help="where networks are: cpu or cuda")
    parser.add_argument("--precision", default="float32", help="of the hidden layers: float32 or bf16")
    parser.add_argument("--torch-threads", type=int, default=1, help="of networks on the CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each part of each repeat")
    options = parser.parse_args()
    print(
        f"{'task':16} {'envs x T':>11}{'envpool/s':>11} {'collect/s':>10} {'ratio':>6} {'loop/s':>9} {'ratio':>6}   "
        + " ".join(f"{part:>9}" for part in PARTS)
        + f" {'other':>7} {'tel. CPU':>9}"
    )
    with telemetry_in_use() as telemetry:
        for task in options.tasks:
            config = config_of(task, options)
            runtime = prepare(config.hardware, seed=1)
            report(config, [measure(config, runtime, options.seconds, telemetry) for _ in range(options.repeats)])
    facts = {"python": sys.version.split()[0], "numpy": np.__version__, "repeats": options.repeats}
    if options.device != "cpu":
        facts["device"] = torch.cuda.get_device_name(options.device)
    print(json.dumps({**facts, "command": f"benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip()}))


if __name__ == "__main__":
    main()
