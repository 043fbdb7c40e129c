"""Where a rollout is kept: allocated once, written in place, read by every learner.

Shapes: T horizon, N envs, S = T + 1 rows of observations, ... one observation, A action dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.envs import EnvSpec, Step, VectorEnv
from trainers.errors import ConfigError, DivergenceError

__all__ = ["RolloutStorage"]


class RolloutStorage:
    """T steps of N environments.

    On a GPU every array has a pinned twin on the host: the environments write there, and copies to the device do
    not wait. On the CPU both are the same memory.

    Args:
        spec: the environments' specification.
        horizon: T, at least 2, so that no environment can fill a rollout with dummies alone.
        num_envs: N.
        device: where the learner reads.
        extras: arrays [T, N, *shape] float32 on the device that the algorithm wants kept, by name.
        staged: keep twins; None does so wherever the device is not the CPU.

    Attributes:
        obs: float32 [S, N, O] or uint8 [S, N, ...]; row t is what action t was taken on, row T follows the rollout.
        action: int64 [T, N] or [T, N, A], or float32 [T, N, A]; as the policy's distribution knows it.
        reward: float32 [T, N], as the environments pay it.
        terminated, truncated: bool [T, N].
        valid: bool [T, N], false on dummy rows.
        elapsed: int32 [S, N], steps since the beginning of the episode that observation t belongs to.
        valid_index: int64 [V], positions of the valid rows in the flattened [T * N].
        extras: the algorithm's own arrays.
        row_numbers: int64 [T], 0 to T - 1, for those who must say t on the device.
    """

    def __init__(
        self,
        spec: EnvSpec,
        horizon: int,
        num_envs: int,
        device: torch.device | str = "cpu",
        extras: Mapping[str, Sequence[int]] | None = None,
        *,
        staged: bool | None = None,
    ) -> None:
        if horizon < 2:
            raise ConfigError(f"training_core.horizon: got {horizon}; expected at least 2.")
        self.horizon, self.num_envs, self.device = horizon, num_envs, torch.device(device)
        self._is_staged = self.device.type != "cpu" if staged is None else staged
        self._host: dict[str, Tensor] = {}
        rows = (horizon, num_envs)
        self.obs = self._allocate(
            "obs", (horizon + 1, num_envs, *spec.obs.shape), torch.uint8 if spec.obs.is_image else torch.float32
        )
        self.reward = self._allocate("reward", rows, torch.float32)
        self.terminated = self._allocate("terminated", rows, torch.bool)
        self.truncated = self._allocate("truncated", rows, torch.bool)
        self.valid = self._allocate("valid", rows, torch.bool)
        self.elapsed = self._allocate("elapsed", (horizon + 1, num_envs), torch.int32)
        self.valid_index = torch.arange(0, device=self.device)
        action_dtype = torch.float32 if spec.action.kind == "continuous" else torch.int64
        self.action = torch.zeros((*rows, *spec.action.shape), dtype=action_dtype, device=self.device)
        self.extras = {name: torch.zeros((*rows, *shape), device=self.device) for name, shape in (extras or {}).items()}
        self._array: dict[str, NDArray[Any]] = {name: twin.numpy() for name, twin in self._host.items()}
        self.row_numbers = torch.arange(horizon, device=self.device)
        self._score, self._finished = np.zeros(rows, np.float32), np.zeros(rows, np.bool_)
        self._executed = self._host_tensor((num_envs, *spec.action.shape), action_dtype)
        self._is_primed = False

    @property
    def num_valid(self) -> int:
        """Environment steps in this rollout: dummies do not count."""
        return self.valid_index.numel()

    def begin(self, env: VectorEnv) -> None:
        """Put the observations that are due into row 0: the last of the previous rollout, or fresh ones."""
        if self._is_primed:
            self._array["obs"][0] = self._array["obs"][-1]
            self._array["elapsed"][0] = self._array["elapsed"][-1]
        else:
            env.reset(self._array["obs"][0])
            self._array["elapsed"][0] = 0
        self._send_obs(0, slice(None))
        self._is_primed = True

    def obs_row(self, t: int, envs: slice) -> NDArray[Any]:
        """Where these environments shall write observation t."""
        row: NDArray[Any] = self._array["obs"][t, envs]
        return row

    def host_action(self, action: Tensor, envs: slice) -> NDArray[Any]:
        """What these environments shall execute, for them to read: on a GPU the one host sync of a step."""
        if not self._is_staged:
            array: NDArray[Any] = action.numpy()
            return array
        self._executed[envs].copy_(action, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        row: NDArray[Any] = self._executed.numpy()[envs]
        return row

    def record(self, t: int, envs: slice, step: Step) -> None:
        """Write what action t led to; its observations stand in row t + 1 already."""
        self._array["reward"][t, envs] = step.reward
        self._array["terminated"][t, envs] = step.terminated
        self._array["truncated"][t, envs] = step.truncated
        self._array["valid"][t, envs] = step.valid
        self._array["elapsed"][t + 1, envs] = np.where(step.valid, self._array["elapsed"][t, envs] + 1, 0)
        self._score[t, envs] = step.score
        self._finished[t, envs] = step.finished
        self._send_obs(t + 1, envs)

    def finish(self) -> None:
        """Check the rollout and send what is still on the host to the device.

        Raises:
            DivergenceError: an observation, or the reward of a valid row, is not finite.
        """
        self._check_finite("reward", np.where(self._array["valid"], self._array["reward"], 0.0))
        if self.obs.is_floating_point():
            self._check_finite("obs", self._array["obs"])
        valid_index = torch.from_numpy(np.flatnonzero(self._array["valid"]))
        if self.device.type == "cuda":
            valid_index = valid_index.pin_memory()
        self.valid_index = valid_index.to(self.device, non_blocking=True)
        if self._is_staged:
            for name in ("reward", "terminated", "truncated", "valid"):
                getattr(self, name).copy_(self._host[name], non_blocking=True)

    def start_anew(self) -> None:
        """Begin the next rollout with a reset of the environments."""
        self._is_primed = False

    def cut(self) -> None:
        """Truncate every episode where the rollout ends: the environments are about to be replaced.

        The last observations are true ones, so that learners bootstrap from them as at any time limit.
        """
        is_open_N = self._array["valid"][-1] & ~self._array["terminated"][-1]
        self._array["truncated"][-1] |= is_open_N
        if self._is_staged:
            self.truncated[-1].copy_(self._host["truncated"][-1], non_blocking=True)
        self.start_anew()

    def host_view(self) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Scores, ends of episodes as the task's authors count them, and valid rows, each [T, N], on the host."""
        return self._score, self._finished, self._array["valid"]

    def _send_obs(self, row: int, envs: slice) -> None:
        if self._is_staged:
            # a row of the twin is not written again before the read-back of an action has waited for this copy
            self.obs[row, envs].copy_(self._host["obs"][row, envs], non_blocking=True)
            self.elapsed[row, envs].copy_(self._host["elapsed"][row, envs], non_blocking=True)

    def _allocate(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self._host[name] = self._host_tensor(shape, dtype)
        return self._host[name].to(self.device, copy=True) if self._is_staged else self._host[name]

    def _host_tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def _check_finite(self, name: str, rows: NDArray[Any]) -> None:
        wrong = ~np.isfinite(rows)
        if wrong.any():
            t, env = np.argwhere(wrong)[0, :2]
            raise DivergenceError(
                f"rollout: got {name} {rows[t, env].tolist()} in environment {env}, row {t}; "
                "expected finite numbers. The simulation has diverged: look at the actions."
            )
