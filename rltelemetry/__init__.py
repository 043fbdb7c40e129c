"""One structlog call becomes a dashboard line, an event on an OTLP trace and MLflow metric points."""
