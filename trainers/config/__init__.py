"""The configuration of a run: its models, and how a YAML file becomes one."""

from trainers.config.changes import Change, changes, is_free
from trainers.config.loading import dump, load
from trainers.config.ppo import PpoConfig
from trainers.config.run import RunConfig, impossible
from trainers.config.sections import (
    MAX_SEED,
    ArchitectureConfig,
    CheckpointingConfig,
    EnvironmentConfig,
    EvaluationConfig,
    HardwareConfig,
    LoggingConfig,
    OptimizationConfig,
    TrainingCoreConfig,
)

__all__ = [
    "MAX_SEED",
    "ArchitectureConfig",
    "Change",
    "CheckpointingConfig",
    "EnvironmentConfig",
    "EvaluationConfig",
    "HardwareConfig",
    "LoggingConfig",
    "OptimizationConfig",
    "PpoConfig",
    "RunConfig",
    "TrainingCoreConfig",
    "changes",
    "dump",
    "impossible",
    "is_free",
    "load",
]
