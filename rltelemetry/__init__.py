"""One structlog call becomes a dashboard line, an event on an OTLP trace and MLflow metric points.

with rltelemetry.configure(service_name="my-trainer") as telemetry:
    structlog.get_logger().info("train", category="TRAINER", critic_loss=0.5, timesteps=100)
"""

from rltelemetry.errors import RltelemetryError, SettingsError
from rltelemetry.pipeline import Telemetry, configure, processors
from rltelemetry.settings import Settings
from rltelemetry.stats import Stats

__all__ = ["RltelemetryError", "Settings", "SettingsError", "Stats", "Telemetry", "configure", "processors"]
