"""The stream of encoded spans. They wait for the run, which links them; a server without the route gets none.

Rows are joined as they are: protobuf messages of one type, one behind the other, are one message with the repeated
fields of all.
"""

from collections.abc import Sequence
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from rltelemetry.sinks.mlflow.answers import read_trace_ids, trace_name
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.rows import Row
from rltelemetry.sinks.mlflow.way import Way

__all__ = ["TraceStream"]

REMEDY: Final = "Traces need MLflow 3.6 or newer, a database backend and its default server (uvicorn)."
ABSENT_STATUSES: Final = frozenset({404, 405, 501})
"""The route is not there; MLflow's own 404, of an experiment, carries its name of the error."""

JOINED_SPANS: Final = 100
"""Most spans of rows that are joined to one request: MLflow links a run to none of more than so many roots."""

JOINED_BYTES: Final = 900_000
"""Most bytes of them: what a request of points may have, too."""

INTERVAL_S: Final = 5.0
"""Nobody watches traces while they come, and a request costs 2 ms of CPU."""


class TraceStream:
    """Sends spans, oldest first.

    Args:
        way: what it works with.
        experiment_id: where spans go if there will be no run.
    """

    def __init__(self, way: Way, experiment_id: str) -> None:
        self.interval_s = INTERVAL_S
        self.has_more = True
        self._spool, self._client, self._run, self._notices, self.breaker, self.patience = way
        self._experiment_id = experiment_id
        self._is_absent = False
        self._is_careful = False
        self._heeds_run_header: bool | None = None

    async def send(self) -> Outcome | None:
        """Send one request's worth; None if there is nothing, or it is not known yet where it belongs."""
        if self._run.run_id is None and not self._run.is_refused:
            return None
        rows = self._spool.heads("traces", 1 if self._is_careful else JOINED_SPANS, JOINED_BYTES)
        if not rows:
            self._is_careful = False
            return None
        outcome = await self._offer(b"".join(row.body for row in rows))
        if outcome.is_delivered:
            self._spool.ack(*rows)
            self.patience.reset()
        elif self._is_absent or outcome.verdict is Verdict.POISON:
            return await self._single_out(rows, outcome)
        elif outcome.is_timeout:
            self._is_careful |= len(rows) > 1  # until nothing waits: less at once passes a thin line
        return outcome

    async def _single_out(self, rows: Sequence[Row], refusal: Outcome) -> Outcome | None:
        """Bury a refused row; of several rows, find out which one it is."""
        if len(rows) > 1:
            self._is_careful = True
            return await self.send()
        self._spool.bury(rows[0], refusal.cause)
        self._notices.warn("refused trace", f"MLflow refuses {rows[0].count} spans for good: {refusal.cause}")
        return Outcome(Verdict.DELIVERED)

    async def _offer(self, spans: bytes) -> Outcome:
        if self._is_absent:
            return Outcome(Verdict.POISON, cause="this server takes no traces")
        run_id, experiment_id = self._run.run_id, self._run.experiment_id or self._experiment_id
        outcome = await self._client.send_traces(spans, experiment_id, run_id, self.patience.left_s())
        if outcome.status in ABSENT_STATUSES and not outcome.error_code:
            self._is_absent = True
            self._notices.once("traces", f"{outcome.cause}; traces are off, metrics go on. {REMEDY}")
        elif outcome.is_delivered and run_id is not None:
            return await self._link(spans, experiment_id, run_id)
        return outcome

    async def _link(self, spans: bytes, experiment_id: str, run_id: str) -> Outcome:
        """Link the traces to the run where the server does not do so by itself, as older ones do not."""
        trace_ids = _root_traces(spans)
        if not trace_ids or self._heeds_run_header:
            return Outcome(Verdict.DELIVERED)
        if self._heeds_run_header is None:
            found = await self._client.find_traces(experiment_id, run_id, self.patience.left_s())
            if not found.is_delivered:
                return found
            self._heeds_run_header = not read_trace_ids(found.answer).isdisjoint(trace_ids)
            if self._heeds_run_header:
                return Outcome(Verdict.DELIVERED)
        return await self._client.link_traces(trace_ids, run_id, self.patience.left_s())


def _root_traces(spans: bytes) -> list[str]:
    """Return MLflow's ids of the traces whose root span is among these."""
    request = ExportTraceServiceRequest.FromString(spans)
    return [
        trace_name(span.trace_id)
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
        if not span.parent_span_id
    ]
