"""Proximal Policy Optimisation (Schulman et al. 2017) on the shared rollout core."""

from trainers.ppo.learner import Ppo, UpdateMetrics

__all__ = ["Ppo", "UpdateMetrics"]
