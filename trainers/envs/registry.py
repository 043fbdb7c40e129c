"""From the name of a task to a running vector environment, with every refusal said before C++ sees anything."""

import difflib
import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import envpool
import psutil

from trainers.envs.group import EnvGroup
from trainers.envs.rendering import RENDERING_OPTIONS, require_rendering
from trainers.envs.spec import read_spec
from trainers.envs.threads import NearbyThreads, started_by
from trainers.envs.vector import VectorEnv
from trainers.errors import ConfigError, MissingError, TaskError

__all__ = ["make_vector_env", "task_config"]

_LARGEST_SEED = 2**31 - 1
_JUMANJI = "envpool.jumanji"
_LARGEST_LIMIT = 2**31 - 1
_UNLIMITED = {"Game2048EnvSpec"}
"""Tasks that their max_episode_steps does not end: envpool would only call the natural ends behind it truncations."""
_LIGHT_FAMILIES = {"envpool.classic_control", "envpool.toy_text"}
"""A step takes microseconds: a second thread wins nothing and competes with the learner's."""
_LAKE_SIZES = (4, 8)
"""Of the frozen lakes that envpool has a map of."""
_OURS = {
    "num_envs": "environment.num_envs",
    "num_threads": "environment.num_threads",
    "max_episode_steps": "environment.max_episode_steps",
    "seed": "training_core.seed",
}
"""Set elsewhere in the configuration."""
_FIXED = {"batch_size", "max_num_players", "env_seed", "gym_reset_return_info"}
"""Settled by this module: all environments step together, one player each, environment i is seeded with seed + i."""


def make_vector_env(
    task: str,
    num_envs: int,
    seed: int,
    *,
    num_threads: int = 0,
    max_episode_steps: int | None = None,
    options: Mapping[str, Any] | None = None,
    num_groups: int = 1,
) -> VectorEnv:
    """Build `num_envs` environments of one task.

    Args:
        task: envpool's name, for example `CartPole-v1`.
        num_envs: N.
        seed: environment i is seeded with seed + i; every reset goes on with its random numbers.
        num_threads: envpool's worker threads in each group; 0 chooses by the task's weight and the machine's cores.
        max_episode_steps: truncate episodes here, also where the task itself ignores it; None keeps the task's limit.
        options: further keys of envpool's configuration of this task.
        num_groups: groups that step in turns; must divide num_envs.

    Raises:
        TaskError: there is no such task, or it cannot be trained on.
        ConfigError: a number or an option cannot be used.
        MissingError: the task needs a package that is not installed.
    """
    _check_numbers(num_envs, seed, num_threads, max_episode_steps, num_groups)
    family = _family(task)
    chosen = {**_cures(family), **(options or {})}
    _check_options(task, chosen)
    _check_size(task, chosen)
    chosen |= _limit(task, max_episode_steps)
    size = num_envs // num_groups
    chosen |= {"num_envs": size, "num_threads": num_threads or _auto_threads(family, size)}
    spec = read_spec(task, _envpool_spec(task, chosen))
    require_rendering(task, options or {})
    is_parallel = num_groups > 1 or chosen["num_threads"] > 1  # several cores have work at the same time
    groups = []
    for first in range(seed, seed + num_envs, size):
        pool, thread_ids = started_by(partial(_make_pool, task, chosen | {"seed": first}))
        threads = None if is_parallel else NearbyThreads(thread_ids)
        groups.append(EnvGroup(pool, spec, size, max_episode_steps, threads))
    return VectorEnv(groups, spec)


def task_config(
    task: str, options: Mapping[str, Any] | None = None, max_episode_steps: int | None = None
) -> dict[str, Any]:
    """Return envpool's whole configuration of a task, its defaults included; arguments as of `make_vector_env`."""
    chosen = {**_cures(_family(task)), **(options or {}), **_limit(task, max_episode_steps)}
    config: dict[str, Any] = _envpool_spec(task, chosen).config._asdict()
    return config


