"""What a run is: task, algorithm, optimisers, networks; one frozen model per section. How it is run: `operation`.

A description is the text of `--help`: it says what the setting does, which way it works, and a usual range. The
defaults are the quick preset for CartPole-v1, so that a bare `ppo` trains.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "MAX_SEED",
    "ArchitectureConfig",
    "CoreConfig",
    "EnvironmentConfig",
    "OptimizationConfig",
    "Section",
    "TrainingCoreConfig",
]

MAX_SEED = 2**31 - 1
"""envpool keeps seeds in a signed 32-bit number."""

EnvOption = bool | int | float | str


class Section(BaseModel):
    """What the sections share: they cannot be changed, know no further keys, and take no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EnvironmentConfig(Section):
    """The task and how many copies of it run side by side."""

    task: str = Field(default="CartPole-v1", min_length=1, description="envpool task, such as CartPole-v1 or Pong-v5.")
    num_envs: int = Field(
        default=32,
        ge=1,
        le=65_536,
        description="Environments that step together (N). More: faster collection and steadier gradients, but fewer "
        "updates per step, which asks for a higher learning rate. Usual: 8 to 1024.",
    )
    num_threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="envpool threads; 0 leaves the choice to the trainer. More help slow tasks (Atari, MuJoCo); one is "
        "fastest for classic control.",
    )
    max_episode_steps: int | None = Field(
        default=None, ge=1, description="Truncate episodes after so many steps; the task's own limit if not given."
    )
    num_groups: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Groups of environments that step in turns, so that envpool's threads work on one while the policy "
        "acts for another; must divide num_envs. Usual: 1, or 2 where a step takes longer than the policy.",
    )
    normalize_obs: bool = Field(
        default=False,
        description="Standardise observations by running statistics, saved with the model. Steadies tasks whose "
        "observations have unlike scales (MuJoCo); images are left alone.",
    )
    normalize_reward: bool = Field(
        default=False,
        description="Divide rewards by the running deviation of the discounted return. Steadies tasks with large or "
        "growing rewards; returns are reported as the task pays them.",
    )
    reward_scale: float = Field(
        default=1.0,
        gt=0,
        le=1e6,
        description="Multiply rewards, after normalisation. Lower where returns are in the thousands. "
        "Usual: 0.01 to 1.",
    )
    reward_clip: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        description="Cut rewards at plus and minus this, after scaling. Usual: not given; 10 with normalize_reward.",
    )
    options: dict[str, EnvOption] = Field(
        default_factory=dict, description="Further envpool settings of the task, as KEY VALUE pairs."
    )


class CoreConfig(Section):
    """What the algorithms have in common: how much is collected, and how far ahead counts."""

    total_timesteps: int = Field(
        default=98_304,
        ge=1,
        description="Environment steps of the whole run, over all environments; rounded down to whole updates. "
        "Usual: 100000 (classic control) to 10000000 (Atari).",
    )
    horizon: int = Field(
        default=32,
        ge=2,
        le=65_536,
        description="Steps per environment between two updates (T). Longer: better credit over time, fewer and staler "
        "updates. Usual: 16 to 2048; T x num_envs is the batch.",
    )
    gamma: float = Field(
        default=0.98,
        ge=0,
        le=1,
        description="Discount. Higher looks further ahead and adds variance. Usual: 0.9 (short tasks) to 0.999.",
    )
    gae_lambda: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Advantage estimation between one step (0: biased, calm) and whole returns (1: unbiased, noisy). "
        "Usual: 0.8 to 0.98.",
    )
    seed: int = Field(
        default=1,
        ge=0,
        le=MAX_SEED,
        description="Seed of every random number of the run but those of the evaluation.",
    )


class TrainingCoreConfig(CoreConfig):
    """The algorithm: how much is collected, how often it is used, and how far the policy may move."""

    num_epochs: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="Passes over each batch. More: better use of the data, but slower and more likely to "
        "overstep the clip range. Usual: 3 to 20.",
    )
    num_minibatches: int = Field(
        default=4,
        ge=1,
        description="Gradient steps per pass; must divide T x num_envs. More: smaller, noisier steps. Usual: 4 to 32.",
    )
    clip_coef: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="How far the probability of an action may move in one update. Larger learns faster and less "
        "stably. Usual: 0.1 to 0.3.",
    )
    clip_value_loss: bool = Field(
        default=False, description="Clip the change of the value, too. Seldom helps; on in some reference results."
    )
    value_coef: float = Field(
        default=0.5,
        ge=0,
        le=100,
        description="Weight of the value loss beside the policy loss; matters most with shared layers. "
        "Usual: 0.25 to 4.",
    )
    entropy_coef: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Reward for staying random. Higher explores more, converges later. Usual: 0 to 0.02.",
    )
    normalize_advantage: bool = Field(
        default=True,
        description="Scale the advantages of each minibatch to mean 0, deviation 1; steadies the steps.",
    )
    target_kl: float | None = Field(
        default=None,
        gt=0,
        description="Stop the passes over a batch once the policy has moved this far. Lower is safer and slower. "
        "Usual: not given, or 0.01 to 0.05.",
    )


class OptimizationConfig(Section):
    """The optimiser: Adam, with a rate for the policy and one for the value."""

    actor_lr: float = Field(
        default=3e-3,
        gt=0,
        le=1,
        description="Learning rate of the policy. Higher is faster until it breaks; larger batches bear more. "
        "Usual: 1e-4 to 3e-3.",
    )
    critic_lr: float = Field(
        default=3e-3,
        gt=0,
        le=1,
        description="Learning rate of the value; may be higher. Usual: 1e-4 to 3e-3.",
    )
    anneal_lr: bool = Field(
        default=True,
        description="Lower both rates to zero over the run: calmer at its end. Off for open-ended runs.",
    )
    max_grad_norm: float = Field(
        default=0.5,
        gt=0,
        le=1e6,
        description="Longer gradients are cut to this. Lower is calmer. Usual: 0.5 to 10.",
    )
    adam_eps: float = Field(
        default=1e-5,
        gt=0,
        le=1,
        description="Adam's epsilon. Higher damps the steps of rarely moved weights. Usual: 1e-8 to 1e-5.",
    )


class ArchitectureConfig(Section):
    """The networks."""

    hidden_sizes: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        default=(64, 64),
        max_length=16,
        description="Width of each hidden layer, behind the convolutions if the task shows images. Wider fits and "
        "costs more. Usual: 64 64; 512 for images.",
    )
    activation: Literal["tanh", "relu", "elu", "gelu"] = Field(
        default="tanh",
        description="Between the layers. tanh is calm on small tasks; relu and elu suit wide networks.",
    )
    shared: bool = Field(
        default=False,
        description="Policy and value share their layers, which move at actor_lr: cheaper, but the losses compete.",
    )

    init_log_std: float = Field(
        default=0.0,
        ge=-20,
        le=5,
        description="Where the log standard deviation of continuous actions starts. Lower explores less. "
        "Usual: -2 to 0.",
    )
    squash_actions: bool = Field(
        default=False,
        description="Squash continuous actions into their bounds by tanh, and not cut them there: no exploration is "
        "lost at the bounds, but extreme actions become rare.",
    )
