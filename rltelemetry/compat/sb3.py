"""Stable-Baselines3: what its logger dumps becomes metric points; one callback connects a model.

    model.learn(100_000, callback=TelemetryCallback())

`compat.tags` says which key a name of Stable-Baselines3 becomes: `train/value_loss` -> `trainer/value_loss`,
`rollout/ep_rew_mean` -> `actor/ep_rew_mean`, `eval/mean_reward` -> `evaluator/mean_reward`, `time/fps` -> `misc/fps`.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any, Final

import structlog
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, KVWriter

from rltelemetry.compat.tags import Tags
from rltelemetry.pipeline import Telemetry, configure, current
from rltelemetry.schema import Category

__all__ = ["TelemetryCallback", "TelemetryWriter"]

LOGGER: Final = "stable_baselines3"
FORMAT: Final = "rltelemetry"
"""The name by which `Logger.record(..., exclude=...)` keeps a value from us."""

EVENTS: Final = {
    Category.TRAINER: "train",
    Category.ACTOR: "rollout",
    Category.EVALUATOR: "evaluation",
    Category.MISC: "throughput",
}

PARAMETER_TYPES: Final = (bool, int, float, str)


class TelemetryWriter(KVWriter):
    """An output format of Stable-Baselines3's logger: one event a category and dump, at the dump's timesteps."""

    def __init__(self) -> None:
        self._tags = Tags()
        self._log = structlog.get_logger(LOGGER)

    def write(
        self, key_values: dict[str, Any], key_excluded: Mapping[str, tuple[str, ...] | None], step: int = 0
    ) -> None:
        """Log what was recorded since the last dump."""
        events: dict[Category, dict[str, Any]] = {}
        for key, value in key_values.items():
            if FORMAT in (key_excluded.get(key) or ()):
                continue
            if isinstance(value, HParam):
                _log_params(value.hparam_dict)
                continue
            category, field = self._tags.place(key)
            events.setdefault(category, {})[field] = value
        for category, fields in events.items():
            self._log.info(EVENTS[category], **{**fields, "category": category, "timesteps": step})

    def close(self) -> None:
        """Have nothing to give back: the pipeline closes itself."""


class TelemetryCallback(BaseCallback):
    """Connects a model to the open pipeline while it learns; opens one, and closes it, if there is none.

    Args:
        settings: fields of `rltelemetry.Settings` for the pipeline that it opens.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings
        self._own: Telemetry | None = None
        self._writer: TelemetryWriter | None = None

    def _on_training_start(self) -> None:
        if current() is None:
            self._own = configure(**{"service_name": type(self.model).__name__.lower(), **self._settings})
        self._writer = TelemetryWriter()
        self.logger.output_formats.append(self._writer)
        _log_params(_parameters(self.model))

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self._writer in self.logger.output_formats:
            self.logger.output_formats.remove(self._writer)
        if self._own is not None:
            self._own.close()


def _log_params(params: Mapping[str, Any]) -> None:
    telemetry = current()
    if telemetry is not None:
        telemetry.log_params(params)


def _parameters(model: Any) -> dict[str, Any]:
    """What the model was made with, as far as it is plain; and the environment's name."""
    given = {name: getattr(model, name, None) for name in signature(type(model)).parameters}
    plain = {name: value for name, value in given.items() if isinstance(value, PARAMETER_TYPES)}
    schedules = {name: repr(value) for name, value in given.items() if type(value).__name__.endswith("Schedule")}
    specs = model.get_env().get_attr("spec")
    task = next((spec.id for spec in specs if spec is not None), None)
    return {"algorithm": type(model).__name__, "environment": task, **plain, **schedules}
