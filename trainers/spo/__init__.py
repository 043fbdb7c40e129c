"""Sequential Monte Carlo Policy Optimisation (Macfarlane et al. 2024) on exact simulators and the shared core."""

from trainers.spo.learner import Spo, UpdateMetrics

__all__ = ["Spo", "UpdateMetrics"]
