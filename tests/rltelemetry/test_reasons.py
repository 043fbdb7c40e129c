"""Why a run did not finish: one line, bounded, without secrets."""

import signal

import pytest

from rltelemetry.reasons import MAX_REASON, reason_of


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (None, ""),
        (ValueError("the loss is nan"), "ValueError: the loss is nan"),
        (KeyboardInterrupt(), "Ctrl-C"),
        (signal.SIGTERM, "SIGTERM"),
        (SystemExit(0), ""),
        (SystemExit(None), ""),
        (SystemExit(3), "exit code 3"),
        (SystemExit("no such file"), "no such file"),
        (SystemExit(143), "SIGTERM"),
        (SystemExit(129), "SIGHUP"),
        ("a text of the program's own", "a text of the program's own"),
    ],
)
def test_cause_has_a_reason(cause: object, reason: str) -> None:
    assert reason_of(cause) == reason


def test_reason_is_one_bounded_line_without_secrets() -> None:
    error = RuntimeError("cannot log in\n at https://ada:s3cret@host\n with password=hunter2 " + "x" * 10_000)
    reason = reason_of(error)
    assert "\n" not in reason
    assert "s3cret" not in reason
    assert "hunter2" not in reason
    assert reason.startswith("RuntimeError: cannot log in")
    assert len(reason) < MAX_REASON + 50


def test_exception_that_cannot_be_printed_has_a_reason_all_the_same() -> None:
    assert "UnprintableError" in reason_of(UnprintableError())
