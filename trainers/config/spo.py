"""The configuration of an SPO run; settings that SPO cannot work with are refused here, whatever their source.

The defaults are the quick preset for CartPole-v1, so that a bare `spo` trains.
"""

import math
from copy import copy
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from trainers.config.operation import EvaluationConfig
from trainers.config.run import RunConfig, impossible
from trainers.config.sections import (
    ArchitectureConfig,
    CoreConfig,
    EnvironmentConfig,
    OptimizationConfig,
    Section,
)

__all__ = ["SearchConfig", "SpoConfig", "SpoSection"]

LEAST_ALPHA: Final = 1e-4
"""A multiplier that starts lower hardly rises again: its gradient is nothing beside Adam's epsilon."""


def _with_default(section: type[Section], name: str, default: Any) -> Any:
    """A setting of another section as it is, but for its default."""
    field = copy(section.model_fields[name])
    field.default = default
    return field


class SpoEnvironmentConfig(EnvironmentConfig):
    """The task and how many copies of it run side by side."""

    num_envs: int = _with_default(EnvironmentConfig, "num_envs", 16)


class SpoCoreConfig(CoreConfig):
    """How much is collected, and how far ahead counts."""

    total_timesteps: int = _with_default(CoreConfig, "total_timesteps", 24_576)
    gamma: float = _with_default(CoreConfig, "gamma", 0.99)
    gae_lambda: float = _with_default(CoreConfig, "gae_lambda", 0.95)


class SpoOptimizationConfig(OptimizationConfig):
    """The optimisers: Adam, with a rate each for the policy, the value, and the multipliers of the constraints."""

    actor_lr: float = _with_default(OptimizationConfig, "actor_lr", 1e-3)
    critic_lr: float = _with_default(OptimizationConfig, "critic_lr", 1e-3)
    dual_lr: float = Field(
        default=1e-2,
        gt=0,
        le=1,
        description="Learning rate of temperature and alpha. Higher follows their targets sooner. Usual: 1e-3 to 1e-2.",
    )
    anneal_lr: bool = _with_default(OptimizationConfig, "anneal_lr", False)


class SpoArchitectureConfig(ArchitectureConfig):
    """The networks; policy and value share no layers, and continuous actions are squashed into their bounds."""

    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = _with_default(
        ArchitectureConfig, "hidden_sizes", (256, 256)
    )
    activation: Literal["tanh", "relu", "elu", "gelu"] = _with_default(ArchitectureConfig, "activation", "relu")


class SpoEvaluationConfig(EvaluationConfig):
    """Deterministic episodes, acted by search, in environments of their own."""

    eval_interval: int = _with_default(EvaluationConfig, "eval_interval", 2)
    num_eval_episodes: int = _with_default(EvaluationConfig, "num_eval_episodes", 16)
    num_envs: int = _with_default(EvaluationConfig, "num_envs", 16)


Correction = Literal["readout", "resampler", "terminals", "lineage", "baseline"]
"""How the search differs from EdanToledo/Stoix, systems/spo; taking one back reproduces what it does.

readout: the target keeps its weights; there, particles resampled at the last depth are equal.
resampler: systematic; there, multinomial.
terminals: the step that ends a particle's future counts like any other; there, its advantage is lost from depth 1 on.
lineage: actions are drawn for the states that resampling has kept, and the advantages for the temperature stop at
    the first resampling; there, actions belong to the states before, and advantages go on in mixed lineages.
baseline: a step's advantage is measured from V(s); there, from V(s) times the search's discount, after the first.
"""


