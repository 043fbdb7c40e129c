"""Stable-Baselines3 with one callback: what its logger dumps is in MLflow.

python docs/examples/sb3_ppo.py 20000
"""

import sys

from stable_baselines3 import PPO

from rltelemetry.compat.sb3 import TelemetryCallback

total_timesteps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
model = PPO("MlpPolicy", "CartPole-v1", n_steps=256, batch_size=64, seed=1, device="cpu")
model.learn(total_timesteps, callback=TelemetryCallback(run_name="sb3 CartPole-v1"))
