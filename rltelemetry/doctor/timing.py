"""How the server's clock stands to ours, and how long it takes to answer."""

import statistics
import time
from typing import Final, NamedTuple

from rltelemetry.doctor.findings import Finding, ok, skipped, warning
from rltelemetry.sinks.mlflow import MlflowClient, Outcome

__all__ = ["Asked", "ask", "check_clock", "check_round_trip"]

SKEW_S: Final = 2.0
"""The Date header has whole seconds; below this nobody sees a difference."""

SAMPLES: Final = 5
SLOW_PART: Final = 0.3
"""A round trip that takes more than this part of the time-out leaves little for the work itself."""


class Asked(NamedTuple):
    """One exchange.

    Attributes:
        outcome: what came of it.
        sent_at_s: wall clock when it was sent.
        took_s: how long the answer took.
    """

    outcome: Outcome
    sent_at_s: float
    took_s: float


async def ask(client: MlflowClient, timeout_s: float) -> Asked:
    """Ask the server what it is, on the clock."""
    sent_at_s, began = time.time(), time.monotonic()
    outcome = await client.server_info(timeout_s)
    return Asked(outcome, sent_at_s, time.monotonic() - began)


def check_clock(asked: Asked) -> Finding:
    """Compare the server's Date with our clock half-way through the exchange."""
    theirs = asked.outcome.server_time_s
    if theirs is None:
        return skipped("clock", "the server does not tell its time")
    skew_s = theirs + 0.5 - (asked.sent_at_s + asked.took_s / 2)  # the header cuts the fraction of a second off
    if abs(skew_s) <= SKEW_S + asked.took_s / 2:
        return ok("clock", "the server's clock agrees with ours")
    direction = "ahead of" if skew_s > 0 else "behind"
    remedy = "Points carry this machine's time: charts over wall time are shifted. Set both clocks by NTP."
    return warning("clock", f"the server's clock is {abs(skew_s):.0f} s {direction} ours", remedy)


async def check_round_trip(client: MlflowClient, timeout_s: float) -> Finding:
    """Take the median of a few exchanges on one connection."""
    samples = [await ask(client, timeout_s) for _ in range(SAMPLES)]
    if lost := [asked for asked in samples if asked.outcome.status == 0]:
        outcome = lost[0].outcome
        seen = f"{len(lost)} of {SAMPLES} requests failed: {outcome.cause}"
        return warning("round trip", seen, outcome.remedy)
    median_s = statistics.median(asked.took_s for asked in samples)
    seen = f"{1000 * median_s:.1f} ms (median of {SAMPLES})"
    if median_s > SLOW_PART * timeout_s:
        return warning("round trip", seen, "Data arrives late, in large batches; nothing is lost. Look at the network.")
    return ok("round trip", seen)
