"""Stable-Baselines3 as a contestant: its PPO, its networks, gymnasium's environments or envpool's."""

import json
import sys
import time
import warnings
from typing import Any

import envpool
import gymnasium
import numpy as np
import torch
from contest import Case, serve
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

RACE_EVAL_STEPS = 5_000
RACE_TARGET = 475.0


class EnvpoolVecEnv(VecEnv):
    """envpool as SB3 wants it. The dummy step after an episode goes by unmarked: SB3 has no place for it."""

    def __init__(self, task: str, num_envs: int, num_threads: int, seed: int) -> None:
        self._pool = envpool.make_gymnasium(task, num_envs=num_envs, num_threads=num_threads, seed=seed)
        super().__init__(num_envs, self._pool.observation_space, self._pool.action_space)

    def reset(self) -> Any:
        return self._pool.reset()[0]

    def step_async(self, actions: Any) -> None:
        self._pool.send(actions.astype(np.int32))

    def step_wait(self) -> Any:
        obs, reward, terminated, truncated, _ = self._pool.recv()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = terminated | truncated
        for index in np.flatnonzero(done):
            infos[index] = {"terminal_observation": obs[index], "TimeLimit.truncated": bool(truncated[index])}
        return obs, reward, done, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        pass

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return []

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def make_env(case: Case) -> VecEnv:
    if case["image"]:
        return EnvpoolVecEnv(case["task"], case["num_envs"], case["threads"], case["seed"])
    env: VecEnv = make_vec_env(case["task"], n_envs=case["num_envs"], seed=case["seed"])
    return VecNormalize(env, gamma=0.99) if case["normalize"] else env


def make_model(case: Case) -> PPO:
    batch = case["horizon"] * case["num_envs"]
    return PPO(
        "CnnPolicy" if case["image"] else "MlpPolicy",
        make_env(case),
        n_steps=case["horizon"],
        batch_size=batch // case["num_minibatches"],
        n_epochs=case["num_epochs"],
        learning_rate=2.5e-4,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        clip_range_vf=0.2,
        ent_coef=0.01,
        seed=case["seed"],
        device=case["device"],
    )


def race(seed: int) -> float:
    """RL Zoo's values for CartPole-v1 (hyperparams/ppo.yml) to the first evaluation at the target."""
    start = time.perf_counter()
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=seed,
        device="cpu",
    )
    judge = make_vec_env("CartPole-v1", n_envs=10, seed=10_000)
    total, steps = 100_000, 0
    while steps < total:
        # learn() for a part of a run would see all of its schedule: say how much is left by hand
        model._total_timesteps = total
        model.learn(RACE_EVAL_STEPS, reset_num_timesteps=steps == 0, progress_bar=False)
        steps = model.num_timesteps
        model.lr_schedule = lambda _, steps=steps: 1e-3 * (1 - steps / total)
        model.clip_range = lambda _, steps=steps: 0.2 * (1 - steps / total)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its remark that the environments have no Monitor
            mean_return, _ = evaluate_policy(model, judge, n_eval_episodes=20)
        if mean_return >= RACE_TARGET:
            break
    return time.perf_counter() - start


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    warnings.simplefilter("ignore")
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    model = make_model(case)
    batch = case["horizon"] * case["num_envs"]

    def once() -> int:
        model.learn(batch, reset_num_timesteps=False, log_interval=None)
        return batch

    seeds = iter(range(1, 1_000))
    serve(once, lambda: race(next(seeds)))


if __name__ == "__main__":
    main()
