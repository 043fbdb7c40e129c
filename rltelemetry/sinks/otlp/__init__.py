"""Spans, in OTLP: to MLflow through its spool, and to any other back end."""

from rltelemetry.sinks.otlp.foreign import foreign_endpoint
from rltelemetry.sinks.otlp.sink import OtlpSink

__all__ = ["OtlpSink", "foreign_endpoint"]
