"""Vectorised environments: envpool behind one typed face, its traps closed here and nowhere else."""

from trainers.envs.registry import make_vector_env
from trainers.envs.spec import ActionSpec, EnvSpec, Leaf
from trainers.envs.vector import Step, VectorEnv

__all__ = ["ActionSpec", "EnvSpec", "Leaf", "Step", "VectorEnv", "make_vector_env"]
