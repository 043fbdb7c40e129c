"""Whether the server lets us in, has the experiment, and takes traces for it."""

from rltelemetry.doctor.findings import Finding, failed, ok, skipped
from rltelemetry.schema import DEFAULT_EXPERIMENT
from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import NO_EXPERIMENT, NO_RUN, MlflowClient, Outcome, read_experiment, read_run

__all__ = ["check_access", "check_run", "check_traces"]


async def check_access(client: MlflowClient, settings: Settings, timeout_s: float) -> tuple[list[Finding], str | None]:
    """Look the experiment up; returns its id, too, None if there is none to be used."""
    name, given_id = settings.experiment_name, settings.experiment_id
    if name is not None:
        outcome = await client.get_experiment_by_name(name, timeout_s)
    else:
        outcome = await client.get_experiment(given_id or DEFAULT_EXPERIMENT, timeout_s)
    if outcome.status == 0:
        return [failed("credentials", outcome)], None
    if outcome.status in {401, 403}:
        return [_refused(outcome, settings)], None
    experiment, experiment_id = _judge(outcome, name, given_id)
    return [ok("credentials", f"it lets us in; sent were {_who(settings)}"), experiment], experiment_id


async def check_run(client: MlflowClient, run_id: str, timeout_s: float) -> Finding:
    """Look the run up that is to be carried on."""
    outcome = await client.get_run(run_id, timeout_s)
    if not outcome.is_delivered:
        return failed("run", outcome, "Unset MLFLOW_RUN_ID for a new run, or give the id of one on this server.")
    run = read_run(outcome.answer)
    if run is None:
        return failed("run", NO_RUN)
    if run.is_deleted:
        return failed("run", f"{run_id} has been deleted", f"Restore it (`mlflow runs restore --run-id {run_id}`).")
    return ok("run", f"{run.name!r} is {run.status}")


async def check_traces(client: MlflowClient, settings: Settings, experiment_id: str, timeout_s: float) -> Finding:
    """Send an empty export: MLflow refuses it with 400, and that is what a working route does."""
    if not settings.traces:
        return skipped("traces", "traces are switched off")
    outcome = await client.send_traces(b"", experiment_id, None, timeout_s)
    if outcome.status == 400:
        return ok("traces", "POST /v1/traces accepts the header (an empty export is answered 400, as it should be)")
    seen, remedy = _TRACE_ANSWERS.get(outcome.status, (outcome.cause, outcome.remedy or "Check the address."))
    if outcome.is_missing:
        seen, remedy = outcome.cause, "Give the id of an experiment that exists."
    return failed("traces", f"POST /v1/traces: {seen}", remedy)


_TRACE_ANSWERS = {
    200: ("200 for an empty export, which MLflow refuses", "Something else than MLflow answers on this route."),
    401: ("401: this route wants credentials, too", "Give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."),
    404: (
        "404: there is no such route",
        "It needs MLflow 3.6 or newer with its default server: start it without --gunicorn-opts and --waitress-opts.",
    ),
    405: ("405: POST is not allowed there", "The address must be the server's, without /v1/traces or another route."),
    422: ("422: the header x-mlflow-experiment-id does not arrive", "A proxy on the way drops it: let it pass."),
    501: (
        "501: this server's store takes no traces",
        "Start it on a database: `mlflow server --backend-store-uri sqlite:///mlflow.db`.",
    ),
}


def _refused(outcome: Outcome, settings: Settings) -> Finding:
    if outcome.status == 403:
        return failed("credentials", outcome.cause, outcome.remedy)
    given = _who(settings)
    return failed("credentials", f"401: the server asks for credentials; sent were {given}", outcome.remedy)


def _who(settings: Settings) -> str:
    if settings.username:
        return f"those of {settings.username}"
    return "a token" if settings.token else "none"


def _judge(outcome: Outcome, name: str | None, given_id: str | None) -> tuple[Finding, str | None]:
    what = f"{name!r}" if name is not None else f"{given_id or DEFAULT_EXPERIMENT}"
    source = "MLFLOW_EXPERIMENT_NAME" if name is not None else "MLFLOW_EXPERIMENT_ID"
    if outcome.is_missing:
        if name is not None:
            return ok("experiment", f"{what} does not exist yet and will be made"), DEFAULT_EXPERIMENT
        return failed(
            "experiment",
            f"there is no experiment {what} on this server",
            f"Set {source} to one that is there (`mlflow experiments search`), or MLFLOW_EXPERIMENT_NAME: it is made.",
        ), None
    if not outcome.is_delivered:
        return failed("experiment", outcome), None
    experiment = read_experiment(outcome.answer)
    if experiment is None:
        return failed("experiment", NO_EXPERIMENT), None
    found = experiment.experiment_id
    if experiment.is_deleted:
        remedy = f"Restore it (`mlflow experiments restore --experiment-id {found}`), or set {source} to another."
        return failed("experiment", f"{what} has been deleted", remedy), None
    if given_id not in {None, found}:
        seen = f"the experiment {what} has the id {found}, not {given_id}"
        return failed("experiment", seen, "Give MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, not both."), None
    return ok("experiment", f"{experiment.name!r} has the id {found}"), found