def _make_pool(task: str, settings: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        # envpool builds its gymnasium spaces lazily, and gymnasium warns of their precision, which nobody asked for
        warnings.simplefilter("ignore")
        pool = envpool.make_gymnasium(task, **settings)
        _ = pool.observation_space, pool.action_space
    return pool


def _check_numbers(num_envs: int, seed: int, num_threads: int, max_episode_steps: int | None, num_groups: int) -> None:
    largest_seed = _LARGEST_SEED - num_envs
    rules = [
        ("environment.num_envs", num_envs, num_envs >= 1, "at least 1"),
        ("environment.num_threads", num_threads, num_threads >= 0, "0 (automatic) or more"),
        ("environment seed", seed, 0 <= seed <= largest_seed, f"0 to {largest_seed} for {num_envs} environments"),
        (
            "environment.max_episode_steps",
            max_episode_steps,
            max_episode_steps is None or max_episode_steps >= 1,
            "1 or more",
        ),
        (
            "environment.num_groups",
            num_groups,
            num_groups >= 1 and num_envs % num_groups == 0,
            f"a divisor of num_envs, {num_envs}",
        ),
    ]
    for name, value, is_right, rule in rules:
        if not is_right:
            raise ConfigError(f"{name}: got {value}; expected {rule}.")


def _family(task: str) -> str:
    """The module that implements a task."""
    known = envpool.registration.registry.specs
    if task in known:
        return str(known[task][0])
    lowered = {name.lower(): name for name in known}
    near = [lowered[name] for name in difflib.get_close_matches(task.lower(), lowered, n=3)]
    remedy = f"Did you mean {', '.join(near)}?" if near else "envpool.list_all_envs() names them."
    raise TaskError(f"environment.task: got {task!r}; expected one of envpool's {len(known)} tasks. {remedy}")


def _cures(family: str) -> dict[str, Any]:
    """The wheel ships jumanji's assets in itself but looks in envpool_assets: Sokoban would play one single level."""
    return {"base_path": str(Path(envpool.__file__).parent)} if family == _JUMANJI else {}


def _limit(task: str, max_episode_steps: int | None) -> dict[str, int]:
    """What envpool is told of the longest episode; nothing leaves it to the task."""
    if max_episode_steps is not None:
        return {"max_episode_steps": max_episode_steps}
    is_unlimited = envpool.registration.registry.specs[task][1] in _UNLIMITED
    return {"max_episode_steps": _LARGEST_LIMIT} if is_unlimited else {}


def _check_options(task: str, options: Mapping[str, Any]) -> None:
    known = (set(_envpool_spec(task, {}).config._fields) | RENDERING_OPTIONS) - _FIXED - _OURS.keys()
    for key in options:
        if key in _OURS:
            raise ConfigError(f"environment.options: got {key!r}; expected it as {_OURS[key]}. Move it there.")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f"Did you mean {near[0]}?" if near else "Leave it out."
            raise ConfigError(
                f"environment.options: got {key!r}; expected one of {', '.join(sorted(known))} for {task}. {remedy}"
            )


def _check_size(task: str, options: Mapping[str, Any]) -> None:
    """Refuse lakes without a map: envpool would read beyond the end of another."""
    size = options.get("size", _LAKE_SIZES[0])
    if task.startswith("FrozenLake") and size not in _LAKE_SIZES:
        raise TaskError(
            f"environment.options: got size={size!r}; expected 4 or 8, of which {task} has maps. Set it to one of them."
        )


def _envpool_spec(task: str, options: Mapping[str, Any]) -> Any:
    try:
        return envpool.make_spec(task, **options)
    except ImportError as error:
        raise MissingError(f"environment.task: got {task!r}; expected its libraries to be installed. {error}") from None
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in options.items())
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"environment.options: got {shown}; expected values that envpool takes for {task}. It says: {reason}"
        ) from None


def _auto_threads(family: str, num_envs: int) -> int:
    if family in _LIGHT_FAMILIES:
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(num_envs, usable, psutil.cpu_count(logical=False) or usable))
