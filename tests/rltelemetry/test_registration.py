"""Finding a run or creating it: once, whatever happens to the requests, and by whom it may be done."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from delivery_bench import Bench, status

from rltelemetry.plan import CLIENT_UUID_TAG, OWNER_TAG, RunPlan
from rltelemetry.registration import Registration, Role
from rltelemetry.sinks.mlflow import RunFacts
from rltelemetry.sinks.mlflow.backoff import Patience
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict

PLAN = RunPlan(
    tracking_uri="http://localhost:5000",
    client_uuid="11111111-2222-3333-4444-555555555555",
    owner="66666666-7777-8888-9999-000000000000",
    run_id=None,
    experiment_id=None,
    experiment_name=None,
    run_name="named",
    tags={"algo": "ppo"},
    started_ms=1_700_000_000_123,
)


class Desk(Bench):
    """A server and a plan."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.runs_before = len(self.server.runs())
        self.plan = RunPlan(**{**PLAN.facts, **changes})
        self.patience = Patience(3.0, self.clock)

    def registration(self, role: Role = "owner") -> Registration:
        return Registration(self.plan, role, self.client, self.patience)

    def register(self, registration: Registration | None = None) -> RunFacts | Outcome:
        made = registration or self.registration()
        result: RunFacts | Outcome = self.do(made.register)
        return result

    def created(self) -> int:
        return len(self.server.runs()) - self.runs_before


def test_new_run_has_what_was_planned() -> None:
    desk = Desk()
    facts = desk.register()
    assert isinstance(facts, RunFacts)
    run = desk.server.run(facts.run_id)
    assert (run.name, run.start_time_ms, run.status, run.experiment_id) == ("named", 1_700_000_000_123, "RUNNING", "0")
    assert {"algo": "ppo", CLIENT_UUID_TAG: PLAN.client_uuid, OWNER_TAG: PLAN.owner}.items() <= run.tags.items()
    assert (facts.experiment_id, facts.status, facts.owner) == ("0", "RUNNING", PLAN.owner)
    assert facts.artifact_root == f"0/{facts.run_id}/artifacts"


def test_real_server_says_the_same(any_mlflow: Any) -> None:
    from rltelemetry.settings import Settings
    from rltelemetry.sinks.mlflow.client import MlflowClient
    from rltelemetry.testing import FakeClock

    experiment = any_mlflow.create_experiment(f"registration {id(any_mlflow)}")
    plan = RunPlan(**{**PLAN.facts, "experiment_id": experiment})

    async def scenario() -> tuple[Any, Any]:
        client = MlflowClient(Settings(tracking_uri=any_mlflow.uri))
        try:
            patience = Patience(20.0, FakeClock())
            first = await Registration(plan, "owner", client, patience).register()
            return first, await Registration(plan, "heir", client, patience).register()
        finally:
            await client.close()

    first, second = asyncio.run(scenario())
    assert first == second
    assert (first.status, first.owner, first.experiment_id) == ("RUNNING", PLAN.owner, experiment)
    assert first.artifact_root is not None
    assert len(any_mlflow.runs(experiment)) == 1


@pytest.mark.parametrize("answer", [{}, {"experiment": None}, {"experiment": []}, {"experiment": {"name": "walk"}}])
def test_answer_without_an_experiment_is_none_of_mlflows(answer: Any) -> None:
    desk = Desk(experiment_name="walk")
    desk.fail(status(200, answer, content_type="application/json"), route="experiments/get-by-name")
    outcome = desk.register()
    assert isinstance(outcome, Outcome)
    assert "holds no experiment" in outcome.cause
    assert desk.created() == 0


@pytest.mark.parametrize("failure", [httpx.ReadError("reset"), httpx.ReadTimeout("slow"), status(503)])
def test_answer_that_was_lost_makes_no_second_run(failure: Any) -> None:
    desk = Desk()
    desk.fail(failure, route="runs/create", stores=True)
    registration = desk.registration()
    assert isinstance(desk.register(registration), Outcome)
    assert isinstance(desk.register(registration), RunFacts)
    assert desk.created() == 1


