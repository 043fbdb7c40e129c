"""The contract as data: categories, step fields, reserved fields, labels, and MLflow's limits.

Everything that downstream dashboards rely on stands here; code that follows the contract reads it from here.
"""

from enum import Enum

__all__ = [
    "CATEGORY_ALIASES",
    "CATEGORY_FIELDS",
    "DEFAULT_EXPERIMENT",
    "DEFAULT_LABELS",
    "MAX_ENTRIES",
    "MAX_KEY_LENGTH",
    "MAX_PARAM_LENGTH",
    "MAX_TAG_LENGTH",
    "RESERVED_FIELDS",
    "STEP_FIELDS",
    "Category",
]


class Category(Enum):
    """Where an event belongs: its console column and the prefix of its metric keys."""

    TRAINER = "TRAINER"
    ACTOR = "ACTOR"
    EVALUATOR = "EVALUATOR"
    MISC = "MISC"

    @property
    def prefix(self) -> str:
        """The metric key prefix, for example `trainer/`."""
        return f"{self.value.lower()}/"


CATEGORY_ALIASES: dict[str, Category] = {
    "TRAINER": Category.TRAINER,
    "TRAIN": Category.TRAINER,
    "ACTOR": Category.ACTOR,
    "ACT": Category.ACTOR,
    "EVALUATOR": Category.EVALUATOR,
    "EVAL": Category.EVALUATOR,
}
"""Upper-case names; anything else is `Category.MISC`."""

CATEGORY_FIELDS: tuple[str, ...] = ("category", "telemetry")
"""The field that names the category, and its alias: the first one present decides."""

STEP_FIELDS: tuple[str, ...] = ("timesteps", "policy_version", "step", "global_step", "update")
"""The first of these that an event carries is the step of its metrics; none of them is ever a metric."""

RESERVED_FIELDS: frozenset[str] = frozenset({"category", "telemetry", "message", "event"})
"""Never exported as metric keys."""

DEFAULT_EXPERIMENT = "0"
"""The experiment that every MLflow server has, and where a run goes that names none."""

MAX_ENTRIES = 100
"""MLflow refuses more parameters, or tags, in one request."""

MAX_PARAM_LENGTH = 6000
"""MLflow refuses longer values of parameters."""

MAX_TAG_LENGTH = 8000
"""MLflow refuses longer values of tags."""

MAX_KEY_LENGTH = 250
"""MLflow refuses longer metric keys, and with them the whole batch."""

DEFAULT_LABELS: dict[str, str] = {
    "actor_loss": "Actor Loss",
    "approx_kl": "Approx KL",
    "clip_fraction": "Clip Fraction",
    "critic_loss": "Critic Loss",
    "duration_ms": "Duration (ms)",
    "entropy": "Entropy",
    "episode_length_max": "Length (max)",
    "episode_length_mean": "Length (mean)",
    "episode_length_min": "Length (min)",
    "episodes": "Episodes",
    "ess": "ESS",
    "explained_variance": "Explained Variance",
    "global_grad_norm": "Grad Norm",
    "kl_e_step": "KL (E-step)",
    "kl_m_step": "KL (M-step)",
    "learning_rate": "Learning Rate",
    "max_return": "Return (max)",
    "mean_return": "Return (mean)",
    "min_return": "Return (min)",
    "policy_version": "Policy Version",
    "steps_per_second": "SPS",
    "timesteps": "Timesteps",
}
"""Labels are for eyes; wire keys stay the raw names. Unknown keys fall back to title case."""
