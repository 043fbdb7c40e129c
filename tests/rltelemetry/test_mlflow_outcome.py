"""What an answer means for the data: the classes, their causes and remedies, and no secrets in any text."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from rltelemetry.sinks.mlflow.outcome import MAX_RETRY_AFTER_S, Verdict, classify, transport_failure

DELIVERED, RETRY, POISON, HELD = Verdict.DELIVERED, Verdict.RETRY, Verdict.POISON, Verdict.HELD
ACTIVE = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "The run abc must be in the \'active\' state."}'
NO_RUN = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run with id=1 not found"}'
BAD_RUN = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid value for parameter \'run_id\' supplied"}'
BAD_KEY = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid metric name"}'
PAGE = b"<!doctype html><title>404 Not Found</title>"


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, b"{}", DELIVERED),
        (201, b'{"a": 1}', DELIVERED),
        (200, b"", HELD),
        (200, b"[]", HELD),
        (200, b"<html>please log in</html>", HELD),
        (204, b"", HELD),
        (301, b"", HELD),
        (302, b"", HELD),
        (400, BAD_KEY, POISON),
        (400, b"broken", POISON),
        (400, ACTIVE, HELD),
        (400, BAD_RUN, HELD),
        (401, b"", HELD),
        (403, b"Invalid Host header", HELD),
        (403, b"", HELD),
        (404, NO_RUN, HELD),
        (404, PAGE, HELD),
        (405, b"", HELD),
        (408, b"", RETRY),
        (409, b"", HELD),
        (413, b"", POISON),
        (418, b"", HELD),
        (422, b"", POISON),
        (425, b"", RETRY),
        (429, b"", RETRY),
        (500, PAGE, RETRY),
        (501, b"", HELD),
        (502, b"", RETRY),
        (503, b'{"error_code": "TEMPORARILY_UNAVAILABLE"}', RETRY),
        (504, b"", RETRY),
        (505, b"", HELD),
        (599, b"", RETRY),
    ],
)
def test_status_and_body_decide(status: int, body: bytes, verdict: Verdict) -> None:
    outcome = classify(status, {}, body)
    assert outcome.verdict is verdict
    assert outcome.status == status


def test_trace_route_may_answer_with_nothing_but_not_with_a_page() -> None:
    assert classify(200, {}, b"", needs_json=False).is_delivered
    assert not classify(200, {"content-type": "text/html; charset=utf-8"}, b"<html>", needs_json=False).is_delivered


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (401, b"", "MLFLOW_TRACKING_USERNAME"),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts"),
        (403, b"no", "may not write"),
        (404, PAGE, "path prefix"),
        (404, NO_RUN, "deleted"),
        (400, ACTIVE, "restore"),
        (400, BAD_RUN, "id of an existing run"),
        (302, b"", "final address"),
        (200, b"<html>", "login page"),
    ],
)
def test_what_waits_for_a_person_says_what_to_do(status: int, body: bytes, hint: str) -> None:
    assert hint in classify(status, {}, body).remedy


def test_mlflows_own_error_is_told_from_a_page() -> None:
    assert classify(404, {}, NO_RUN).error_code == "RESOURCE_DOES_NOT_EXIST"
    assert classify(404, {}, PAGE).error_code == ""
    assert classify(200, {}, b'{"error_code": "x"}').error_code == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", 5.0), ("0.5", 0.5), ("-3", 0.0), ("nan", 0.0), ("inf", MAX_RETRY_AFTER_S), ("1e9", MAX_RETRY_AFTER_S),
     ("soon", 0.0), ("", 0.0)],
)  # fmt: skip
def test_servers_wish_is_read(text: str, expected: float) -> None:
    assert classify(429, {"retry-after": text}, b"").retry_after_s == expected


def test_servers_wish_may_be_a_date() -> None:
    wish = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < classify(503, {"retry-after": wish}, b"").retry_after_s <= 60
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    assert classify(503, {"retry-after": past}, b"").retry_after_s == 0.0


def test_gateway_that_gave_up_waiting_counts_as_a_time_out_whose_data_may_have_arrived() -> None:
    for status in (408, 504):
        outcome = classify(status, {}, b"")
        assert outcome.is_timeout
        assert outcome.is_uncertain
    assert not classify(503, {}, b"").is_timeout


@pytest.mark.parametrize(
    ("kind", "timeout", "uncertain"),
    [("refused", False, False), ("reset", False, True), ("timeout", True, True), ("unreachable", False, False),
     ("slow", True, True), ("resolve", False, False), ("tls", False, False), ("other", False, False)],
)  # fmt: skip
def test_lack_of_an_answer_is_tried_again_and_says_what_may_have_arrived(
    kind: str, timeout: bool, uncertain: bool
) -> None:
    outcome = transport_failure(kind, "why", is_local=False)
    assert (outcome.verdict, outcome.status, outcome.is_timeout, outcome.is_uncertain) == (RETRY, 0, timeout, uncertain)
    assert outcome.is_server_wide


@pytest.mark.parametrize(("kind", "hint"), [("refused", "ssh -N"), ("reset", "mlflow server"), ("timeout", "asleep")])
def test_on_this_machine_the_tunnel_is_the_first_suspect(kind: str, hint: str) -> None:
    assert hint in transport_failure(kind, "why", is_local=True).remedy
    assert hint not in transport_failure(kind, "why", is_local=False).remedy


@pytest.mark.parametrize(("status", "headers", "wide"), [(429, {}, True), (503, {"retry-after": "3"}, True), (502, {}, True), (500, {}, False), (400, {}, False)])  # fmt: skip # noqa: E501
def test_overload_concerns_everybody(status: int, headers: dict[str, str], wide: bool) -> None:
    assert classify(status, headers, b"{}").is_server_wide is wide


@pytest.mark.parametrize("text", ["http://me:hunter2@host/x", "Authorization: Bearer hunter2", "a?token=hunter2"])
def test_secrets_and_control_characters_never_reach_a_message(text: str) -> None:
    for outcome in (
        classify(400, {}, f'{{"error_code": "X", "message": "{text}\\u001b[31m\\n"}}'.encode()),
        classify(500, {}, f"{text}\x1b[31m\nnext".encode()),
        transport_failure("other", f"{text}\x1b[31m\nnext", is_local=False),
    ):
        assert "hunter2" not in str(outcome)
        assert all(character.isprintable() for character in str(outcome))


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"[" * 100_000, b'{"message": 3}', b"x" * 10**6])
def test_no_body_breaks_the_judgement(body: bytes) -> None:
    outcome = classify(400, {}, body)
    assert outcome.verdict is POISON
    assert len(str(outcome)) < 500
