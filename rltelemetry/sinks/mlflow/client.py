"""MLflow's API: each call returns an `Outcome` and none raises.

Bodies are built here, field by field, with exact types: MLflow answers 200 to a body with one wrong type and silently
loses everything behind it (a bare NaN, a float step, a lower-case "nan"). The run's id comes first in each body: behind
something unreadable it would be lost, too.
"""

import errno
import json
import math
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from pydantic_core import to_json

from rltelemetry.facts import leads_below
from rltelemetry.redact import clean_text
from rltelemetry.schema import MAX_PARAM_LENGTH, MAX_TAG_LENGTH
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow.http import Body, BodyError, Http, Transport
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict, classify
from rltelemetry.types import MetricPoint

__all__ = ["MlflowClient"]

API: Final = "/api/2.0/mlflow/"
API_3: Final = "/api/3.0/mlflow/"
ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts/"
JSON: Final = {"Content-Type": "application/json"}

CHUNK_BYTES: Final = 1 << 18
PAGE: Final = 5000

PASSING: Final = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})
"""What may keep a file from being read for a while: too many open ones, a file server that is away."""

VERSION: Final = re.compile(r"\d+\.\d+[\w.+-]*")


class MlflowClient:
    """One MLflow server.

    Args:
        settings: address, credentials, TLS.
        transport: stands in for the network in tests.
        environ: where HOME is, for MLflow's own credentials file.
    """

    def __init__(
        self, settings: Settings, transport: Transport | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.base_uri = settings.tracking_uri
        self._http = Http(settings, transport, environ)

    async def server_info(self, timeout_s: float) -> Outcome:
        """Ask what server this is, and what time it has; open without credentials, and subject to the Host check."""
        answer = await self._http.exchange("GET", API_3 + "server-info", timeout_s)
        if isinstance(answer, Outcome):
            return answer
        return replace(classify(*answer), server_time_s=_time_s(answer.headers.get("date", "")))

    async def server_version(self, timeout_s: float) -> Outcome:
        """Ask for the version, as `answer["version"]`; skips the Host check, and may need credentials."""
        answer = await self._http.exchange("GET", "/version", timeout_s)
        if isinstance(answer, Outcome):
            return answer
        version = answer.body.decode("utf-8", "replace").strip()
        if answer.status == 200 and VERSION.fullmatch(version):
            return Outcome(Verdict.DELIVERED, 200, answer={"version": version})
        return classify(*answer)

    async def get_experiment(self, experiment_id: str, timeout_s: float) -> Outcome:
        """Look an experiment up by id."""
        return await self._request("GET", API + "experiments/get", timeout_s, query={"experiment_id": experiment_id})

    async def get_experiment_by_name(self, name: str, timeout_s: float) -> Outcome:
        """Look an experiment up by name; a deleted one is found, too."""
        return await self._request("GET", API + "experiments/get-by-name", timeout_s, query={"experiment_name": name})

    async def create_experiment(self, name: str, timeout_s: float) -> Outcome:
        """Make an experiment."""
        return await self._post("experiments/create", {"name": name}, timeout_s)

    async def create_run(self, body: Mapping[str, Any], timeout_s: float) -> Outcome:
        """Make a run; not idempotent: look for the client's own tag before a repeat."""
        return await self._post("runs/create", body, timeout_s)

    async def delete_run(self, run_id: str, timeout_s: float) -> Outcome:
        """Delete a run; it can be restored."""
        return await self._post("runs/delete", {"run_id": run_id}, timeout_s)

    async def get_run(self, run_id: str, timeout_s: float) -> Outcome:
        """Look a run up."""
        return await self._request("GET", API + "runs/get", timeout_s, query={"run_id": run_id})

    async def get_trend(self, run_id: str, key: str, num_points: int, timeout_s: float) -> Outcome:
        """Read one key's curve, thinned to about so many points: `answer["metrics"]`."""
        query = {"run_ids": run_id, "metric_key": key, "max_results": str(num_points)}
        return await self._request("GET", API + "metrics/get-history-bulk-interval", timeout_s, query=query)

    async def get_points(self, run_id: str, key: str, page: str, timeout_s: float) -> Outcome:
        """Read one key's points, as they came: `answer["metrics"]`, and `next_page_token` if there are more."""
        query = {"run_id": run_id, "metric_key": key, "max_results": str(PAGE)} | ({"page_token": page} if page else {})
        return await self._request("GET", API + "metrics/get-history", timeout_s, query=query)

    async def latest_run(self, experiment_id: str, timeout_s: float) -> Outcome:
        """Look for the run of an experiment that was started last."""
        return await self._post("runs/search", {"experiment_ids": [experiment_id], "max_results": 1}, timeout_s)

    async def find_runs(self, experiment_id: str, tag: str, value: str, timeout_s: float) -> Outcome:
        """Look for runs with a tag; `value` must not hold a quote."""
        body = {"experiment_ids": [experiment_id], "filter": f"tags.`{tag}` = '{value}'", "max_results": 5}
        return await self._post("runs/search", body, timeout_s)

    async def update_run(self, run_id: str, status: str, end_time_ms: int | None, timeout_s: float) -> Outcome:
        """Set a run's status, and its end time if there is one."""
        end = {} if end_time_ms is None else {"end_time": int(end_time_ms)}
        return await self._post("runs/update", {"run_id": run_id, "status": status, **end}, timeout_s)

    async def log_points(self, run_id: str, points: Sequence[MetricPoint], timeout_s: float) -> Outcome:
        """Store metric points; equal points are stored once, however often they are sent."""
        if any(math.isinf(point.value) for point in points):
            return Outcome(Verdict.POISON, cause="an infinite value, which MLflow would store as 1.8e308")
        metrics = [
            {"key": key, "value": _json_number(value), "timestamp": int(stamp), "step": int(step)}
            for key, value, step, stamp in points
        ]
        encoded = to_json({"run_id": run_id, "metrics": metrics})  # a quarter of the time that json takes
        return await self._request("POST", API + "runs/log-batch", timeout_s, body=encoded, headers=JSON)

    async def log_params(self, run_id: str, params: Mapping[str, str], timeout_s: float) -> Outcome:
        """Store at most MAX_ENTRIES parameters; a value that differs from a stored one is refused."""
        return await self._post(
            "runs/log-batch", {"run_id": run_id, "params": _pairs(params, MAX_PARAM_LENGTH)}, timeout_s
        )

    async def set_tags(self, run_id: str, tags: Mapping[str, str], timeout_s: float) -> Outcome:
        """Set at most MAX_ENTRIES tags."""
        return await self._post("runs/log-batch", {"run_id": run_id, "tags": _pairs(tags, MAX_TAG_LENGTH)}, timeout_s)

    async def send_traces(self, spans: bytes, experiment_id: str, run_id: str | None, timeout_s: float) -> Outcome:
        """Store encoded spans; idempotent."""
        headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment_id}
        if run_id:
            headers["x-mlflow-run-id"] = run_id
        return await self._request("POST", "/v1/traces", timeout_s, body=spans, headers=headers, needs_json=False)

    async def get_trace(self, trace_id: str, timeout_s: float) -> Outcome:
        """Look a trace up, with its spans."""
        return await self._request("GET", API_3 + "traces/get", timeout_s, query={"trace_id": trace_id})

    async def delete_traces(self, experiment_id: str, trace_ids: Sequence[str], timeout_s: float) -> Outcome:
        """Delete traces for good; `answer["traces_deleted"]` says how many there were."""
        body = {"experiment_id": experiment_id, "request_ids": list(trace_ids)}
        return await self._post("traces/delete-traces", body, timeout_s, api=API_3)

    async def find_traces(self, experiment_id: str, run_id: str, timeout_s: float) -> Outcome:
        """Look for the latest traces that are linked to a run."""
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment_id}}
        body = {"locations": [place], "filter": f"run_id = '{run_id}'", "max_results": 100}
        return await self._post("traces/search", body, timeout_s, api=API_3)

    async def link_traces(self, trace_ids: Sequence[str], run_id: str, timeout_s: float) -> Outcome:
        """Link at most 100 traces to a run, where the server does not heed the header that says so."""
        return await self._post("traces/link-to-run", {"trace_ids": list(trace_ids), "run_id": run_id}, timeout_s)

    async def put_artifact(self, artifact_path: str, path: Path, timeout_s: float) -> Outcome:
        """Upload a file to the server's artifact store; `timeout_s` counts for each piece, not for the whole."""
        try:
            file, size = _open(path)
        except (OSError, ValueError) as error:
            return _unreadable(error)
        with file:
            pieces, headers = _Pieces(file, size), {"Content-Length": str(size)}
            outcome = await self._on_artifact("PUT", artifact_path, timeout_s, pieces, headers)
        return outcome if pieces.error is None else _unreadable(pieces.error)

    async def put_text(self, artifact_path: str, text: str, timeout_s: float) -> Outcome:
        """Upload a text to the server's artifact store."""
        return await self._on_artifact("PUT", artifact_path, timeout_s, text.encode("utf-8", "replace"))

    async def delete_artifact(self, artifact_path: str, timeout_s: float) -> Outcome:
        """Remove a file from the server's artifact store."""
        return await self._on_artifact("DELETE", artifact_path, timeout_s)

    async def leave_loop(self) -> None:
        """Close the connection; the next request opens another one, on whatever loop it is made."""
        await self._http.leave_loop()

    async def close(self) -> None:
        """Close the connection; every later request fails."""
        await self._http.close()

    async def _on_artifact(
        self,
        method: str,
        artifact_path: str,
        timeout_s: float,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Put a request to the artifact store, unless its path leads elsewhere: MLflow itself never sees a `..`."""
        if not leads_below(artifact_path):
            return Outcome(Verdict.POISON, cause=f"its path leads out of the run: {clean_text(artifact_path)}")
        route = ARTIFACTS + quote(artifact_path, errors="replace")
        return await self._request(method, route, timeout_s, body=body, headers=headers, needs_json=False)

    async def _post(self, route: str, body: Mapping[str, Any], timeout_s: float, api: str = API) -> Outcome:
        encoded = json.dumps(body, allow_nan=False).encode()
        return await self._request("POST", api + route, timeout_s, body=encoded, headers=JSON)

    async def _request(
        self,
        method: str,
        route: str,
        timeout_s: float,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        needs_json: bool = True,
    ) -> Outcome:
        answer = await self._http.exchange(method, route, timeout_s, query=query, body=body, headers=headers)
        return answer if isinstance(answer, Outcome) else classify(*answer, needs_json=needs_json)


def _time_s(date: str) -> float | None:
    """The time that a Date header names, seconds since the epoch."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _json_number(value: float) -> float | str:
    """MLflow takes NaN as this very string; as a literal it would store a zero and lose the rest of the batch."""
    return "NaN" if math.isnan(value) else float(value)


def _pairs(texts: Mapping[str, str], limit: int) -> list[dict[str, str]]:
    return [{"key": _text(key), "value": _text(value)[:limit]} for key, value in texts.items()]


def _text(value: object) -> str:
    """A text that a database takes: no lone surrogates."""
    return str(value).encode("utf-8", "replace").decode()


def _open(path: Path) -> tuple[BinaryIO, int]:
    """Open a file, and say how much it holds; opening a pipe without O_NONBLOCK waits for its other end.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no file, or no path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise ValueError("it is no regular file")
    return os.fdopen(descriptor, "rb"), facts.st_size


def _unreadable(error: OSError | ValueError) -> Outcome:
    """Judge a file that cannot be read: some reasons pass, and none is the server's."""
    cause = f"the file cannot be read: {error.strerror if isinstance(error, OSError) else error}"
    is_passing = isinstance(error, OSError) and error.errno in PASSING
    return Outcome(Verdict.RETRY if is_passing else Verdict.POISON, cause=cause, is_own_fault=True)


class _Pieces(AsyncIterator[bytes]):
    """What a file held at the start, in pieces: a log file may grow meanwhile, but must not shrink.

    Attributes:
        error: what has kept it from being read, if anything.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.error: OSError | ValueError | None = None
        self._file = file
        self._size = size

    async def __anext__(self) -> bytes:
        """Read a piece.

        Raises:
            BodyError: the file has shrunk, or cannot be read.
        """
        if self._size <= 0:
            raise StopAsyncIteration
        try:
            piece = self._file.read(min(self._size, CHUNK_BYTES))
            if not piece:
                raise ValueError("it has become shorter meanwhile")
        except (OSError, ValueError) as error:
            self.error = error
            raise BodyError from error
        self._size -= len(piece)
        return piece
