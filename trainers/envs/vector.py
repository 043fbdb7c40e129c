"""N environments of one task, in one group or in several that step in turns.

With one group everything steps together. With several, the threads of one group work while the policy acts for
another: send(A), act for B, receive(A) and so on. Environment i has the same seed, and so the same episodes, either
way.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.envs.group import EnvGroup, Step
from trainers.envs.spec import EnvSpec

__all__ = ["VectorEnv"]


class VectorEnv:
    """All environments of a task, as one.

    Args:
        groups: the groups, in the order of their environments.
        spec: the specification that they share.

    Attributes:
        spec: what the task looks like.
        num_envs: N, over all groups.
        groups: each with the slice of environments that it holds.
    """

    def __init__(self, groups: Sequence[EnvGroup], spec: EnvSpec) -> None:
        self.spec = spec
        ends = np.cumsum([group.num_envs for group in groups]).tolist()
        self.num_envs: int = ends[-1]
        self.groups = [(group, slice(end - group.num_envs, end)) for group, end in zip(groups, ends, strict=True)]

    def reset(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Start a new episode everywhere; returns observations [N, ...], in `out` if that is given."""
        parts = [group.reset(None if out is None else out[envs]) for group, envs in self.groups]
        return out if out is not None else _joined(parts)

    def step(self, actions: NDArray[Any]) -> Step:
        """Take one step everywhere.

        Args:
            actions: [N] or [N, dimensions]; legal integers within range, or finite floats, which are clipped to the
                task's bounds.

        Raises:
            ValueError: wrong shape, dtype or range, which envpool takes silently or aborts the process for, or an
                action that its mask forbids.
            DivergenceError: a number that is not finite: the simulation would go on with NaN rewards.
        """
        if len(self.groups) == 1:
            group, _ = self.groups[0]
            group.send(actions)
            return group.receive()
        for group, envs in self.groups:
            group.send(actions[envs])
        steps = [group.receive() for group, _ in self.groups]
        joined = {name: _joined([getattr(step, name) for step in steps]) for name in Step._fields if name != "info"}
        return Step(**joined, info={"groups": [step.info for step in steps]})

    def render(self) -> NDArray[np.uint8]:
        """Pictures [N, height, width, 3] of the environments as they stand.

        Needs the option render_mode: rgb_array; a task in its last observation shows that.
        """
        return _joined([group.render() for group, _ in self.groups])

    def close(self) -> None:
        """Release envpool's threads."""
        for group, _ in self.groups:
            group.close()


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
