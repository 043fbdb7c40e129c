"""How fast SPO searches and learns, beside the bare work that cannot be left out.

    nox -s bench -- spo
    python benchmarks/spo.py --variants plain compiled compiled-bf16 --threads 2 --repeats 7
    python benchmarks/spo.py --device cuda --variants plain captured compiled compiled-bf16

CartPole-v1, 64 environments, 16 particles, depth 4, MLP 256 x 2, as the JAX reference was measured. Everything is
interleaved in one process; numbers are medians over the repeats, ratios those within a repeat.

search     one vector step of all environments: evaluations of actor or critic per second, beside the same forward
           passes of the same shapes on fixed tensors (bare). The tree needs fewer evaluations for the same result;
           `as particles` counts what 16 particles would have needed.
learner    one gradient step: 32 x 32 steps in sequences, as the reference does, or 256 single steps with cached
           targets; beside a bare step of the same rows on fixed tensors (forward, two simple losses, backward, clip,
           Adam; for sequences with the two passes of the target networks).
loop       environment steps per second of rollouts of 32 steps, with 128 and with 1 gradient step of 32 x 32, and with
           the cached learner at replay ratio 32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from trainers.config import SpoConfig
from trainers.envs import make_vector_env
from trainers.optim import minimize
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import prepare
from trainers.spo import Spo

NUM_ENVS: Final = 64
HORIZON: Final = 32
REFERENCE: Final = {128: 1206, 1: 6095}
"""Environment steps per second of EdanToledo/Stoix @ 8fff19c, ff_spo, JAX on a quiet machine with 2 cores, by gradient
steps per rollout; another machine than this one."""

VARIANTS: Final = {
    "plain": {"compile": "none", "cuda_graphs": False},
    "bf16": {"compile": "none", "cuda_graphs": False, "precision": "bf16"},
    "captured": {"compile": "none"},
    "compiled": {"compile": "default"},
    "compiled-bf16": {"compile": "default", "precision": "bf16"},
}
"""How it is executed; on a GPU, `captured` and both `compiled` are replayed as CUDA graphs."""
SEQUENCES: Final = {"targets": "sequences", "batch_size": 1024, "target_update": 0.005, "replay_size": 65_536}
CACHED: Final = {"targets": "cached", "batch_size": 256, "replay_size": 8192}


class How(NamedTuple):
    """How everything is executed and measured."""

    variant: str
    device: str
    threads: int
    repeats: int


class Case:
    """A learner that has seen two rollouts."""

    def __init__(self, how: How, mode: str, spo: dict[str, Any], replay_ratio: float) -> None:
        hardware = {"device": how.device, "torch_threads": how.threads, **VARIANTS[how.variant]}
        self.config = SpoConfig.model_validate(
            {
                "environment": {"num_envs": NUM_ENVS},
                "training_core": {"horizon": HORIZON},
                "search": {"mode": mode},
                "spo": {**spo, "replay_ratio": replay_ratio},
                "hardware": hardware,
            }
        )
        runtime = prepare(self.config.hardware, 1)
        self.env = make_vector_env("CartPole-v1", NUM_ENVS, 1)
        self.spo = Spo(self.env.spec, self.config, runtime)
        self.storage = self.spo.make_storage(NUM_ENVS)
        self.episodes = EpisodeStatistics(NUM_ENVS)
        for _ in range(2):
            self.update()

    def update(self) -> None:
        collect(self.spo, self.env, self.storage, self.episodes)
        self.spo.update(self.storage, 0.0)

    @torch.inference_mode()
    def search(self) -> None:
        for t in range(HORIZON):
            self.spo.act(self.storage, t, slice(None))

    def evaluations(self) -> int:
        """Forward passes of one observation through actor or critic, in one vector step."""
        return sum(rows for _, rows in self.passes())

    def passes(self) -> list[tuple[str, int]]:
        """The forward passes of one vector step: which network, and how many rows."""
        depth = self.config.search.search_depth
        is_tree = self.spo._plan.num_futures != self.config.search.num_particles or self.config.search.mode == "tree"
        rows = [NUM_ENVS * (2 ** (t + 1) if is_tree else self.config.search.num_particles) for t in range(depth)]
        return [
            ("policy", NUM_ENVS),
            ("value", NUM_ENVS),
            *(("value", count) for count in rows),
            *(("policy", count) for count in rows[:-1]),
        ]

    def bare_search(self) -> Callable[[], None]:
        network = self.spo.network
        device = self.storage.obs.device
        rows = [(getattr(network, name), torch.randn(count, 4, device=device)) for name, count in self.passes()]

        def run() -> None:
            with torch.inference_mode():
                for _ in range(HORIZON):
                    for evaluate, obs in rows:
                        evaluate(obs)

        return run

    def learn(self) -> None:
        replay = self.spo._replay
        assert replay is not None
        for batch in self.spo._batches.draw(replay):
            self.spo._take_step(batch)
            if self.config.spo.targets == "sequences":
                self.spo._follow()

    def bare_learn(self) -> Callable[[], None]:
        """As many steps on fixed tensors."""
        spo, size, steps = self.spo, self.config.spo.batch_size, self.config.num_gradient_steps()
        device = self.storage.obs.device
        obs, target = torch.randn(size, 4, device=device), torch.randn(size, device=device)
        action = torch.randint(2, (size,), device=device)

        def step() -> Tensor:
            if self.config.spo.targets == "sequences":
                with torch.no_grad():
                    spo._target.value(torch.cat([obs, obs]))
                    spo._target.policy(obs)
            outputs, value = spo.network(obs)
            policy_loss = torch.nn.functional.cross_entropy(outputs, action)
            value_loss = (value - target).square().mean()
            return minimize(spo._optimizers[:2], (policy_loss, value_loss))[0]

        def run() -> None:
            for _ in range(steps):
                step()

        return run


def seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(work: Callable[[], None], bare: Callable[[], None], repeats: int) -> tuple[float, float, float]:
    """Medians of the seconds of both, and of bare / work within a repeat."""
    work(), bare()
    pairs = [(seconds(work), seconds(bare)) for _ in range(repeats)]
    ratios = [b / a for a, b in pairs]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), statistics.median(ratios)


def report_search(how: How) -> None:
    as_particles = 0
    for mode in ("particles", "tree"):
        case = Case(how, mode, CACHED, 0.001)
        count = case.evaluations() * HORIZON
        as_particles = as_particles or count
        with torch.inference_mode():
            case.spo.begin_rollout(case.storage)
        took, bare, ratio = compare(case.search, case.bare_search(), how.repeats)
        each, rate, bare_rate = 1000 * took / HORIZON, count / took / 1000, count / bare / 1000
        print(
            f"| {how.variant:14} | search, {mode:9} | {each:8.2f} ms | {rate:7.0f}k evals/s "
            f"| {bare_rate:7.0f}k evals/s | {ratio:5.0%} | as particles {as_particles / took / 1000:6.0f}k |",
            flush=True,
        )
        case.env.close()


def report_learner(how: How) -> None:
    for name, spo, ratio_ in (("sequences 32x32", SEQUENCES, 8.0), ("cached 256", CACHED, 4.0)):
        case = Case(how, "tree", spo, ratio_)
        steps = case.config.num_gradient_steps()
        took, bare, ratio = compare(case.learn, case.bare_learn(), how.repeats)
        print(
            f"| {how.variant:14} | {name:17} | {1000 * took / steps:8.2f} ms | {steps / took:7.0f} steps/s  "
            f"| {steps / bare:7.0f} steps/s  | {ratio:5.0%} | {'':20} |",
            flush=True,
        )
        case.env.close()


def report_loop(how: How) -> None:
    for mode in ("particles", "tree"):
        rates = {}
        for name, spo, ratio in (("128", SEQUENCES, 64.0), ("1", SEQUENCES, 0.5), ("cached", CACHED, 32.0)):
            case = Case(how, mode, spo, ratio)
            took = statistics.median(seconds(case.update) for _ in range(how.repeats))
            rates[name] = NUM_ENVS * HORIZON / took
            case.env.close()
        print(
            f"| {how.variant:14} | {mode:9} | {rates['128']:7.0f} ({rates['128'] / REFERENCE[128]:4.2f}) "
            f"| {rates['1']:7.0f} ({rates['1'] / REFERENCE[1]:4.2f}) | {rates['cached']:7.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["plain", "bf16"])
    parser.add_argument("--threads", type=int, default=2, help="torch's")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--parts", nargs="+", choices=["search", "learner", "loop"], default=["search", "learner", "loop"]
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    hows = [How(variant, options.device, options.threads, options.repeats) for variant in options.variants]
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{options.threads} threads"
    print(f"torch {torch.__version__}, {where}, {NUM_ENVS} environments, rollouts of {HORIZON}\n")
    if {"search", "learner"} & set(options.parts):
        print(f"| {'variant':14} | {'what':17} | {'each':11} | {'rate':16} | {'bare':16} | ratio | {'':20} |")
        print(f"|{'-' * 16}|{'-' * 19}|{'-' * 13}|{'-' * 18}|{'-' * 18}|{'-' * 7}|{'-' * 22}|")
    for how in hows:
        if "search" in options.parts:
            report_search(how)
        if "learner" in options.parts:
            report_learner(how)
    if "loop" in options.parts:
        print("\nenvironment steps per second (and beside the JAX reference, 1206 and 6095, on another machine)\n")
        print("| variant        | search    | 128 x 32x32    | 1 x 32x32      | cached  |")
        print("|----------------|-----------|----------------|----------------|---------|")
        for how in hows:
            report_loop(how)


if __name__ == "__main__":
    main()
