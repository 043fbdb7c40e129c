"""The configuration of a run: its models, and how a YAML file becomes one."""

from trainers.config.loading import dump, load
from trainers.config.ppo import PpoConfig
from trainers.config.run import RunConfig, impossible
from trainers.config.sections import (
    ArchitectureConfig,
    EnvironmentConfig,
    EvaluationConfig,
    HardwareConfig,
    LoggingConfig,
    OptimizationConfig,
    TrainingCoreConfig,
)

__all__ = [
    "ArchitectureConfig",
    "EnvironmentConfig",
    "EvaluationConfig",
    "HardwareConfig",
    "LoggingConfig",
    "OptimizationConfig",
    "PpoConfig",
    "RunConfig",
    "TrainingCoreConfig",
    "dump",
    "impossible",
    "load",
]
