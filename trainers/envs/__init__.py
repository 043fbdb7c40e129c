"""Vectorised environments: envpool behind one typed face, its traps closed here and nowhere else."""

from trainers.envs.group import EnvGroup, Step
from trainers.envs.limits import longest_episode
from trainers.envs.registry import make_vector_env, task_config
from trainers.envs.renewable import RenewableEnv
from trainers.envs.spec import ActionSpec, EnvSpec
from trainers.envs.vector import VectorEnv

__all__ = [
    "ActionSpec",
    "EnvGroup",
    "EnvSpec",
    "RenewableEnv",
    "Step",
    "VectorEnv",
    "longest_episode",
    "make_vector_env",
    "task_config",
]
