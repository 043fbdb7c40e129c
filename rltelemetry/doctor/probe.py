"""A point and a trace of the doctor's own: stored, read back, compared, deleted."""

import time
from typing import Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from rltelemetry.doctor.findings import Finding, failed, ok, skipped, warning
from rltelemetry.sinks.mlflow import (
    NO_RUN,
    MlflowClient,
    Outcome,
    RunFacts,
    read_points,
    read_run,
    read_trace_ids,
    trace_name,
)
from rltelemetry.types import MetricPoint

__all__ = ["Probe"]

RUN_NAME: Final = "rltelemetry doctor"
KEY: Final = "misc/doctor"
VALUE: Final = 0.1
"""A number that no binary fraction equals: what comes back must be the very same float."""


class Probe:
    """Writes into a run of its own, which it deletes at the end.

    Args:
        client: the way to the server.
        experiment_id: where the run is made.
        timeout_s: for each request.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, timeout_s: float) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._timeout_s = timeout_s

    async def findings(self, *, wants_traces: bool) -> list[Finding]:
        """Make the probes, and leave nothing behind but a run in MLflow's bin."""
        now_ms = time.time_ns() // 1_000_000
        body = {"experiment_id": self._experiment_id, "start_time": now_ms, "run_name": RUN_NAME, "tags": []}
        created = await self._client.create_run(body, self._timeout_s)
        run = read_run(created.answer)
        if run is None:
            why = "no run could be made"
            refusal = NO_RUN if created.is_delivered else created
            return [failed("metric probe", refusal), skipped("trace probe", why), skipped("artifacts", why)]
        run_id = run.run_id
        metric = await self._store_point(run_id, MetricPoint(KEY, VALUE, 1, now_ms))
        trace = await self._store_trace(run_id) if wants_traces else skipped("trace probe", "it takes no traces")
        deleted = await self._client.delete_run(run_id, self._timeout_s)
        if not deleted.is_delivered and not metric.is_failure:
            metric = warning(
                "metric probe", f"{metric.seen}, but its run stays: {deleted.cause}", f"Delete run {run_id}."
            )
        return [metric, trace, _check_artifacts(run)]

    async def _store_point(self, run_id: str, point: MetricPoint) -> Finding:
        stored = await self._client.log_points(run_id, [point], self._timeout_s)
        if not stored.is_delivered:
            return failed("metric probe", stored)
        read = await self._client.get_points(run_id, KEY, "", self._timeout_s)
        if not read.is_delivered:
            return failed("metric probe", read)
        found = read_points(read.answer)
        if found != [point]:
            seen = f"{point.value!r} at step {point.step} came back as {[tuple(each) for each in found]}"
            return failed("metric probe", seen, "This server, or a proxy before it, changes what it is sent.")
        return ok("metric probe", "a point was stored, read back unchanged, and deleted with its run")

    async def _store_trace(self, run_id: str) -> Finding:
        trace_id, body = _make_trace()
        sent = await self._client.send_traces(body, self._experiment_id, run_id, self._timeout_s)
        if not sent.is_delivered:
            return failed("trace probe", sent)
        read = await self._client.get_trace(trace_id, self._timeout_s)
        linked = await self._client.find_traces(self._experiment_id, run_id, self._timeout_s)
        deleted = await self._client.delete_traces(self._experiment_id, [trace_id], self._timeout_s)
        if not read.is_delivered:
            return failed("trace probe", read)
        return _judge_trace(trace_id, linked, deleted)


def _judge_trace(trace_id: str, linked: Outcome, deleted: Outcome) -> Finding:
    if not deleted.answer.get("traces_deleted"):
        seen = f"a trace was stored and read back, but it stays: {deleted.cause or 'MLflow has deleted nothing'}"
        return warning("trace probe", seen, f"Delete trace {trace_id}.")
    if trace_id not in read_trace_ids(linked.answer):
        seen = "a trace was stored, read back and deleted; this server does not link it to its run by the header"
        return warning("trace probe", seen, "Traces are linked one by one instead, which takes more requests.")
    return ok("trace probe", "a trace was stored, linked to its run, read back and deleted")


def _check_artifacts(run: RunFacts) -> Finding:
    if run.artifact_root is not None:
        return ok("artifacts", "the server keeps files")
    remedy = "Start the server with --serve-artifacts (its default); metrics and traces need no files."
    return warning(
        "artifacts", f"the server keeps none itself ({run.artifact_uri.partition(':')[0] or 'no place'})", remedy
    )


def _make_trace() -> tuple[str, bytes]:
    """Return the id, as MLflow writes it, and the export of a trace of one span."""
    provider = TracerProvider(resource=Resource.create({"service.name": RUN_NAME}), shutdown_on_exit=False)
    span = provider.get_tracer("rltelemetry").start_span(RUN_NAME)
    span.end()
    assert isinstance(span, ReadableSpan)
    trace_id = span.get_span_context().trace_id.to_bytes(16, "big")
    return trace_name(trace_id), encode_spans([span]).SerializeToString()
