"""The plan of a run: what outlives the process, and no secret in it."""

import json
from dataclasses import replace

import pytest

from rltelemetry.plan import CLIENT_UUID_TAG, OWNER_TAG, RunPlan
from rltelemetry.settings import resolve
from rltelemetry.types import Origin


def plan(**fields: object) -> RunPlan:
    return RunPlan.of(resolve(fields, {}).settings, Origin("uuid-of-the-run"), 1_700_000_000_000)


def test_plan_survives_as_json() -> None:
    made = plan(run_name="n", tags={"a": "b"}, experiment_name="e")
    remembered = json.loads(json.dumps({"plan": made.facts, "other": 1}))
    assert RunPlan.load(remembered) == made
    assert RunPlan.load({**remembered, "run_id": "r"}) == replace(made, run_id="r"), "known since"


@pytest.mark.parametrize("facts", [None, 3, {}, {"client_uuid": "x"}, {**plan().facts, "new": 1}])
def test_what_is_no_plan_is_none(facts: object) -> None:
    assert RunPlan.load({"plan": facts, "run_id": "r"}) is None
    assert RunPlan.load({}) is None


def test_each_process_has_a_name_of_its_own() -> None:
    assert plan().owner != plan().owner


def test_request_names_client_and_owner() -> None:
    made = plan(tags={"algo": "ppo"}, service_name="svc")
    tags = {pair["key"]: pair["value"] for pair in made.creation("7")["tags"]}
    assert (tags[CLIENT_UUID_TAG], tags[OWNER_TAG]) == ("uuid-of-the-run", made.owner)
    assert (tags["algo"], tags["rltelemetry.service"]) == ("ppo", "svc")
    assert made.creation("7")["experiment_id"] == "7"
    assert "run_name" not in made.creation("7")
    assert plan(run_name="n").creation("7")["run_name"] == "n"


def test_secrets_stay_out_of_the_plan() -> None:
    made = plan(
        tracking_uri="http://me:hunter2@host:5000",
        token="hunter2",
        tags={"api_key": "hunter2", "url": "https://u:hunter2@host/x", "note": "fine"},
    )
    assert "hunter2" not in json.dumps(made.facts)
    assert made.tags["note"] == "fine"
    assert made.tracking_uri == "http://host:5000"


def test_run_of_the_parent_is_that_of_the_child() -> None:
    child = RunPlan.of(resolve({"run_id": "given"}, {}).settings, Origin("u", run_id="known", is_child=True), 0)
    assert child.run_id == "known"
