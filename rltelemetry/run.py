"""A run's life on the server: found or created, tagged, kept alive, ended.

Creating is not idempotent, so a run carries a client's own uuid as a tag, and is looked for before it is created again.
A server that cannot be reached is waited for; one that refuses (4xx) switches metrics off, with one warning: the spool
keeps the points. A forked child follows its parent's run and never creates, tags or ends it.
"""

import random
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rltelemetry.clock import Clock
from rltelemetry.notices import Notices
from rltelemetry.provenance import source_tags
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import MlflowClient, Outcome, Spool, Verdict

__all__ = ["CLIENT_UUID_TAG", "HEARTBEAT_TAG", "Run"]

CLIENT_UUID_TAG: Final = "rltelemetry.client_uuid"
HEARTBEAT_TAG: Final = "rltelemetry.heartbeat"
HEARTBEAT_S: Final = 60.0
MAX_BACKOFF_S: Final = 5.0
"""Longest pause between two tries to reach a server that is starting or behind a tunnel."""

PARAMS_A_CALL: Final = 100


class Run:
    """The run that a pipeline logs into.

    Args:
        settings: which run, or which experiment.
        spool: remembers the run for the next process, and carries its calls.
        client: the server.
        notices: where the run's page, or the refusal, is said.
        clock: the time source.
        client_uuid: this client's name for the run.
        run_id: the run if it is known already: a forked child's parent knew it.
        is_child: whether another process owns the run's life.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        client: MlflowClient,
        notices: Notices,
        clock: Clock,
        client_uuid: str,
        run_id: str | None = None,
        is_child: bool = False,
    ) -> None:
        self.run_id: str | None = run_id
        self.experiment_id: str | None = None
        self.artifact_root: str | None = None
        self.is_refused = False
        self._settings = settings
        self._spool = spool
        self._client = client
        self._notices = notices
        self._clock = clock
        self._client_uuid = client_uuid
        self._is_child = is_child
        self._settled = threading.Event()
        self._started_ms = clock.time_ns() // 1_000_000
        self._warned_at = 0

    @property
    def run_url(self) -> str | None:
        """The run's page; None until the run is known."""
        if self.run_id is None or self.experiment_id is None:
            return None
        return f"{self._settings.tracking_uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait, on any thread, until the run is known; False if it was refused or the time is up."""
        return self._settled.wait(timeout_s) and not self.is_refused

    async def start(self) -> None:
        """Find or create the run, however long that takes, then keep it alive; ends by being cancelled."""
        attempt = 0
        while self.experiment_id is None and not self.is_refused:
            outcome = await self._find_or_create()
            if outcome is None:
                break
            attempt += 1
            if _is_definitive(outcome):
                self._refuse(outcome)
                return
            await self._clock.sleep(self._pause_s(outcome, attempt))
        if not self._is_child:
            await self._keep_alive()

    def log_params(self, params: Mapping[str, str]) -> None:
        """Queue parameters."""
        items = list(params.items())
        for start in range(0, len(items), PARAMS_A_CALL):
            self._spool.append_call("params", dict(items[start : start + PARAMS_A_CALL]))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags."""
        self._spool.append_call("tags", dict(tags))

    def log_artifact(self, path: str, name: str) -> None:
        """Queue a file."""
        self._spool.append_call("artifact", {"path": path, "name": name})

    def finish(self, status: str, end_time_ms: int) -> None:
        """Queue the end of the run, if it is ours to end."""
        if not self._is_child:
            self._spool.append_call("status", {"status": status, "end_time_ms": end_time_ms})
            self._spool.put("is_over", True)

    async def _find_or_create(self) -> Outcome | None:
        """Try once; None when the run is known."""
        given = self.run_id or self._settings.run_id
        if given is not None:
            return await self._resume(given)
        experiment_id, outcome = await self._find_experiment()
        if experiment_id is None:
            return outcome
        found = await self._client.find_runs(experiment_id, CLIENT_UUID_TAG, self._client_uuid, self._timeout_s)
        if not found.is_delivered:
            return found
        runs = found.answer.get("runs") or []
        if runs:
            self._known(runs[0])
            return None
        if self._is_child:
            return Outcome(Verdict.RETRY, cause="the parent process has not created the run yet")
        created = await self._client.create_run(self._creation(experiment_id), self._timeout_s)
        if not created.is_delivered:
            return created
        self._known(created.answer["run"])
        return None

    async def _resume(self, run_id: str) -> Outcome | None:
        outcome = await self._client.get_run(run_id, self._timeout_s)
        if not outcome.is_delivered:
            return outcome
        run = outcome.answer["run"]
        if not self._is_child and run["info"].get("status") != "RUNNING":
            outcome = await self._client.update_run(run_id, "RUNNING", None, self._timeout_s)
            if not outcome.is_delivered:
                return outcome
        self._known(run)
        return None

    async def _find_experiment(self) -> tuple[str | None, Outcome]:
        """The experiment's id, or the outcome that kept it from being known."""
        name, given_id = self._settings.experiment_name, self._settings.experiment_id
        if name is None:
            return given_id or "0", Outcome(Verdict.DELIVERED)
        outcome = await self._client.get_experiment_by_name(name, self._timeout_s)
        if outcome.status == 404 and outcome.answer:
            outcome = await self._client.create_experiment(name, self._timeout_s)
        if not outcome.is_delivered:
            return None, outcome
        answer = outcome.answer
        found = str(answer.get("experiment_id") or answer.get("experiment", {}).get("experiment_id"))
        if given_id not in {None, found}:
            cause = f"experiment {name!r} has the id {found}, not {given_id}"
            return None, Outcome(Verdict.HELD, 400, cause, "Give MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID.")
        return found, outcome

    def _creation(self, experiment_id: str) -> dict[str, Any]:
        tags = {**source_tags(), "rltelemetry.service": self._settings.service_name, **self._settings.tags}
        tags[CLIENT_UUID_TAG] = self._client_uuid
        name = {"run_name": self._settings.run_name} if self._settings.run_name else {}
        listed = [{"key": key, "value": value} for key, value in tags.items()]
        return {"experiment_id": experiment_id, "start_time": self._started_ms, "tags": listed, **name}

    def _known(self, run: Mapping[str, Any]) -> None:
        info = run["info"]
        self.experiment_id = str(info["experiment_id"])
        scheme, _, root = str(info.get("artifact_uri", "")).partition(":")
        self.artifact_root = root.strip("/") if scheme == "mlflow-artifacts" else None
        self.run_id = str(info["run_id"])
        self._spool.put("run_id", self.run_id)
        self._spool.put("experiment_id", self.experiment_id)
        self._settled.set()
        if not self._is_child:
            self._notices.info(f"MLflow run: {self.run_url}")

    def _refuse(self, outcome: Outcome) -> None:
        self.is_refused = True
        self._settled.set()
        self._notices.once(
            "run refused",
            f"metrics are off for this run: MLflow at {self._settings.tracking_uri} refuses it: {outcome} "
            "Points are kept on disk; training and traces go on.",
        )

    def _pause_s(self, outcome: Outcome, attempt: int) -> float:
        if attempt >= self._settings.request_attempts:
            self._notices.warn(
                f"run {outcome.cause[:40]}",
                f"MLflow at {self._settings.tracking_uri} cannot be reached: {outcome} "
                "Training goes on; the data is kept and sent when it answers.",
            )
        pause_s = min(MAX_BACKOFF_S, 0.25 * 2.0 ** min(attempt, 8))
        return max(random.uniform(pause_s / 2, pause_s), outcome.retry_after_s)

    async def _keep_alive(self) -> None:
        """Tag the run with the time, best effort, so that a viewer can tell a dead run from a silent one."""
        while self.run_id is not None:
            stamp = datetime.fromtimestamp(self._clock.time_ns() / 1e9, UTC).isoformat(timespec="seconds")
            await self._client.set_tags(self.run_id, {HEARTBEAT_TAG: stamp}, self._timeout_s)
            await self._clock.sleep(HEARTBEAT_S)

    @property
    def _timeout_s(self) -> float:
        return self._settings.request_timeout_s


def _is_definitive(outcome: Outcome) -> bool:
    """Whether asking again is pointless: a client error, but for those that pass."""
    return 400 <= outcome.status < 500 and outcome.verdict is not Verdict.RETRY
