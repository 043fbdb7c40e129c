"""From a task and a configuration to what a search needs: the policy's family, the simulator, the kind of search."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from trainers.config import EnvironmentConfig, SearchConfig, SpoConfig
from trainers.envs import EnvSpec, task_config
from trainers.errors import ConfigError, TaskError
from trainers.simulators import Simulator, make_simulator
from trainers.spo.policies import DiscretePolicy, SearchPolicy, SquashedGaussianPolicy
from trainers.spo.search import SearchResult, search
from trainers.spo.tree import num_nodes, search_tree

__all__ = ["SearchPlan", "check_epsilon", "check_shares", "plan_search"]

MOST_CHOICES: Final = 4096
"""Several choices at once are one among all combinations, if these are no more than that."""
MOST_NODES: Final = 8192
"""Of a tree that is asked for by name: every node is a row of each environment in every forward pass."""


@dataclass(frozen=True)
class SearchPlan:
    """What all searches of a run have in common.

    Attributes:
        policy: the family of the actor's distributions.
        simulator: the environments' model.
        settings: sizes and rules.
        search: `search` or `search_tree`.
        num_atoms: K, root actions in a result.
        num_futures: M.
    """

    policy: SearchPolicy
    simulator: Simulator
    settings: SearchConfig
    search: Callable[..., SearchResult]
    num_atoms: int
    num_futures: int


def plan_search(
    spec: EnvSpec, environment: EnvironmentConfig, config: SearchConfig, device: torch.device
) -> SearchPlan:
    """Put a search together.

    Raises:
        TaskError: the task has no simulator, or actions that cannot be searched.
        ConfigError: a tree is asked for where there can be none.
        MissingError: the simulator needs a package that is not installed.
    """
    limit = environment.max_episode_steps
    envpool_config = task_config(spec.task, environment.options, limit)
    simulator = make_simulator(spec.task, spec.obs, envpool_config, device, limit, environment.reward_scale)
    policy = _make_policy(spec, device)
    if isinstance(policy, DiscretePolicy) and _takes_tree(spec, config, policy, simulator):
        num_actions = policy.num_outputs
        return SearchPlan(policy, simulator, config, search_tree, num_actions, num_actions**config.search_depth)
    return SearchPlan(policy, simulator, config, search, config.num_particles, config.num_particles)


def check_shares(config: SpoConfig, num_ranks: int) -> None:
    """Check that each process has its share of the replay and of every minibatch.

    Args:
        config: one process's share of the run.
        num_ranks: processes.

    Raises:
        ConfigError: it has none, or a part of one.
    """
    spo = config.spo
    if config.num_replay_rollouts(num_ranks) < 1:
        raise ConfigError(
            f"spo.replay_size: got {spo.replay_size}; expected at least one rollout of all {num_ranks} processes, "
            f"{config.batch_size * num_ranks} steps."
        )
    length, words = 1, ""
    if spo.targets == "sequences":
        length, words = spo.sequence_length, f" times sequences of {spo.sequence_length}"
    if spo.batch_size % (num_ranks * length):
        raise ConfigError(
            f"spo.batch_size: got {spo.batch_size}; expected a multiple of {num_ranks * length}, {num_ranks} "
            f"processes{words}, so that each draws the same number."
        )


def check_epsilon(config: SpoConfig, plan: SearchPlan) -> None:
    """Check that a learnt temperature has something to settle at; `auto` shows only now that it comes to particles.

    Raises:
        ConfigError: it would fall for ever.
    """
    if plan.search is search and config.is_epsilon_beyond_particles:
        raise ConfigError(f"spo.epsilon: got {config.spo.epsilon:g}; expected {config.epsilon_words}.")


def _make_policy(spec: EnvSpec, device: torch.device) -> SearchPolicy:
    action = spec.action
    if action.kind != "continuous":
        if (count := math.prod(action.sizes)) > MOST_CHOICES:
            raise TaskError(
                f"environment.task: got {spec.task!r}, which has {count} combinations of choices; expected at most "
                f"{MOST_CHOICES}, since search treats them as one choice. Train with `ppo`."
            )
        return DiscretePolicy(action.sizes, is_joint=action.kind == "multi_discrete", device=device)
    bounds = action.low.reshape(-1).tolist(), action.high.reshape(-1).tolist()
    if not np.isfinite(bounds).all():
        raise TaskError(
            f"environment.task: got {spec.task!r}, whose actions lie in {bounds}; expected finite bounds to squash "
            "them into. Train with `ppo`."
        )
    return SquashedGaussianPolicy(*bounds, device)


def _takes_tree(spec: EnvSpec, config: SearchConfig, policy: DiscretePolicy, simulator: Simulator) -> bool:
    nodes = num_nodes(policy.num_outputs, config.search_depth)
    is_certain = simulator.num_noise == 0
    if config.mode == "auto":
        return is_certain and not config.reference and nodes <= config.num_particles * config.search_depth
    if config.mode == "particles":
        return False
    if not is_certain:
        raise ConfigError(
            f"search.mode: got tree for {spec.task}, which leaves something to chance; expected a task that does not. "
            "Set it to particles."
        )
    if nodes > MOST_NODES:
        raise ConfigError(
            f"search.mode: got tree, with {nodes} nodes ({policy.num_outputs} actions, depth {config.search_depth}); "
            f"expected at most {MOST_NODES}. Lower search.search_depth, or set it to particles."
        )
    return True
