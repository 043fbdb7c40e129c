"""The sections that every algorithm's run has, and the combinations that work for none of them."""

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from trainers.config.operation import CheckpointingConfig, EvaluationConfig, HardwareConfig, LoggingConfig
from trainers.config.sections import ArchitectureConfig, CoreConfig, EnvironmentConfig, OptimizationConfig

__all__ = ["RunConfig", "impossible"]


class RunConfig(BaseModel):
    """A whole run of any algorithm; an algorithm's own model adds its sections and its rules.

    Attributes:
        section_aliases: other names of sections in a file.
        ignored_sections: sections of a file that are another algorithm's: one file may serve both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    section_aliases: ClassVar[dict[str, str]] = {"ppo_core": "training_core"}
    ignored_sections: ClassVar[frozenset[str]] = frozenset()

    environment: EnvironmentConfig = EnvironmentConfig()
    training_core: CoreConfig = CoreConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    architecture: ArchitectureConfig = ArchitectureConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    hardware: HardwareConfig = HardwareConfig()
    logging: LoggingConfig = LoggingConfig()
    checkpointing: CheckpointingConfig = CheckpointingConfig()

    @property
    def batch_size(self) -> int:
        """Rows of one rollout: T x N."""
        return self.training_core.horizon * self.environment.num_envs

    @property
    def batch_words(self) -> str:
        """The batch size and where it comes from, for messages."""
        core = self.training_core
        return f"{self.batch_size} (horizon {core.horizon} x num_envs {self.environment.num_envs})"

    @property
    def num_updates(self) -> int:
        """Whole updates that fit into total_timesteps."""
        return self.training_core.total_timesteps // self.batch_size

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        core, evaluation = self.training_core, self.evaluation
        if core.total_timesteps < self.batch_size:
            rule = f"at least one batch, {self.batch_words}"
            raise impossible("training_core.total_timesteps", core.total_timesteps, rule)
        if self.environment.num_envs % self.environment.num_groups:
            rule = f"a divisor of num_envs, {self.environment.num_envs}"
            raise impossible("environment.num_groups", self.environment.num_groups, rule)
        if evaluation.eval_interval > 0 and evaluation.num_eval_episodes == 0:
            rule = "at least 1 while eval_interval > 0; eval_interval 0 never evaluates"
            raise impossible("evaluation.num_eval_episodes", 0, rule)
        if self.checkpointing.on_divergence == "rollback" and not self.checkpointing.save:
            raise impossible("checkpointing.on_divergence", "rollback", "stop or skip while checkpointing.save is off")
        return self


def impossible(key: str, value: object, rule: str) -> PydanticCustomError:
    """An error of the whole configuration that names the key to change; the file loader finds its line by it."""
    context = {"key": key, "value": value, "rule": rule}
    return PydanticCustomError("impossible", "{key}: got {value}; expected {rule}.", context)