class SearchConfig(Section):
    """The search that improves the policy at every step (SPO's E-step)."""

    mode: Literal["auto", "particles", "tree"] = Field(
        default="auto",
        description="particles: sample futures. tree: enumerate them, where the task leaves nothing to chance and "
        "choices are few: no sampling noise. auto: the tree where it has at most num_particles x search_depth nodes.",
    )
    num_particles: int = Field(
        default=16,
        ge=1,
        le=65_536,
        description="Futures per environment (K). More: a better policy to learn from, at proportional cost. "
        "Usual: 8 to 64.",
    )
    search_depth: int = Field(
        default=4,
        ge=1,
        le=128,
        description="Steps that the search looks ahead (H). More: relies less on the critic, costs more, and the "
        "weights of particles become more uneven. Usual: 2 to 8.",
    )
    resampling: Literal["none", "period", "ess"] = Field(
        default="ess",
        description="When particles of little weight give way to copies of others: never, every resampling_period "
        "steps, or when the effective sample size is low.",
    )
    resampling_period: int = Field(
        default=4, ge=1, description="Steps between two resamplings. Lower: more greedy. Usual: 2 to 4."
    )
    ess_threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Resample below this share of num_particles. Higher: sooner. Usual: 0.3 to 0.7.",
    )
    search_gamma: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Discount within the search. Usual: 1, or training_core.gamma where the search is deep.",
    )
    search_gae_lambda: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="How far the advantages reach from which the temperature learns. Usual: 0.9 to 1.",
    )
    root_noise_fraction: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of noise in what decides about the first actions of particles. More explores. "
        "Usual: 0 to 0.25.",
    )
    root_noise_concentration: float = Field(
        default=1.0,
        # below, float32 holds none of a row's draws, and all choices get the same
        ge=0.03,
        le=1000,
        description="Of the Dirichlet noise over choices. Lower: all of it on few choices. Usual: 0.1 to 1.",
    )
    reference: tuple[Correction, ...] = Field(
        default=(),
        description="Take corrections of the reference implementation back, to compare; see docs/spo.md.",
    )


class SpoSection(Section):
    """What is learnt from the search (SPO's M-step), and from which experience."""

    replay_size: int = Field(
        default=4096,
        ge=1,
        description="Steps that are kept to learn from; rounded down to whole rollouts. The setting that decides most: "
        "larger holds returns of older, worse policies, which the critic then learns. Usual: 4 to 16 rollouts.",
    )
    replay_ratio: float = Field(
        default=32.0,
        gt=0,
        le=10_000,
        description="How often each step is learnt from, on average; gradient steps per update follow. Higher learns "
        "more from each step, and slower by the clock. Usual: 4 to 64.",
    )
    batch_size: int = Field(
        default=256, ge=1, description="Steps in a gradient step. Larger: calmer and dearer. Usual: 128 to 1024."
    )
    targets: Literal["cached", "sequences"] = Field(
        default="cached",
        description="cached: judge the whole replay once per update, and draw steps independently. sequences: draw "
        "runs of steps, as the reference does, and judge them at each gradient step.",
    )
    sequence_length: int = Field(
        default=32, ge=1, description="Steps of a sequence; divides batch_size. Usual: 16 to 64."
    )
    target_update: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="Share by which the target networks follow, once per update with cached targets, at each gradient "
        "step with sequences. Higher follows sooner, less calmly. Usual: 0.3 cached, 0.005 with sequences.",
    )
    adaptive_temperature: bool = Field(default=True, description="Learn the temperature, so that epsilon is kept.")
    init_temperature: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Where the temperature starts, or stays. Lower: the search decides, and not the policy. In units "
        "of the return. Usual: 0.5 to 10.",
    )
    epsilon: float = Field(
        default=0.5,
        gt=0,
        le=100,
        description="How far the search may move away from the policy (KL, nats). Higher: more greedy. "
        "Usual: 0.1 to 1.5.",
    )
    init_alpha: float = Field(
        default=3.0,
        ge=LEAST_ALPHA,
        le=1e6,
        description="Where the multiplier of the policy's trust region starts. Usual: 1 to 10.",
    )
    epsilon_policy: float = Field(
        default=1e-2,
        gt=0,
        le=10,
        description="How far the policy may move away from its target network (KL, nats); discrete actions. Higher "
        "learns faster, less stably. Usual: 1e-3 to 1e-1.",
    )
    epsilon_mean: float = Field(
        default=0.05,
        gt=0,
        le=10,
        description="The same for the means of continuous actions, in each dimension. Usual: 1e-2 to 1e-1.",
    )
    epsilon_stddev: float = Field(
        default=5e-4,
        gt=0,
        le=10,
        description="The same for their deviations. Lower keeps exploring for longer. Usual: 1e-5 to 1e-3.",
    )
    init_alpha_mean: float = Field(
        default=10.0, ge=LEAST_ALPHA, le=1e6, description="Where the multipliers of epsilon_mean start. Usual: 1 to 10."
    )
    init_alpha_stddev: float = Field(
        default=500.0,
        ge=LEAST_ALPHA,
        le=1e6,
        description="Where the multipliers of epsilon_stddev start. Usual: 10 to 1000.",
    )
    per_dim_constraining: bool = Field(
        default=True,
        description="Constrain each dimension of continuous actions by itself, and not their sum.",
    )


