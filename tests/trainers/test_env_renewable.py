from typing import Any

import pytest

from trainers.envs import RenewableEnv, VectorEnv, make_vector_env


def test_one_set_of_environments_is_open_at_a_time(open_envs: list[Any]) -> None:
    made_after = []

    def make(update: int) -> VectorEnv:
        assert open_envs == [], "the ones before are closed first"
        made_after.append(update)
        return make_vector_env("CartPole-v1", 4, seed=update, num_groups=2)

    env = RenewableEnv(make, update=7)
    env.renew(9)
    assert made_after == [7, 9]
    assert [group for group, _ in env.current.groups] == open_envs
    env.close()
    assert open_envs == []


def test_renewal_that_fails_leaves_nothing_open(open_envs: list[Any]) -> None:
    envs = iter([make_vector_env("CartPole-v1", 2, seed=1)])
    env = RenewableEnv(lambda _update: next(envs))
    with pytest.raises(StopIteration):
        env.renew(1)
    env.close()
    assert open_envs == []
