"""Vectorised environments: envpool behind one typed face, its traps closed here and nowhere else."""

from trainers.envs.group import EnvGroup, Step
from trainers.envs.registry import make_vector_env
from trainers.envs.spec import ActionSpec, EnvSpec
from trainers.envs.vector import VectorEnv

__all__ = ["ActionSpec", "EnvGroup", "EnvSpec", "Step", "VectorEnv", "make_vector_env"]
