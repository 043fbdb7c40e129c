"""The stream of calls: parameters, tags and the run's end, in order."""

import json
from collections.abc import Sequence
from typing import Any, Final

from rltelemetry.sinks.mlflow.bisection import split
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.rows import Row
from rltelemetry.sinks.mlflow.way import Way

__all__ = ["CallStream"]


class CallStream:
    """Performs calls, oldest first.

    Args:
        way: what it works with.
    """

    def __init__(self, way: Way) -> None:
        self.interval_s = 0.0
        self.has_more = True
        self._spool, self._client, self._run, self._notices, self.breaker, self.patience = way

    async def send(self) -> Outcome | None:
        """Perform one call; None if there is none, or no run yet."""
        run_id = self._run.run_id
        row = self._spool.head("call") if run_id is not None else None
        if run_id is None or row is None:
            return None
        name, arguments = json.loads(row.body)
        outcome = await self._perform(run_id, name, arguments)
        if outcome.is_delivered:
            self._spool.ack(row)
            self.patience.reset()
        elif outcome.verdict is Verdict.POISON and name in {"params", "tags"}:
            return await self._take_apart(run_id, row, name, arguments, outcome)
        elif outcome.verdict is Verdict.POISON:
            self._bury(row, name, outcome.cause)
            return Outcome(Verdict.DELIVERED)
        return outcome

    async def _perform(self, run_id: str, name: str, arguments: dict[str, Any]) -> Outcome:
        timeout_s = self.patience.left_s()
        if name == "params":
            return await self._client.log_params(run_id, arguments, timeout_s)
        if name == "tags":
            return await self._client.set_tags(run_id, arguments, timeout_s)
        return await self._client.update_run(run_id, arguments["status"], arguments["end_time_ms"], timeout_s)

    async def _take_apart(
        self, run_id: str, row: Row, name: str, arguments: dict[str, Any], refusal: Outcome
    ) -> Outcome:
        """Find the entries that are refused (a parameter whose value has changed); the others are stored on the way."""

        async def offer(entries: Sequence[tuple[str, Any]]) -> Outcome:
            return await self._perform(run_id, name, dict(entries))

        parts = await split(list(arguments.items()), refusal, offer)
        if parts.failure is not None:
            return parts.failure
        if parts.refused:
            (key, _), cause = parts.refused[0]
            self._bury(row, name, f"{key!r} and {len(parts.refused) - 1} more: {cause}")
        else:
            self._spool.ack(row)
        return Outcome(Verdict.DELIVERED)

    def _bury(self, row: Row, name: str, cause: str) -> None:
        self._spool.bury(row, cause)
        self._notices.warn(f"refused {name}", f"MLflow refuses {_ARTICLE[name]} for good: {cause}")


_ARTICLE: Final = {"params": "parameters", "tags": "tags", "status": "the run's end"}
