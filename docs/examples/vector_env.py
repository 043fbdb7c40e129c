"""Gymnasium's vector environments: one wrapper, and the statistics of episodes are in MLflow.

python docs/examples/vector_env.py 20000
"""

import sys

import gymnasium as gym

import rltelemetry
from rltelemetry.compat.gymnasium import EpisodeTelemetry

total_timesteps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
with rltelemetry.configure(service_name="vector-env", run_name="random CartPole-v1"):
    envs = EpisodeTelemetry(gym.make_vec("CartPole-v1", num_envs=8))
    envs.reset(seed=1)
    envs.action_space.seed(1)
    while envs.timesteps < total_timesteps:
        envs.step(envs.action_space.sample())
    envs.close()
