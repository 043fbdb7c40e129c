"""Finding a run on the server, or creating it: once, although creating is not idempotent.

A run carries its client's own uuid as a tag, and is looked for before it is created, again. What a slow server makes of
a request whose answer nobody waited for is an empty twin, which is removed later.
"""

from typing import Final, Literal

from rltelemetry.plan import CLIENT_UUID_TAG, OWNER_TAG, REASON_TAG, RunPlan
from rltelemetry.schema import DEFAULT_EXPERIMENT
from rltelemetry.sinks.mlflow import (
    NO_EXPERIMENT,
    NO_RUN,
    MlflowClient,
    Outcome,
    Patience,
    RunFacts,
    Verdict,
    read_experiment,
    read_run,
    read_runs,
)

__all__ = ["Registration", "Role"]

Role = Literal["owner", "child", "heir"]
"""What this process is to the run: its owner looks after its life, a forked child follows its parent's run and never
creates, tags or ends it, the heir of a dead process creates it if it never existed."""

NOT_YET: Final = Outcome(Verdict.RETRY, cause="the parent process has not created the run yet")

RESUMED_AFTER: Final = "resumed after "
"""Stands before the reason of an end that was none: the run goes on."""


class Registration:
    """One run's way onto the server.

    Args:
        plan: which run.
        role: what this process is to it.
        client: the server.
        patience: how long a request may take.
    """

    def __init__(self, plan: RunPlan, role: Role, client: MlflowClient, patience: Patience) -> None:
        self._plan = plan
        self._role = role
        self._client = client
        self._patience = patience
        self._may_have_twins = False

    async def register(self) -> RunFacts | Outcome:
        """Find the run, or create it; an outcome says what kept it from being known."""
        if self._plan.run_id is not None:
            found = await self._client.get_run(self._plan.run_id, self._patience.left_s())
            return await self._take_over(read_run(found.answer)) if found.is_delivered else found
        experiment_id = await self._find_experiment()
        if isinstance(experiment_id, Outcome):
            return experiment_id
        found = await self._search(experiment_id)
        if not found.is_delivered:
            return found
        if found.answer.get("runs"):
            return await self._take_over(next(iter(read_runs(found.answer)), None))
        if self._role == "child":
            return NOT_YET
        created = await self._client.create_run(self._plan.creation(experiment_id), self._patience.left_s())
        self._may_have_twins |= created.is_uncertain
        return (read_run(created.answer) or NO_RUN) if created.is_delivered else created

    async def remove_twins(self, run: RunFacts) -> None:
        """Delete the empty runs that were made beside this one; they can be restored."""
        if not self._may_have_twins:
            return
        found = await self._search(run.experiment_id)
        for twin in read_runs(found.answer):
            if twin.run_id != run.run_id and not twin.latest:
                await self._client.delete_run(twin.run_id, self._patience.left_s())

    async def _search(self, experiment_id: str) -> Outcome:
        uuid = self._plan.client_uuid
        return await self._client.find_runs(experiment_id, CLIENT_UUID_TAG, uuid, self._patience.left_s())

    async def _take_over(self, run: RunFacts | None) -> RunFacts | Outcome:
        """Go on in a run that exists; an owner says there that it is its own now, and that it runs again."""
        if run is None or self._role != "owner":
            return run or NO_RUN
        tags = {OWNER_TAG: self._plan.owner}
        if run.reason and not run.reason.startswith(RESUMED_AFTER):
            tags[REASON_TAG] = RESUMED_AFTER + run.reason
        owned = await self._client.set_tags(run.run_id, tags, self._patience.left_s())
        if owned.is_delivered and run.status != "RUNNING":
            owned = await self._client.update_run(run.run_id, "RUNNING", None, self._patience.left_s())
        return run if owned.is_delivered else owned

    async def _find_experiment(self) -> str | Outcome:
        name, given_id = self._plan.experiment_name, self._plan.experiment_id
        if name is None:
            return given_id or DEFAULT_EXPERIMENT
        found = await self._client.get_experiment_by_name(name, self._patience.left_s())
        if found.is_missing:
            created = await self._client.create_experiment(name, self._patience.left_s())
            if created.error_code == "RESOURCE_ALREADY_EXISTS":  # somebody was faster
                created = await self._client.get_experiment_by_name(name, self._patience.left_s())
            found = created
        if not found.is_delivered:
            return found
        experiment = read_experiment(found.answer)
        if experiment is None:
            return NO_EXPERIMENT
        if given_id not in {None, experiment.experiment_id}:
            cause = f"experiment {name!r} has the id {experiment.experiment_id}, not {given_id}"
            return Outcome(Verdict.HELD, 400, cause, "Give MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID.")
        return experiment.experiment_id
