"""The configuration of a PPO run; settings that PPO cannot work with are refused here, whatever their source."""

from typing import ClassVar, Self

from pydantic import model_validator

from trainers.config.run import RunConfig, impossible
from trainers.config.sections import TrainingCoreConfig

__all__ = ["PpoConfig"]


class PpoConfig(RunConfig):
    """A whole PPO run."""

    ignored_sections: ClassVar[frozenset[str]] = frozenset({"search", "spo"})

    training_core: TrainingCoreConfig = TrainingCoreConfig()

    @model_validator(mode="after")
    def _splits_into_minibatches(self) -> Self:
        num_minibatches = self.training_core.num_minibatches
        if self.batch_size % num_minibatches:
            raise impossible(
                "training_core.num_minibatches", num_minibatches, f"a divisor of the batch, {self.batch_words}"
            )
        return self
