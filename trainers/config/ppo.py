"""The configuration of a whole PPO run; settings that cannot work together are refused here, whatever their source."""

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from trainers.config.sections import (
    ArchitectureConfig,
    EnvironmentConfig,
    EvaluationConfig,
    HardwareConfig,
    LoggingConfig,
    OptimizationConfig,
    TrainingCoreConfig,
)

__all__ = ["PpoConfig"]


class PpoConfig(BaseModel):
    """A whole PPO run."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    section_aliases: ClassVar[dict[str, str]] = {"ppo_core": "training_core"}
    ignored_sections: ClassVar[frozenset[str]] = frozenset({"spo"})
    """One file may serve both algorithms."""

    environment: EnvironmentConfig = EnvironmentConfig()
    training_core: TrainingCoreConfig = TrainingCoreConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    architecture: ArchitectureConfig = ArchitectureConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    hardware: HardwareConfig = HardwareConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def batch_size(self) -> int:
        """Rows of one rollout: T x N."""
        return self.training_core.horizon * self.environment.num_envs

    @property
    def num_updates(self) -> int:
        """Whole updates that fit into total_timesteps."""
        return self.training_core.total_timesteps // self.batch_size

    @model_validator(mode="after")
    def _works_together(self) -> Self:
        core, evaluation = self.training_core, self.evaluation
        batch = f"{self.batch_size} (horizon {core.horizon} x num_envs {self.environment.num_envs})"
        if self.batch_size % core.num_minibatches:
            raise _impossible("training_core.num_minibatches", core.num_minibatches, f"a divisor of the batch, {batch}")
        if core.total_timesteps < self.batch_size:
            raise _impossible("training_core.total_timesteps", core.total_timesteps, f"at least one batch, {batch}")
        if evaluation.eval_interval > 0 and evaluation.num_eval_episodes == 0:
            raise _impossible(
                "evaluation.num_eval_episodes", 0, "at least 1 while eval_interval > 0; eval_interval 0 never evaluates"
            )
        return self


def _impossible(key: str, value: object, rule: str) -> PydanticCustomError:
    """An error of the whole configuration that names the key to change; the file loader finds its line by it."""
    context = {"key": key, "value": value, "rule": rule}
    return PydanticCustomError("impossible", "{key}: got {value}; expected {rule}.", context)
