"""The algorithms that can be trained, as data: one entry makes a command.

An entry's builder imports the algorithm only when it is called: `--help` needs neither torch nor envpool.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from trainers.config import PpoConfig, RunConfig, SpoConfig

if TYPE_CHECKING:
    from trainers.envs import EnvSpec
    from trainers.loop import Algorithm
    from trainers.runtime import Runtime

__all__ = ["ALGORITHMS", "AlgorithmEntry"]

ConfigT = TypeVar("ConfigT", bound=RunConfig)


@dataclass(frozen=True)
class AlgorithmEntry(Generic[ConfigT]):
    """What the command line knows of an algorithm.

    Attributes:
        name: of the command, and of the run's logger, service and tag.
        title: the algorithm's name in a sentence.
        config_model: what its YAML file describes.
        build: makes the learner from the environments' specification, the configuration, and device and seeds.
    """

    name: str
    title: str
    config_model: type[ConfigT]
    build: "Callable[[EnvSpec, ConfigT, Runtime], Algorithm]"

    @property
    def description(self) -> str:
        """What `--help` says first."""
        command = f"{self.name} --config configs/{self.name}.yaml"
        return (
            f"Train {self.title} on an envpool task; watch it in MLflow.\n\nExamples:\n\n"
            f"  {command}\n\n  {command} --seed 2 --optimization.actor-lr 1e-3\n\n"
            f"  {self.name} --resume checkpoints/FOLDER\n\n"
            f"Saved policies: {self.name} eval --help, {self.name} export --help\n\n"
            f"Equations, presets and figures: docs/{self.name}.md"
        )


def _build_ppo(spec: "EnvSpec", config: PpoConfig, runtime: "Runtime") -> "Algorithm":
    from trainers.ppo import Ppo

    return Ppo(spec, config, runtime)


def _build_spo(spec: "EnvSpec", config: SpoConfig, runtime: "Runtime") -> "Algorithm":
    from trainers.spo import Spo

    return Spo(spec, config, runtime)


ALGORITHMS: Final[dict[str, AlgorithmEntry[Any]]] = {
    "ppo": AlgorithmEntry("ppo", "PPO", PpoConfig, _build_ppo),
    "spo": AlgorithmEntry("spo", "SPO", SpoConfig, _build_spo),
}
