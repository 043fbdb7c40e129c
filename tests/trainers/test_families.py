"""PPO takes one update on every kind of task that envpool has for one player."""

import numpy as np
import pytest
import torch

from trainers.config import PpoConfig
from trainers.envs import make_vector_env
from trainers.ppo import Ppo
from trainers.rollout import EpisodeStatistics, collect
from trainers.runtime import Runtime, spawn_seeds

NUM_ENVS, HORIZON = 2, 6

CLASSIC = ("CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "Acrobot-v1")
TOY_TEXT = ("Catch-v0", "FrozenLake-v1", "Taxi-v3", "NChain-v0", "CliffWalking-v1", "Blackjack-v1")
BOX2D = ("BipedalWalker-v3", "LunarLander-v3", "LunarLanderContinuous-v3", "CarRacing-v3")
MUJOCO = ("HalfCheetah-v4", "Ant-v5", "Humanoid-v4", "CheetahRun-v1", "HumanoidRun-v1", "ReacherEasy-v1")
ROBOTS = ("PandaPickCube-v1", "MetaWorld/Reach-v3", "MyoHandAirplaneFixed-v0", "FetchReach-v4", "HandReach-v3")
IMAGES = ("Pong-v5", "Breakout-v5", "gfootball/academy_empty_goal-v1", "D1Basic-v1")
GRIDS = ("MiniGrid-DoorKey-8x8-v0", "BabyAI-BossLevel-v0", "highway-v0", "parking-v0", "intersection-v0", "Play2048-v1")
JUMANJI_CHOICES = ("BinPack-v2", "CVRP-v1", "FlatPack-v0", "Game2048-v1", "GraphColoring-v1", "Knapsack-v1", "Maze-v0")
JUMANJI_GRIDS = ("Minesweeper-v0", "PacMan-v1", "RubiksCube-v0", "SlidingTilePuzzle-v0", "Snake-v1", "Sokoban-v0")
JUMANJI_PLANS = ("JobShop-v0", "MMST-v0", "MultiCVRP-v0", "Sudoku-v0", "TSP-v1", "Tetris-v0")
JUMANJI_TEAMS = ("Cleaner-v0", "Connector-v2", "LevelBasedForaging-v0", "RobotWarehouse-v0", "SearchAndRescue-v0")
JUMANJI = (*JUMANJI_CHOICES, *JUMANJI_GRIDS, *JUMANJI_PLANS, *JUMANJI_TEAMS)


@pytest.mark.parametrize("task", [*CLASSIC, *TOY_TEXT, *BOX2D, *MUJOCO, *ROBOTS, *IMAGES, *GRIDS, *JUMANJI])
def test_one_update(task: str) -> None:
    config = PpoConfig.model_validate(
        {
            "environment": {"task": task, "num_envs": NUM_ENVS, "normalize_obs": True, "normalize_reward": True},
            "training_core": {
                "horizon": HORIZON,
                "num_epochs": 1,
                "num_minibatches": 2,
                "entropy_coef": 0.01,
                "total_timesteps": 100,
            },
        }
    )
    seeds = spawn_seeds(1)
    env = make_vector_env(task, NUM_ENVS, seeds.environment, num_threads=1)
    ppo = Ppo(env.spec, config, Runtime(torch.device("cpu"), seeds))
    storage = ppo.make_storage(NUM_ENVS)
    for _ in range(2):
        collect(ppo, env, storage, EpisodeStatistics(NUM_ENVS))
        metrics = ppo.update(storage, 0.0)
    assert metrics.num_gradient_steps == 2
    assert metrics.entropy >= 0.0 or env.spec.action.kind == "continuous"
    env.step(ppo.deterministic_policy()(storage.obs[-1].numpy(), np.zeros(env.num_envs, int)))
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in ppo.network.parameters())
