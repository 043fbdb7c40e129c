"""PufferLib 3.0 as a contestant: its PuffeRL loop and its default network, on envpool.

pufferlib-core on PyPI brings the Python of 3.0 and a C++ kernel that is built for another torch; the kernel's source
is in the package, and is built here for this one. Its dashboard is left out.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import envpool
import gymnasium
import numpy as np
import torch
import torch.utils.cpp_extension
from contest import Case, serve


def load_kernel() -> None:
    """Build the advantage kernel; pufferlib takes it as its extension."""
    import importlib.util

    spec = importlib.util.find_spec("pufferlib")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "extensions" / "pufferlib.cpp"
    torch.utils.cpp_extension.load("puffer_kernel", [str(source)], is_python_module=False, extra_cflags=["-O3"])
    sys.modules["pufferlib._C"] = types.ModuleType("pufferlib._C")


def make_trainer(case: Case) -> Any:
    load_kernel()
    import pufferlib
    import pufferlib.models
    import pufferlib.pufferl

    class Pool(pufferlib.PufferEnv):  # type: ignore[misc]
        """envpool as a native environment: all of its environments at once."""

        def __init__(self) -> None:
            self.pool = envpool.make_gymnasium(case["task"], num_envs=case["num_envs"], num_threads=1, seed=1)
            self.single_observation_space = self.pool.observation_space
            self.single_action_space = self.pool.action_space
            self.num_agents = case["num_envs"]
            super().__init__()

        @property
        def agents_per_batch(self) -> int:
            return int(self.num_agents)

        def reset(self, seed: int | None = None) -> Any:
            self.observations[:] = self.pool.reset()[0]
            return self.observations, []

        def step(self, actions: Any) -> Any:
            obs, reward, terminated, truncated, _ = self.pool.step(np.asarray(actions))
            self.observations[:], self.rewards[:] = obs, reward
            self.terminals[:], self.truncations[:] = terminated, truncated
            return self.observations, self.rewards, self.terminals, self.truncations, []

        def close(self) -> None:
            pass

    pufferlib.pufferl.PuffeRL.print_dashboard = lambda *_, **__: None
    env = Pool()
    batch = case["num_envs"] * case["horizon"]
    settings = {
        "seed": 1,
        "torch_deterministic": False,
        "device": "cpu",
        "cpu_offload": False,
        "batch_size": batch,
        "bptt_horizon": case["horizon"],
        "minibatch_size": batch // case["num_minibatches"],
        "max_minibatch_size": batch,
        "update_epochs": case["num_epochs"],
        "use_rnn": False,
        "compile": False,
        "optimizer": "adam",
        "learning_rate": 2.5e-4,
        "anneal_lr": True,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_eps": 1e-5,
        "total_timesteps": 100_000_000,
        "precision": "float32",
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_coef": 0.2,
        "vf_coef": 0.5,
        "vf_clip_coef": 0.2,
        "max_grad_norm": 0.5,
        "ent_coef": 0.01,
        "prio_alpha": 0.0,
        "prio_beta0": 1.0,
        "vtrace_rho_clip": 1.0,
        "vtrace_c_clip": 1.0,
        "checkpoint_interval": 10**9,
        "data_dir": ".",
        "env": case["task"],
    }
    return pufferlib.pufferl.PuffeRL(settings, env, pufferlib.models.Default(env))


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    trainer = make_trainer(case)

    def once() -> int:
        trainer.evaluate()
        trainer.train()
        return int(case["num_envs"] * case["horizon"])

    serve(once)
    trainer.utilization.stop()


if __name__ == "__main__":
    main()