def test_twin_that_a_slow_server_made_is_removed_and_nothing_else() -> None:
    desk = Desk()
    late: list[Callable[[], Any]] = []

    def fault(request: Any) -> Any:
        if "runs/create" in request.path and not late:
            late.append(lambda: desk.server.handle(request))
            return httpx.ReadTimeout("slow")
        return None

    desk.faults.append(fault)
    registration = desk.registration()
    desk.register(registration)
    facts = desk.register(registration)
    assert isinstance(facts, RunFacts)
    late[0]()  # the server comes round to it at last
    assert desk.created() == 2
    desk.do(lambda: registration.remove_twins(facts))
    assert desk.created() == 1
    assert desk.server.run(facts.run_id).lifecycle_stage == "active"


def test_nobody_looks_for_twins_that_cannot_be() -> None:
    desk = Desk()
    registration = desk.registration()
    facts = desk.register(registration)
    assert isinstance(facts, RunFacts)
    before = len(desk.requests)
    desk.do(lambda: registration.remove_twins(facts))
    assert len(desk.requests) == before


def test_child_waits_for_its_parent_to_create_the_run() -> None:
    desk = Desk()
    child = desk.registration("child")
    outcome = desk.register(child)
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.RETRY
    assert desk.created() == 0
    made = desk.register()
    assert desk.register(child) == made


@pytest.mark.parametrize(("role", "after"), [("owner", "RUNNING"), ("child", "FINISHED"), ("heir", "FINISHED")])
def test_only_an_owner_makes_a_finished_run_its_own(role: Role, after: str) -> None:
    desk = Desk()
    first = desk.register()
    assert isinstance(first, RunFacts)
    desk.server.ask(
        "POST", "/api/2.0/mlflow/runs/update", {"run_id": first.run_id, "status": "FINISHED", "end_time": 9}
    )
    desk.plan = RunPlan(**{**PLAN.facts, "owner": "somebody-else", "run_id": first.run_id})
    assert isinstance(desk.register(desk.registration(role)), RunFacts)
    run = desk.server.run(first.run_id)
    assert run.status == after
    assert run.tags[OWNER_TAG] == ("somebody-else" if role == "owner" else PLAN.owner)


def test_experiment_is_made_by_name_and_found_again() -> None:
    desk = Desk(experiment_name="mine")
    made = desk.register()
    desk.plan = RunPlan(**{**desk.plan.facts, "client_uuid": "another-run"})
    again = desk.register()
    assert isinstance(made, RunFacts)
    assert isinstance(again, RunFacts)
    assert made.experiment_id == again.experiment_id == "1"
    assert made.run_id != again.run_id


def test_experiment_that_somebody_else_makes_meanwhile_is_used() -> None:
    desk = Desk(experiment_name="mine")

    def fault(request: Any) -> Any:
        if request.path.endswith("experiments/create"):
            desk.server.create_experiment("mine")
            desk.faults.clear()
        return None

    desk.faults.append(fault)
    facts = desk.register()
    assert isinstance(facts, RunFacts)
    assert facts.experiment_id == "1"


def test_name_and_id_that_do_not_match_are_refused() -> None:
    desk = Desk(experiment_name="mine", experiment_id="77")
    outcome = desk.register()
    assert isinstance(outcome, Outcome)
    assert "not 77" in outcome.cause
    assert desk.created() == 0


@pytest.mark.parametrize(
    ("changes", "code"), [({"run_id": "0" * 32}, 404), ({"experiment_id": "999"}, 404), ({"experiment_id": "x"}, 400)]
)
def test_what_does_not_exist_is_said(changes: dict[str, str], code: int) -> None:
    outcome = Desk(**changes).register()
    assert isinstance(outcome, Outcome)
    assert outcome.status == code


@pytest.mark.parametrize("body", [{}, {"run": None}, {"run": {"info": {}}}, {"run": [1]}, {"runs": [{}]}])
def test_answer_without_a_run_is_no_run(body: Any) -> None:
    desk = Desk()
    desk.fail_always(status(200, body))
    outcome = desk.register()
    assert isinstance(outcome, Outcome)
    assert outcome.verdict is Verdict.HELD
