"""From an action space to its distribution."""

from collections.abc import Sequence

import torch

from trainers.distributions.categorical import Categorical, MultiCategorical
from trainers.distributions.gaussian import DiagGaussian, SquashedGaussian
from trainers.distributions.protocol import ActionKind, Distribution

__all__ = ["make_distribution"]


def make_distribution(
    kind: ActionKind,
    sizes: Sequence[int],
    bounds: tuple[Sequence[float], Sequence[float]] | None = None,
    device: torch.device | str = "cpu",
) -> Distribution:
    """Build the distribution of an action space.

    Args:
        kind: what an action is.
        sizes: (number of actions,) if discrete, actions per dimension if multi-discrete, (dimensions,) if continuous.
        bounds: least and greatest values, finite: squash continuous actions into them. None leaves them unbounded.
        device: where the parameters will be.
    """
    if kind == "discrete":
        return Categorical(sizes[0])
    if kind == "multi_discrete":
        return MultiCategorical(tuple(sizes))
    if bounds is not None:
        return SquashedGaussian(*bounds, device)
    return DiagGaussian(sizes[0])
