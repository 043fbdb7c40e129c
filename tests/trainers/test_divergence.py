from typing import Literal

import pytest

from trainers.divergence import MAX_IN_A_ROW, DivergenceGuard
from trainers.errors import DivergenceError


class Run:
    """A run whose updates diverge as told, and what became of it."""

    def __init__(self, policy: Literal["stop", "skip", "rollback"], has_checkpoint: bool = True) -> None:
        self.happened: list[str] = []
        self.complaints: list[str] = []
        self._has_checkpoint = has_checkpoint
        self._guard = DivergenceGuard(policy, self._go_back, self.complaints.append)

    def update(self, *, diverges: bool) -> None:
        with self._guard.around_update(lambda: self.happened.append("anew")):
            if diverges:
                raise DivergenceError("got nan.")
            self.happened.append("learnt")

    def _go_back(self) -> bool:
        self.happened.append("back")
        return self._has_checkpoint


def test_stop_lets_it_through() -> None:
    with pytest.raises(DivergenceError, match=r"got nan\.$"):
        Run("stop").update(diverges=True)


def test_skip_leaves_the_update_out_and_starts_new_episodes() -> None:
    run = Run("skip")
    for diverges in (False, True, False):
        run.update(diverges=diverges)
    assert run.happened == ["learnt", "anew", "learnt"]
    assert run.complaints == ["got nan. The update is left out."]


def test_rollback_goes_on_from_the_last_checkpoint() -> None:
    run = Run("rollback")
    run.update(diverges=True)
    assert run.happened == ["back", "anew"]
    assert run.complaints == ["got nan. Training goes on from the last checkpoint."]


def test_rollback_before_the_first_checkpoint_only_skips() -> None:
    run = Run("rollback", has_checkpoint=False)
    run.update(diverges=True)
    assert run.complaints == ["got nan. The update is left out. (No checkpoint yet.)"]


def test_divergence_that_does_not_end_ends_the_run() -> None:
    run = Run("skip")
    for _ in range(MAX_IN_A_ROW - 1):
        run.update(diverges=True)
    with pytest.raises(DivergenceError, match=r"got nan\. That was the case 10 times in a row"):
        run.update(diverges=True)


def test_only_what_comes_in_a_row_is_counted() -> None:
    run = Run("skip")
    for update in range(5 * MAX_IN_A_ROW):
        run.update(diverges=update % MAX_IN_A_ROW > 0)
    assert run.happened.count("learnt") == 5


def test_other_errors_are_not_its_business() -> None:
    run = Run("skip")
    with pytest.raises(RuntimeError), run._guard.around_update(lambda: None):
        raise RuntimeError("defect")
