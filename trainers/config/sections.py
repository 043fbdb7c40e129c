"""Every setting of a run: one frozen model per section; the descriptions are the text of `--help`.

A description says what the setting does, which way it works, and a usual range. The defaults are the quick preset
for CartPole-v1, so that a bare `ppo` trains.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "ArchitectureConfig",
    "CheckpointingConfig",
    "CoreConfig",
    "EnvironmentConfig",
    "EvaluationConfig",
    "HardwareConfig",
    "LoggingConfig",
    "OptimizationConfig",
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
        default=64,
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
        default=163_840,
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
        default=4,
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


class EvaluationConfig(Section):
    """Deterministic episodes in environments of their own; they never touch the training's random numbers."""

    eval_interval: int = Field(
        default=10,
        ge=0,
        description="Updates between two evaluations; 0: never. Lower: finer curve, slower run.",
    )
    num_eval_episodes: int = Field(
        default=20, ge=0, description="Episodes per evaluation. More: less noise, slower. Usual: 10 to 100."
    )
    num_envs: int = Field(
        default=10,
        ge=1,
        le=65_536,
        description="Environments that share these episodes equally. More is faster.",
    )
    seed: int = Field(
        default=10_000,
        ge=0,
        le=MAX_SEED,
        description="Seed of the evaluation's environments; kept apart from the training's, so that runs with other "
        "training seeds are judged on the same episodes.",
    )


class HardwareConfig(Section):
    """What the run computes on."""

    device: str = Field(
        default="auto",
        description="auto (CUDA where there is one), cpu, cuda or cuda:N. Small networks are often faster on the cpu.",
    )
    torch_threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="CPU threads of torch. One is fastest for small networks; more help images.",
    )

    compile: Literal["auto", "none", "default", "reduce-overhead"] = Field(
        default="auto",
        description="torch.compile for acting and learning. auto: on a GPU, and on a CPU for small networks and runs "
        "long enough to win the minute of compilation back. reduce-overhead: with torch's own CUDA graphs.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="On a GPU, capture the policy's step and the gradient step and replay them. Off to debug.",
    )
    precision: Literal["float32", "bf16"] = Field(
        default="float32",
        description="Of the hidden layers. bf16 is faster for images and wide networks on a GPU, or on a CPU that has "
        "it, and coarser; parameters, losses and what leaves the networks stay float32.",
    )

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
            raise PydanticCustomError("device", "Input should be auto, cpu, cuda or cuda:N")
        return device


class LoggingConfig(Section):
    """What is shown, and where the telemetry goes. Environment variables win over the file, flags over both."""

    log_level: Literal["trace", "debug", "info", "warning", "error", "critical", "off"] = Field(
        default="info",
        description="Least level that is logged. Above info, the metrics are hidden everywhere.",
    )
    backend_logs_visible: bool = Field(
        default=False, description="Show the logs of torch, httpx, opentelemetry and other chatty libraries."
    )
    trace_interval_s: float = Field(
        default=1.0, ge=0, description="Trace at most one update per so many seconds; 0 traces each one, at some cost."
    )
    metric_labels: str = Field(
        default="", description="Console labels: 'key=Label,key=Label'. Keys that are not listed are title-cased."
    )
    console: Literal["auto", "dashboard", "json", "off"] = Field(
        default="auto",
        description="Dashboard lines on a terminal, JSON lines otherwise (auto), or always one.",
    )
    tracking_uri: str | None = Field(
        default=None,
        description="MLflow server. Not given: localhost:5000 if it answers, else one of our own.",
    )
    experiment_id: str | None = Field(default=None, description="MLflow experiment by id.")
    experiment_name: str | None = Field(default=None, description="MLflow experiment by name; created if missing.")
    run_id: str | None = Field(default=None, description="Log into this MLflow run; a new run is created otherwise.")
    run_name: str | None = Field(default=None, description="Name of the new run; 'ppo TASK seed N' if not given.")
    spool_dir: str | None = Field(
        default=None, description="Where data waits while MLflow is away; $XDG_STATE_HOME/rltelemetry if not given."
    )
    exit_timeout_s: float = Field(
        default=3.0, ge=0, le=3600, description="Longest wait for delivery at the end; what is left stays in the spool."
    )


class CheckpointingConfig(Section):
    """What of the run is kept on disk, and what becomes of a run that breaks down."""

    save: bool = Field(default=True, description="Save checkpoints: on cadence, at the end, and on a signal.")
    directory: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of this run's checkpoints. Not given: checkpoints/<task>-<algorithm>-<time>.",
    )
    interval: int = Field(
        default=50,
        ge=1,
        description="Updates between two checkpoints. Lower: less is lost with a machine, at some milliseconds each. "
        "Usual: what takes a few minutes.",
    )
    keep: int = Field(
        default=3, ge=1, description="So many of the newest stay; older ones are removed. Usual: 2 to 10."
    )
    exact: bool = Field(
        default=False,
        description="An interrupted run ends bit for bit as an uninterrupted one (on a CPU): at each checkpoint all "
        "environments start anew, with new seeds, and episodes under way are truncated. Needs an interval that is "
        "longer than an episode.",
    )
    on_divergence: Literal["stop", "skip", "rollback"] = Field(
        default="stop",
        description="When a loss, a gradient, a reward or an action is not finite: end the run; leave that update out; "
        "or go back to the networks of the last checkpoint.",
    )
