"""What answers at the address: MLflow or something else, at this path or another, under this name, and how new."""

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from rltelemetry.doctor.findings import Finding, failed, ok, skipped, warning
from rltelemetry.sinks.mlflow import MlflowClient, Outcome

__all__ = ["check_identity", "check_store", "check_version"]

TRACES_SINCE: Final = (3, 6)


async def check_identity(
    client: MlflowClient, info: Outcome, client_for: Callable[[str], MlflowClient], timeout_s: float
) -> list[Finding]:
    """Say whether MLflow answers, and whether it accepts the name of the host.

    Args:
        client: the way to the address that was given.
        info: what it answered when asked what it is.
        client_for: makes a way to another address, to look for the right path.
        timeout_s: for each request.
    """
    if info.status == 0:
        return [failed("mlflow", info)]
    if info.status == 403 and "host" in info.cause.lower():
        return [ok("mlflow", "an MLflow server is behind it"), failed("host", info)]
    if info.is_delivered and "store_type" in info.answer:
        return [ok("mlflow", "MLflow answers"), ok("host", "the name is accepted")]
    if await _is_older_mlflow(client, timeout_s):
        return [ok("mlflow", "an MLflow answers that does not say what it is"), ok("host", "the name is accepted")]
    if info.status in {404, 405} and (found := await _right_address(client.base_uri, client_for, timeout_s)):
        return [failed("mlflow", f"{info.cause}; MLflow answers at {found}", f"Give the address {found}.")]
    if info.status in {404, 405}:
        remedy = (
            "It is no MLflow server, or one with a path prefix (`mlflow server --static-prefix /PREFIX`): "
            "give the address with the prefix."
        )
        return [failed("mlflow", info.cause, remedy)]
    if info.is_delivered:
        return [failed("mlflow", "got a JSON object that is not MLflow's", "Check the address.")]
    return [failed("mlflow", info)]


async def check_version(client: MlflowClient, timeout_s: float) -> Finding:
    """Say whether the server is new enough for traces."""
    outcome = await client.server_version(timeout_s)
    if not outcome.is_delivered:
        return skipped("version", f"it does not tell its version: {outcome.cause}")
    version = str(outcome.answer["version"])
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < TRACES_SINCE:
        return warning("version", f"MLflow {version}", "Traces need MLflow 3.6 or newer; metrics do not.")
    return ok("version", f"MLflow {version}")


def check_store(info: Outcome) -> Finding:
    """Say whether the server keeps its data in a database."""
    store = info.answer.get("store_type")
    if store is None:
        return skipped("store", "it does not say what it stores its data in")
    if store == "SqlStore":
        return ok("store", "a database (SqlStore)")
    return failed(
        "store",
        f"files ({store}): traces are refused, and every point is a slow append",
        "Start it on a database: `mlflow server --backend-store-uri sqlite:///mlflow.db`.",
    )


async def _is_older_mlflow(client: MlflowClient, timeout_s: float) -> bool:
    """Whether MLflow's REST routes answer, though the newer one does not."""
    outcome = await client.get_experiment("0", timeout_s)
    return "experiment" in outcome.answer or bool(outcome.error_code)


async def _right_address(uri: str, client_for: Callable[[str], MlflowClient], timeout_s: float) -> str | None:
    """Look for MLflow at the address without the end, or all, of its path."""
    parts = urlsplit(uri)
    path = parts.path.rstrip("/")
    while path:
        path = path.rpartition("/")[0]
        candidate = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        client = client_for(candidate)
        try:
            info = await client.server_info(timeout_s)
        finally:
            await client.close()
        if "store_type" in info.answer:
            return candidate
    return None
