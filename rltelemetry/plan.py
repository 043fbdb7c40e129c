"""Which run a pipeline logs into, as facts that outlive the process: they stand in the spool beside the data.

Whoever takes over the spool of a dead process finds the run by them, or creates it if it never existed.
"""

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from rltelemetry.facts import read_facts
from rltelemetry.provenance import source_tags
from rltelemetry.settings import Settings
from rltelemetry.types import Origin
from rltelemetry.values import safe_text

__all__ = ["CLIENT_UUID_TAG", "HEARTBEAT_TAG", "OWNER_TAG", "REASON_TAG", "RunPlan"]

CLIENT_UUID_TAG: Final = "rltelemetry.client_uuid"
"""The client's own name for a run: creating is not idempotent, so it is looked for before."""

OWNER_TAG: Final = "rltelemetry.owner"
"""The process that looks after the run's life: only a run that nobody has taken over since may be called dead."""

HEARTBEAT_TAG: Final = "rltelemetry.heartbeat"
"""When the owner was last alive."""

REASON_TAG: Final = "rltelemetry.reason"
"""Why it did not finish."""


@dataclass(frozen=True)
class RunPlan:
    """What a run is found or created by.

    Attributes:
        tracking_uri: the server, without credentials.
        client_uuid: this client's name for the run.
        owner: this process's name among those that have looked after the run.
        run_id: the run, if it was given or is known already.
        experiment_id: the experiment, if it was given.
        experiment_name: the experiment by name, if it was given.
        run_name: the name of a new run; MLflow invents one if there is none.
        tags: the tags of a new run.
        started_ms: when the run began.
    """

    tracking_uri: str
    client_uuid: str
    owner: str
    run_id: str | None
    experiment_id: str | None
    experiment_name: str | None
    run_name: str | None
    tags: Mapping[str, str]
    started_ms: int

    @classmethod
    def of(cls, settings: Settings, origin: Origin, started_ms: int) -> Self:
        """Plan the run of a pipeline."""
        given = read_facts(settings.tags).texts
        return cls(
            tracking_uri=settings.tracking_uri,
            client_uuid=origin.client_uuid,
            owner=str(uuid.uuid4()),
            run_id=origin.run_id or settings.run_id,
            experiment_id=settings.experiment_id,
            experiment_name=settings.experiment_name,
            run_name=safe_text(settings.run_name) if settings.run_name else None,
            tags={**source_tags(), "rltelemetry.service": settings.service_name, **given},
            started_ms=started_ms,
        )

    @classmethod
    def load(cls, remembered: Mapping[str, Any]) -> Self | None:
        """Read the plan that a spool remembers, with the run's id if that was known at last; None if there is none."""
        plan = remembered.get("plan")
        if not isinstance(plan, dict) or plan.keys() != {field.name for field in fields(cls)}:
            return None
        return cls(**{**plan, "run_id": remembered.get("run_id") or plan["run_id"]})

    @property
    def facts(self) -> dict[str, Any]:
        """The plan, as JSON can hold it."""
        return asdict(self)

    def creation(self, experiment_id: str) -> dict[str, Any]:
        """Return the request that creates the run."""
        tags = {**self.tags, CLIENT_UUID_TAG: self.client_uuid, OWNER_TAG: self.owner}
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        name = {"run_name": self.run_name} if self.run_name else {}
        return {"experiment_id": experiment_id, "start_time": self.started_ms, "tags": listed, **name}
