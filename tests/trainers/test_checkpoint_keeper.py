from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.checkpoint import CheckpointFolder, Keeper, Progress, RunState, decode, newest_good
from trainers.config import CheckpointingConfig, PpoConfig
from trainers.ranks import Ranks
from trainers.rollout import EpisodeStatistics


class Nothing:
    """A learner without a state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        assert state == {}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[CheckpointFolder]:
    opened = CheckpointFolder(tmp_path / "run", keep=3)
    yield opened
    opened.close()


def keeper(
    folder: CheckpointFolder | None, complaints: list[str] | None = None, slow_update_s: float = 1.5, **settings: Any
) -> Keeper:
    config = PpoConfig(checkpointing=CheckpointingConfig(**settings))
    complain = pytest.fail if complaints is None else complaints.append
    return Keeper(folder, "ppo", config, dict, complain, slow_update_s=slow_update_s)


def after(update: int) -> RunState:
    return RunState(Nothing(), EpisodeStatistics(1), Progress(update))


def due(keeper: Keeper, last: int, **asked: bool) -> list[int]:
    flags = {"is_stopping": False, **asked}
    return [update for update in range(1, last + 1) if keeper.is_due(update, is_last=update == last, **flags)]


def found(folder: CheckpointFolder) -> int:
    return newest_good(folder.path, pytest.fail).update


def test_cadence_and_the_end_are_due(folder: CheckpointFolder) -> None:
    assert due(keeper(folder, interval=3), last=8) == [3, 6, 8]


def test_nothing_is_due_without_a_folder() -> None:
    assert due(keeper(None, interval=1), last=4, is_stopping=True) == []
    assert not keeper(None, interval=1, exact=True).is_barrier(1)
    assert keeper(None).newest() is None


def test_request_to_stop_is_due_but_never_between_barriers(folder: CheckpointFolder) -> None:
    assert due(keeper(folder, interval=3), last=4, is_stopping=True) == [1, 2, 3, 4]
    assert due(keeper(folder, interval=3, exact=True), last=4, is_stopping=True) == [3, 4]


def test_barriers_are_the_cadence_of_exact_runs(folder: CheckpointFolder) -> None:
    assert [update for update in range(1, 8) if keeper(folder, interval=3, exact=True).is_barrier(update)] == [3, 6]
    assert not keeper(folder, interval=3).is_barrier(3)


def test_saved_run_can_be_read(folder: CheckpointFolder) -> None:
    kept = keeper(folder)
    assert kept.newest() is None
    kept.save(after(5))
    newest = kept.newest()
    assert newest is not None
    assert newest.progress["update"] == 5
    assert kept.last_path == folder.path / "update-00000005.pt"


def test_slow_run_can_be_saved_as_it_was_before_the_update_under_way(folder: CheckpointFolder) -> None:
    kept = keeper(folder, slow_update_s=1.0)
    state = after(5)
    kept.remember(state, update_s=1.1)
    state.progress.update = 6
    kept.rescue()
    content = newest_good(folder.path, pytest.fail).content
    assert decode(content, "x").progress["update"] == 5


@pytest.mark.parametrize(("update_s", "settings"), [(0.9, {}), (1.1, {"exact": True})])
def test_fast_and_exact_runs_keep_nothing_in_memory(
    folder: CheckpointFolder, update_s: float, settings: dict[str, Any]
) -> None:
    kept = keeper(folder, slow_update_s=1.0, **settings)
    kept.remember(after(5), update_s)
    kept.rescue()
    assert folder.newest_update is None


def test_memory_that_is_older_than_the_file_is_forgotten(folder: CheckpointFolder) -> None:
    kept = keeper(folder, slow_update_s=1.0)
    kept.remember(after(5), update_s=2.0)
    kept.save(after(6))
    kept.rescue()
    assert found(folder) == 6
    assert not (folder.path / "update-00000005.pt").exists()


def test_memory_is_kept_until_the_file_that_replaces_it_is_there(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(_descriptor: int) -> None:
        raise SystemExit

    kept = keeper(folder, slow_update_s=1.0)
    kept.remember(after(5), update_s=2.0)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", leave)
        with pytest.raises(SystemExit):
            kept.save(after(6))
    kept.rescue()
    assert found(folder) == 5


def test_disk_that_fails_costs_the_run_nothing_and_is_said_once(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[str] = []
    kept = keeper(folder, complaints)
    kept.save(after(1))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        kept.save(after(2))
        kept.save(after(3))
    assert found(folder) == 1
    assert len(complaints) == 1
    assert "the checkpoint of update 2 cannot be saved: No space left on device. Training goes on" in complaints[0]
    kept.save(after(4))
    assert found(folder) == 4


class Second(Ranks):
    """The second of two ranks, that hands over what it has to nobody."""

    def gather_on_first(self, value: Any) -> list[Any]:
        self.handed_over = value
        return []


def test_rank_that_does_not_write_takes_part_and_encodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Second(1, 2)
    monkeypatch.setattr("trainers.checkpoint.keeper.encode", lambda _checkpoint: pytest.fail("is not written"))
    kept = Keeper(None, "ppo", PpoConfig(), dict, pytest.fail, ranks)
    kept.save(RunState(Nothing(), EpisodeStatistics(1), Progress(1), ranks))
    assert ranks.handed_over.keys() == {"learner", "episodes", "random"}


class Elsewhere(torch.Tensor):
    """A tensor on another device, as far as a copy shows it."""

    def cpu(self, *_args: Any) -> torch.Tensor:  # type: ignore[override]
        return torch.ones(2)


class WithOwn(Nothing):
    """A learner that has something of its own."""

    def state_dict(self) -> dict[str, Any]:
        tensor = torch.zeros(2).as_subclass(Elsewhere)
        return {"own": {"replay": {"fields": [tensor, (tensor, 1)]}, "size": 3, "none": None}}


def test_what_a_rank_hands_over_lies_on_the_cpu() -> None:
    ranks = Second(1, 2)
    RunState(WithOwn(), EpisodeStatistics(1), ranks=ranks).capture("ppo", PpoConfig(), {})
    own = ranks.handed_over["learner"]["own"]
    first, (second, number) = own["replay"]["fields"]
    assert first.tolist() == second.tolist() == [1.0, 1.0]
    assert (number, own["size"], own["none"]) == (1, 3, None)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("page")])
def test_page_that_fails_costs_the_run_nothing_and_is_said_once(folder: CheckpointFolder, error: Exception) -> None:
    complaints: list[str] = []

    def fail(_path: Path) -> None:
        raise error

    kept = Keeper(folder, "ppo", PpoConfig(), dict, complaints.append, on_saved=fail)
    for update in (1, 2):
        kept.save(after(update))
        assert found(folder) == update
    assert len(complaints) == 1
    assert "update-00000001.pt: is saved, but does not get onto the run's page" in complaints[0]


def full_disk(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")