UNUSED: Final = {
    "environment": ("normalize_reward", "reward_clip"),
    "architecture": ("shared", "init_log_std", "squash_actions"),
}
"""Settings of shared sections that have no meaning here: the search plays for the task's own rewards."""


RESAMPLES: Final = frozenset({"readout", "resampler", "lineage"})
"""Corrections that say how particles are resampled."""


class SpoConfig(RunConfig):
    """A whole SPO run."""

    section_aliases: ClassVar[dict[str, str]] = {**RunConfig.section_aliases, "spo_core": "training_core"}

    environment: SpoEnvironmentConfig = SpoEnvironmentConfig()
    training_core: SpoCoreConfig = SpoCoreConfig()
    optimization: SpoOptimizationConfig = SpoOptimizationConfig()
    architecture: SpoArchitectureConfig = SpoArchitectureConfig()
    evaluation: SpoEvaluationConfig = SpoEvaluationConfig()
    search: SearchConfig = SearchConfig()
    spo: SpoSection = SpoSection()

    def num_replay_rollouts(self, num_ranks: int = 1) -> int:
        """Rollouts that the replay holds; of several ranks each has its share of the environments and of the steps."""
        return self.spo.replay_size // (self.batch_size * num_ranks)

    def num_gradient_steps(self, num_ranks: int = 1) -> int:
        """Gradient steps per update: replay_ratio x batch / batch_size, the batch being that of all ranks."""
        return max(1, round(self.spo.replay_ratio * self.batch_size * num_ranks / self.spo.batch_size))

    @property
    def is_epsilon_beyond_particles(self) -> bool:
        """The temperature is to be learnt, and no weights of particles are as far from equal ones as epsilon asks."""
        return self.spo.adaptive_temperature and self.spo.epsilon >= math.log(self.search.num_particles)

    @property
    def epsilon_words(self) -> str:
        """What epsilon must be where particles search, for messages."""
        count = self.search.num_particles
        return (
            f"less than {math.log(count):.3g}, log {count}: the weights of search.num_particles {count} are never "
            "further from equal ones, and the temperature would fall for ever. Lower it, take more particles, or set "
            "spo.adaptive_temperature to false"
        )

    @model_validator(mode="after")
    def _has_a_use_for_all(self) -> Self:
        for section, names in UNUSED.items():
            values = getattr(self, section)
            for name in names:
                value, default = getattr(values, name), type(values).model_fields[name].default
                if value != default:
                    raise impossible(f"{section}.{name}", value, f"{default}: SPO has no other way. Leave it out")
        return self

    @model_validator(mode="after")
    def _replay_fits(self) -> Self:
        spo, horizon = self.spo, self.training_core.horizon
        if self.num_replay_rollouts() < 1:
            raise impossible("spo.replay_size", spo.replay_size, f"at least one rollout, {self.batch_words}")
        if spo.targets == "sequences":
            if spo.batch_size % spo.sequence_length:
                rule = f"a divisor of spo.batch_size, {spo.batch_size}"
                raise impossible("spo.sequence_length", spo.sequence_length, rule)
            if spo.sequence_length > horizon:
                rule = f"at most one rollout's {horizon} steps (training_core.horizon)"
                raise impossible("spo.sequence_length", spo.sequence_length, rule)
        return self

    @model_validator(mode="after")
    def _search_is_possible(self) -> Self:
        search = self.search
        taken_back = ", ".join(search.reference)
        if search.mode == "tree" and search.reference:
            rule = f"particles or auto with search.reference {taken_back}: a tree has nothing to take back"
            raise impossible("search.mode", "tree", rule)
        if search.resampling == "none" and RESAMPLES & set(search.reference):
            rule = f"none of {', '.join(sorted(RESAMPLES))} with search.resampling none"
            raise impossible("search.reference", taken_back, rule)
        if search.mode == "particles" and self.is_epsilon_beyond_particles:
            raise impossible("spo.epsilon", self.spo.epsilon, self.epsilon_words)
        return self
