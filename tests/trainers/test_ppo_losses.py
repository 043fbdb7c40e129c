import math

import numpy as np
import pytest
import torch

from trainers.ppo.losses import actor_loss, critic_loss, normalize


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_hand_computed_actor_loss() -> None:
    # ratios 1.5, 0.5, 1.1, 2.0 at clip 0.2: clipped only where moving on would help
    new, old = logs(0.6, 0.2, 0.55, 0.4), logs(0.4, 0.4, 0.5, 0.2)
    loss, approx_kl, clip_fraction = actor_loss(new, old, row(1, -1, 2, -3), 0.2)
    objective = (1.2 * 1 + 0.8 * -1 + 1.1 * 2 + 2.0 * -3) / 4
    assert float(loss) == pytest.approx(-objective)
    assert float(approx_kl) == pytest.approx(np.mean([r - 1 - math.log(r) for r in (1.5, 0.5, 1.1, 2.0)]))
    assert float(clip_fraction) == 0.75


def test_rows_that_are_clipped_pull_no_further() -> None:
    new = logs(0.6, 0.2, 0.6, 0.2).requires_grad_()
    loss, *_ = actor_loss(new, logs(0.4, 0.4, 0.4, 0.4), row(1, -1, -1, 1), 0.2)
    (gradient,) = torch.autograd.grad(loss, new)
    # d(-ratio * A / 4) / d(log pi) = -ratio * A / 4 on the rows that are not clipped
    torch.testing.assert_close(gradient, row(0, 0, 1.5 / 4, -0.5 / 4))


def test_unmoved_policy_has_no_kl_and_the_policy_gradient() -> None:
    log_prob = logs(0.1, 0.9).requires_grad_()
    loss, approx_kl, clip_fraction = actor_loss(log_prob, log_prob.detach(), row(2, -4), 0.2)
    assert (float(approx_kl), float(clip_fraction)) == (0.0, 0.0)
    torch.testing.assert_close(torch.autograd.grad(loss, log_prob)[0], row(-1, 2))


def test_approx_kl_estimates_the_kl_from_the_old_policy() -> None:
    old, new = torch.tensor([0.3, -0.2, 0.1]).log_softmax(-1), torch.tensor([0.1, 0.0, 0.3]).log_softmax(-1)
    action = torch.multinomial(old.exp(), 400_000, replacement=True, generator=torch.Generator().manual_seed(0))
    _, approx_kl, _ = actor_loss(new[action], old[action], torch.zeros(len(action)), 0.2)
    exact = float((old.exp() * (old - new)).sum())
    assert float(approx_kl) == pytest.approx(exact, rel=0.03)


def test_hand_computed_critic_loss() -> None:
    assert float(critic_loss(row(1, 4), row(0, 0), row(2, 2), None)) == (1 + 4) / 4


def test_clipped_critic_loss_takes_the_larger_error() -> None:
    value, old, target = row(1, 4, 3), row(0, 0, 4), row(2, 2, 0)
    # clipped values 0.5, 0.5, 3.5; errors 1, 4, 9 against 2.25, 2.25, 12.25
    assert float(critic_loss(value, old, target, 0.5)) == pytest.approx((2.25 + 4 + 12.25) / 6)


def test_clipped_value_on_its_way_to_the_target_is_not_pulled() -> None:
    value = row(1.0).requires_grad_()
    loss = critic_loss(value, row(0.0), row(2.0), 0.5)
    assert torch.equal(torch.autograd.grad(loss, value)[0], row(0.0))


def test_normalized_advantages_have_mean_0_and_deviation_1() -> None:
    advantage = normalize(row(1, 2, 3, 10))
    assert float(advantage.mean()) == pytest.approx(0, abs=1e-12)
    assert float(advantage.std(correction=0)) == pytest.approx(1)


@pytest.mark.parametrize("advantage", [row(3), row(2, 2, 2)])
def test_equal_advantages_become_zero(advantage: torch.Tensor) -> None:
    assert torch.equal(normalize(advantage), torch.zeros_like(advantage))
