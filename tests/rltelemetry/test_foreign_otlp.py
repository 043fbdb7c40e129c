"""Another OTLP back end beside MLflow, named by the standard variables: http/protobuf and grpc, through real exporters.

A collector is a Go program that no Python package holds: its two protocols are spoken here by a server of the standard
library, and by grpc's own server with the service that opentelemetry-proto generates.
"""

import threading
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue
from typing import Any

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

import rltelemetry

WAIT_S = 30.0


class HttpCollector(HTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.exports: Queue[tuple[str, dict[str, str], ExportTraceServiceRequest]] = Queue()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: HttpCollector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.exports.put((self.path, dict(self.headers), ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def http_collector() -> Iterator[HttpCollector]:
    with HttpCollector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def train_once(**fields: Any) -> rltelemetry.Telemetry:
    """Train beside an MLflow that does not answer: it must not take the other back end's time at the end."""
    settings = {"service_name": "my-trainer", "metrics": False, "console": "off", "exit_timeout_s": 2.0}
    with rltelemetry.configure(**{**settings, **fields}) as telemetry:
        log = structlog.get_logger("test")
        with telemetry.span("update", update=7):
            log.info("train", category="TRAINER", critic_loss=0.5, timesteps=100)
    return telemetry


def check(export: ExportTraceServiceRequest) -> None:
    (resource,) = export.resource_spans
    assert {item.key: item.value.string_value for item in resource.resource.attributes}["service.name"] == "my-trainer"
    (scope,) = resource.scope_spans
    (span,) = scope.spans
    assert span.name == "update"
    (event,) = span.events
    assert event.name == "train"
    assert {item.key: item.value.double_value for item in event.attributes}["critic_loss"] == 0.5


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_spans_go_over_http_where_the_standard_variables_say(
    http_collector: HttpCollector, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    base = f"http://127.0.0.1:{http_collector.server_port}"
    monkeypatch.setenv(name, base if name == "OTEL_EXPORTER_OTLP_ENDPOINT" else f"{base}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=rl")
    train_once(tracking_uri="http://127.0.0.1:9")
    path, headers, export = http_collector.exports.get(timeout=WAIT_S)
    assert path == "/v1/traces"
    assert headers["x-team"] == "rl"
    check(export)


def test_spans_that_do_not_arrive_are_counted_and_said(
    http_collector: HttpCollector, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{http_collector.server_port}")
    telemetry = train_once(tracking_uri="http://127.0.0.1:9", console="dashboard")
    assert telemetry.stats().spans_unconfirmed == 0
    assert "OTLP back end" not in capsys.readouterr().err
    monkeypatch.setattr(_Handler, "do_POST", lambda self: self.send_error(400))
    telemetry = train_once(tracking_uri="http://127.0.0.1:9", console="dashboard")
    assert telemetry.stats().spans_unconfirmed == 1
    assert "OTLP back end: 1 lost" in capsys.readouterr().err


def test_spans_go_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service

    exports: Queue[ExportTraceServiceRequest] = Queue()

    class Collector(service.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: ExportTraceServiceRequest, _context: Any) -> ExportTraceServiceResponse:
            exports.put(request)
            return ExportTraceServiceResponse()

    collector = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    service.add_TraceServiceServicer_to_server(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        train_once(tracking_uri="http://127.0.0.1:9")
        check(exports.get(timeout=WAIT_S))
    finally:
        collector.stop(grace=None).wait()


def test_disabled_sdk_sends_no_spans(http_collector: HttpCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{http_collector.server_port}")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    train_once(tracking_uri="http://127.0.0.1:9")
    assert http_collector.exports.empty()
