"""How a run is run: evaluated, on what hardware, watched, saved. A resumed run may change all of it.

One frozen model per section, as in `sections`, which says what the run is.
"""

import re
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from trainers.config.sections import MAX_SEED, Section

__all__ = ["CheckpointingConfig", "EvaluationConfig", "HardwareConfig", "LoggingConfig"]


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
        description="torch.compile for acting and learning. auto: in runs of 4 million steps or more, which "
        "win its time back, except for images on a CPU; never in several processes. reduce-overhead: with CUDA "
        "graphs, whatever cuda_graphs says.",
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
    artifacts: bool = Field(
        default=False,
        description="Upload the newest checkpoints, the settings and a picture of the returns to MLflow, in the "
        "background. Checkpoints may be large: think of the line.",
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
        description="Updates between two checkpoints. Lower: less is lost with a machine, more time goes into saving. "
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
