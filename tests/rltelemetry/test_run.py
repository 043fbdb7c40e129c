"""A run's life: waited for, kept alive, refused with one warning, and left alone by whom it does not belong to."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from delivery_bench import Bench, status
from test_registration import PLAN

from rltelemetry.plan import HEARTBEAT_TAG, RunPlan
from rltelemetry.registration import Role
from rltelemetry.run import HEARTBEAT_S, MAX_BACKOFF_S, Run

REFUSED = httpx.ConnectError("connection refused")


class Life(Bench):
    """A run with its surroundings."""

    def __init__(self, role: Role = "owner", startup_s: float = 0.0, **changes: Any) -> None:
        super().__init__()
        plan, settings = RunPlan(**{**PLAN.facts, **changes}), self.settings.model_copy(update={"startup_s": startup_s})
        self.life = Run(plan, role, settings, self.spool, self.client, self.notices, self.clock)

    def live(self, seconds: float) -> None:
        """Let the run live for a while."""

        async def scenario() -> None:
            living = asyncio.create_task(self.life.start())
            await self.pass_time(living.done, seconds)
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)

        self.do(scenario)

    def settle(self, seconds: float, *, is_patient: bool) -> float:
        """Wait for the run; says how long that took."""

        async def scenario() -> float:
            living = asyncio.create_task(self.life.start())
            start = self.clock.monotonic()
            settling = asyncio.create_task(self.life.settle(start + seconds, is_patient=is_patient))
            await self.pass_time(settling.done)
            await settling
            took = self.clock.monotonic() - start
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            return took

        took_s: float = self.do(scenario)
        return took_s

    def calls(self) -> list[Any]:
        found = []
        while (row := self.spool.head("call")) is not None:
            found.append(json.loads(row.body))
            self.spool.ack(row)
        return found


def test_known_run_is_said_with_its_page_and_kept_for_the_next_process() -> None:
    life = Life()
    assert (life.life.run_id, life.life.run_url, life.life.experiment_id) == (None, None, None)
    life.live(1.0)
    assert life.said == [f"MLflow run: http://localhost:5000/#/experiments/0/runs/{life.life.run_id}"]
    assert life.spool.get("run_id") == life.life.run_id
    assert life.life.wait_ready(0.0)


def test_heart_beats_once_a_minute() -> None:
    life = Life()
    life.live(3.5 * HEARTBEAT_S)
    beats = [json.loads(request.body)["tags"][0] for request in life.requests if b"heartbeat" in request.body]
    assert [beat["key"] for beat in beats] == [HEARTBEAT_TAG] * 4
    assert beats[0]["value"].startswith("2023-11-14T22:13:20")
    assert beats[-1]["value"] == life.server.run(str(life.life.run_id)).tags[HEARTBEAT_TAG]


def test_failing_heartbeat_is_nobodys_business() -> None:
    life = Life()
    life.live(1.0)
    before = len(life.said)
    life.fail_always(REFUSED)
    life.live(3 * HEARTBEAT_S)
    assert len(life.said) == before


def test_server_that_is_starting_is_not_complained_about() -> None:
    life = Life(startup_s=60.0)
    life.fail_always(REFUSED)
    life.live(50.0)
    assert life.said == []
    life.live(40.0)
    assert "cannot be reached" in life.said[0]


def test_server_that_is_away_is_waited_for_with_one_line_in_half_a_minute() -> None:
    life = Life()
    life.fail_always(REFUSED)
    life.live(100.0)
    assert not life.life.wait_ready(0.0)
    assert 2 <= len(life.said) <= 4
    assert all("cannot be reached" in line and "ssh -N" in line for line in life.said)
    gaps = [after - before for before, after in zip(life.sent_at, life.sent_at[1:], strict=False)]
    assert max(gaps) <= MAX_BACKOFF_S + 0.2
    life.faults.clear()
    life.live(MAX_BACKOFF_S + 1)
    assert life.life.wait_ready(0.0)


@pytest.mark.parametrize("code", [400, 401, 403, 404])
def test_refusal_switches_metrics_off_with_one_warning(code: int) -> None:
    life = Life()
    life.fail_always(status(code, {"error_code": "X", "message": "no"}))
    life.live(60.0)
    assert life.life.is_refused
    assert not life.life.wait_ready(60.0), "nobody waits for what will not be"
    assert len(life.requests) == 1
    (said,) = life.said
    assert "metrics are off for this run" in said


@pytest.mark.parametrize("code", [408, 425, 429, 500, 503])
def test_what_passes_refuses_nothing(code: int) -> None:
    life = Life()
    life.fail(*[status(code)] * 3)
    life.live(60.0)
    assert life.life.wait_ready(0.0)


def test_servers_wish_is_a_floor_here_too() -> None:
    life = Life()
    life.fail(status(429, retry_after="9"))
    life.live(30.0)
    assert life.sent_at[1] - life.sent_at[0] >= 8.99


def test_time_out_lengthens_the_patience() -> None:
    life = Life()
    life.fail(httpx.ReadTimeout("slow"), httpx.ReadTimeout("slow"))
    life.live(60.0)
    assert life.timeouts[:3] == pytest.approx([3.0, 10.0, 30.0])


def test_impatient_wait_leaves_a_server_that_is_down() -> None:
    life = Life()
    life.fail_always(REFUSED)
    assert life.settle(60.0, is_patient=False) < 3.0
    assert len(life.requests) == life.settings.request_attempts
    assert life.settle(60.0, is_patient=False) < 1.0
    assert len(life.requests) <= life.settings.request_attempts + 2


def test_patient_wait_ends_with_the_run() -> None:
    life = Life()
    life.fail(*[REFUSED] * 8)
    life.settle(600.0, is_patient=True)
    assert life.life.run_id is not None


def test_wait_ends_with_a_refusal() -> None:
    life = Life()
    life.fail_always(status(401))
    assert life.settle(600.0, is_patient=True) < 1.0


def test_wait_ends_at_its_deadline_when_the_server_hangs() -> None:
    life = Life()

    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    life.client.find_runs = hang  # type: ignore[method-assign]

    async def scenario() -> None:
        living = asyncio.create_task(life.life.start())
        await life.life.settle(life.clock.monotonic() + 0.05, is_patient=True)
        living.cancel()

    life.do(scenario)
    assert life.life.run_id is None


def test_child_says_nothing_and_has_no_heartbeat() -> None:
    life = Life("child")
    life.fail_always(REFUSED)
    life.live(60.0)
    assert life.said == []
    parent = Life()
    parent.live(1.0)
    child = Life("child", run_id=parent.life.run_id)
    child.server = parent.server
    child.live(5.0)
    assert child.life.experiment_id == "0"
    assert child.said == []
    assert len(child.requests) == 1


def test_child_knows_at_once_what_its_parent_knew() -> None:
    assert Life("child", run_id="r").life.run_id == "r"
    assert Life("owner", run_id="r").life.run_id is None, "a given run may not exist"


def test_many_parameters_and_tags_go_in_calls_of_a_hundred() -> None:
    life = Life()
    many = {f"p{index}": "1" for index in range(250)}
    life.life.log_params(many)
    life.life.set_tags(many)
    assert [(name, len(arguments)) for name, arguments in life.calls()] == [
        (name, count) for name in ("params", "tags") for count in (100, 100, 50)
    ]


@pytest.mark.parametrize(("role", "calls"), [("owner", 1), ("heir", 1), ("child", 0)])
def test_only_a_child_leaves_the_end_to_somebody_else(role: Role, calls: int) -> None:
    life = Life(role)
    life.life.finish("FAILED", 77, "")
    assert life.calls() == [["status", {"status": "FAILED", "end_time_ms": 77}]] * calls
    assert life.spool.get("is_over") == (True if calls else None)


def test_reason_of_an_end_stands_before_it() -> None:
    life = Life("owner")
    life.life.finish("FAILED", 77, "ValueError: broken")
    assert life.calls() == [
        ["tags", {"rltelemetry.reason": "ValueError: broken"}],
        ["status", {"status": "FAILED", "end_time_ms": 77}],
    ]


def test_tags_and_artifacts_wait_in_the_spool() -> None:
    life = Life()
    life.life.set_tags({"a": "b"})
    life.life.log_artifact("/x/y", "y")
    assert life.calls() == [["tags", {"a": "b"}]]
    row = life.spool.head("artifact")
    assert row is not None
    assert json.loads(row.body) == ["artifact", {"path": "/x/y", "name": "y"}]
