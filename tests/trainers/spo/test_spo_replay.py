import pytest
import torch

from trainers.spo.replay import Experience, Replay

T, N, SLOTS = 4, 3, 3


def rollout(number: int, *, follows: bool = True) -> tuple[torch.Tensor, Experience]:
    """Observations that count the steps of each environment: 100 * environment + step."""
    start = number * T
    obs = torch.arange(start, start + T + 1).view(-1, 1, 1) + 100.0 * torch.arange(N).view(1, -1, 1)
    if not follows:
        obs[0] = -1.0
    step = obs[:-1, :, 0]
    flags = torch.zeros(T, N, dtype=torch.bool)
    part = step.unsqueeze(-1).expand(-1, -1, 2)
    experience = Experience(part.long(), part, part, part, step, flags, flags, (step % 5) != 4)
    return obs, experience


def filled(count: int, **changes: bool) -> Replay:
    replay = Replay(*rollout(0), SLOTS)
    for number in range(count):
        replay.add(*rollout(number, **changes))
    return replay


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [1, 2, 0]), (8, [2, 0, 1])])
def test_oldest_gives_way_and_the_order_is_that_of_time(count: int, expected: list[int]) -> None:
    replay = filled(count)
    assert replay.order().tolist() == expected
    assert replay.num_filled == min(count, SLOTS)
    assert replay.num_steps == min(count, SLOTS) * T * N
    first_steps = replay.experience.reward[replay.order(), :, 0].flatten().tolist()
    newest = (count * T) - 1
    assert first_steps == [float(step) for step in range(newest + 1 - replay.num_filled * T, newest + 1)]


def test_what_is_kept_is_a_copy() -> None:
    replay = Replay(*rollout(0), SLOTS)
    obs, experience = rollout(0)
    replay.add(obs, experience)
    obs.fill_(-7.0)
    experience.reward.fill_(-7.0)
    assert float(replay.obs.min()) == 0.0
    assert float(replay.experience.reward.min()) == 0.0


def test_single_steps_are_valid_and_each_is_as_probable_as_any_other() -> None:
    replay = filled(5)
    index = replay.draw_steps(200, 500, torch.Generator().manual_seed(0))
    assert index.shape == (200, 500)
    valid = replay.experience.valid.flatten()
    count = index.flatten().bincount(minlength=len(valid)).double()
    assert (count[~valid] == 0).all()
    expected = index.numel() / int(valid.sum())
    chi_square = float(((count[valid] - expected).square() / expected).sum())
    degrees = int(valid.sum()) - 1
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5


def test_single_steps_come_from_filled_slots_only() -> None:
    replay = filled(1)
    assert int(replay.draw_steps(10, 100, torch.Generator().manual_seed(0)).max()) < T * N


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_sequences_are_contiguous_in_time_and_never_cross_the_newest_step(count: int) -> None:
    replay, length = filled(count), 3
    seen = []
    for slot, t, env, goes_on in replay.draw_sequences(30, 40, length, torch.Generator().manual_seed(0)):
        step = replay.experience.reward[slot, t, env]
        assert step.shape == (length, 40)
        assert (step[1:] == step[:-1] + 1).all()
        assert (replay.obs[slot, t + 1, env][..., 0] == step + 1).all()
        assert goes_on[:-1].all()
        seen.append(step[0])
    starts = torch.cat(seen)
    kept = [number for number in range(count * T) if number >= (count - min(count, SLOTS)) * T]
    possible = {100.0 * env + step for env in range(N) for step in kept[: len(kept) - length + 1]}
    assert set(starts.tolist()) == possible
    counts = torch.tensor([float((starts == start).sum()) for start in sorted(possible)])
    expected = len(starts) / len(possible)
    assert float(((counts - expected).square() / expected).sum()) < len(possible) + 5 * (2 * len(possible)) ** 0.5


def test_seam_of_rollouts_that_do_not_follow_on_one_another_is_known() -> None:
    together, apart = filled(3), filled(3, follows=False)
    assert together.goes_on().tolist() == [[True] * N, [True] * N, [False] * N]
    assert apart.goes_on().tolist() == [[False] * N] * 3
    for slot, t, env, goes_on in apart.draw_sequences(5, 40, 4, torch.Generator().manual_seed(0)):
        assert (goes_on == (t < T - 1)).all()
        assert slot.shape == env.shape


def test_saved_replay_goes_on_as_if_it_had_never_stopped() -> None:
    replay, other = filled(4), Replay(*rollout(0), SLOTS)
    other.load_state_dict(replay.state_dict())
    for each in (replay, other):
        each.add(*rollout(4))
    assert torch.equal(replay.obs, other.obs)
    assert torch.equal(replay.order(), other.order())
    for a, b in zip(replay.experience, other.experience, strict=True):
        assert torch.equal(a, b)


def test_rollout_that_is_taken_back_was_never_there() -> None:
    replay, (obs, experience) = filled(2), rollout(2)
    poison = {name: part * torch.nan for name, part in experience._asdict().items() if part.is_floating_point()}
    replay.add(obs * torch.nan, experience._replace(**poison))
    replay.take_back()
    for kept, expected in zip((replay.obs, *replay.experience), (filled(2).obs, *filled(2).experience), strict=True):
        assert torch.equal(kept, expected)
    assert replay.order().tolist() == [0, 1]


def test_next_rollout_takes_the_place_of_the_one_that_was_taken_back_where_all_were_taken() -> None:
    replay, (obs, experience) = filled(4), rollout(4)
    replay.add(obs, experience._replace(reward=experience.reward * torch.nan))
    replay.take_back()
    assert torch.isfinite(replay.experience.reward).all()
    replay.add(*rollout(4))
    for kept, expected in zip((replay.obs, *replay.experience), (filled(5).obs, *filled(5).experience), strict=True):
        assert torch.equal(kept, expected)
    assert torch.equal(replay.order(), filled(5).order())
