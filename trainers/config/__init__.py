"""The configuration of a run: its models, and how a YAML file becomes one."""

from trainers.config.changes import Change, changes, is_free
from trainers.config.loading import dump, load
from trainers.config.operation import CheckpointingConfig, EvaluationConfig, HardwareConfig, LoggingConfig
from trainers.config.ppo import PpoConfig
from trainers.config.run import RunConfig, impossible
from trainers.config.sections import (
    MAX_SEED,
    ArchitectureConfig,
    CoreConfig,
    EnvironmentConfig,
    OptimizationConfig,
    TrainingCoreConfig,
)
from trainers.config.spo import SearchConfig, SpoConfig, SpoSection

__all__ = [
    "MAX_SEED",
    "ArchitectureConfig",
    "Change",
    "CheckpointingConfig",
    "CoreConfig",
    "EnvironmentConfig",
    "EvaluationConfig",
    "HardwareConfig",
    "LoggingConfig",
    "OptimizationConfig",
    "PpoConfig",
    "RunConfig",
    "SearchConfig",
    "SpoConfig",
    "SpoSection",
    "TrainingCoreConfig",
    "changes",
    "dump",
    "impossible",
    "is_free",
    "load",
]
