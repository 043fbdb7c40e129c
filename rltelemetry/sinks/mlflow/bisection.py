"""Taking apart what the server refuses as a whole, by halves, until the refused items alone are left.

MLflow refuses a whole request for one bad item and stores none of it; offering the pieces again is harmless, since an
equal item is stored once.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict

__all__ = ["Split", "split"]

T = TypeVar("T")

CONFIRMATIONS: Final = 2
"""A single item that meets a server error is offered so often again before it is blamed."""


@dataclass
class Split(Generic[T]):
    """What came out.

    Attributes:
        refused: the items that it refuses, with its reason.
        failure: what kept the work from being finished; the rest is undecided then.
    """

    refused: list[tuple[T, str]] = field(default_factory=list)
    failure: Outcome | None = None


async def split(items: Sequence[T], refusal: Outcome, offer: Callable[[Sequence[T]], Awaitable[Outcome]]) -> Split[T]:
    """Offer the items in ever smaller pieces.

    Args:
        items: what was refused together.
        refusal: how.
        offer: sends some of them.
    """
    result: Split[T] = Split()
    pieces = [(items, refusal)]
    while pieces:
        piece, outcome = pieces.pop()
        if piece is not items or len(items) == 1:
            outcome = await _ask(piece, refusal, offer)
        if outcome.is_delivered:
            continue
        if not _is_refusal(outcome, refusal):
            result.failure = outcome
            return result
        if len(piece) == 1:
            result.refused.append((piece[0], outcome.cause))
        else:
            middle = len(piece) // 2
            pieces += [(piece[middle:], outcome), (piece[:middle], outcome)]
    return result


async def _ask(piece: Sequence[T], refusal: Outcome, offer: Callable[[Sequence[T]], Awaitable[Outcome]]) -> Outcome:
    """Offer a piece; a single one that meets a server error gets further chances, since such errors may pass."""
    outcome = await offer(piece)
    if len(piece) == 1 and refusal.status >= 500:
        for _ in range(CONFIRMATIONS):
            if outcome.status != refusal.status:
                break
            outcome = await offer(piece)
    return outcome


def _is_refusal(outcome: Outcome, refusal: Outcome) -> bool:
    return outcome.verdict is Verdict.POISON or (refusal.status >= 500 and outcome.status == refusal.status)
