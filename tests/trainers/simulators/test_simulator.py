import pytest
import torch

from trainers.simulators import Simulator, State
from trainers.simulators.cart_pole import CartPole
from trainers.simulators.tabular import TabularModel

NO_NOISE = torch.zeros(3, 0)


def state_of(*elapsed: int) -> State:
    return State(torch.zeros(len(elapsed), 4), torch.tensor(elapsed, dtype=torch.int32))


def test_episodes_are_cut_at_the_limit() -> None:
    simulator = Simulator(CartPole(), max_episode_steps=10)
    step = simulator.step(state_of(0, 8, 9), torch.zeros(3, dtype=torch.int64), NO_NOISE)
    assert step.truncated.tolist() == [False, False, True]
    assert step.state.elapsed.tolist() == [1, 9, 10]
    assert not step.terminated.any()


def test_true_end_on_the_last_step_is_termination() -> None:
    simulator = Simulator(CartPole(), max_episode_steps=10)
    state = state_of(9)
    state.model[:, 0] = 3.0
    step = simulator.step(state, torch.zeros(1, dtype=torch.int64), NO_NOISE[:1])
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([True], [False])


def test_without_a_limit_nothing_is_cut() -> None:
    step = Simulator(CartPole(), None).step(state_of(10**6), torch.zeros(1, dtype=torch.int64), NO_NOISE[:1])
    assert not step.truncated.any()


def test_rewards_can_be_scaled() -> None:
    step = Simulator(CartPole(), None, reward_scale=0.1).step(state_of(0), torch.zeros(1, dtype=torch.int64), NO_NOISE)
    assert step.reward.tolist() == [pytest.approx(0.1)]


def test_step_changes_nothing_in_the_state_that_it_starts_from() -> None:
    state = state_of(1, 2, 3)
    before = [tensor.clone() for tensor in state]
    Simulator(CartPole(), 10).step(state, torch.ones(3, dtype=torch.int64), NO_NOISE)
    assert all(torch.equal(tensor, old) for tensor, old in zip(state, before, strict=True))


def test_states_are_selected_and_repeated_row_by_row() -> None:
    state = State(torch.arange(6.0).view(3, 2), torch.tensor([7, 8, 9], dtype=torch.int32))
    chosen = state.select(torch.tensor([2, 0, 2]))
    assert chosen.model.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert chosen.elapsed.tolist() == [9, 7, 9]
    twice = state.repeat(2)
    assert twice.model[:, 0].tolist() == [0, 0, 2, 2, 4, 4]
    assert twice.elapsed.tolist() == [7, 7, 8, 8, 9, 9]


def test_table_is_looked_up_and_slips_by_its_noise() -> None:
    def rule(state: int, action: int) -> tuple[int, float, bool]:
        return (state + action) % 5, float(action), action == 2

    state = torch.full((3, 1), 3.0)
    action = torch.zeros(3, dtype=torch.int64)
    straight = TabularModel(rule, 5, 3, torch.device("cpu"))
    assert straight.num_noise == 0
    assert straight.step(state, action + 2, NO_NOISE).state.tolist() == [[0.0]] * 3
    slippery = TabularModel(rule, 5, 3, torch.device("cpu"), is_slippery=True)
    outcome = slippery.step(state, action, torch.tensor([[0.1], [0.5], [0.9]]))
    assert outcome.reward.tolist() == [2.0, 0.0, 1.0]
    assert outcome.terminated.tolist() == [True, False, False]
