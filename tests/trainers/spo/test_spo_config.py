from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainers.config import PpoConfig, SpoConfig, load
from trainers.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_bare_command_trains_the_quick_preset() -> None:
    assert load(CONFIGS / "spo.yaml", SpoConfig) == SpoConfig()


def test_section_that_is_given_in_part_keeps_spos_own_defaults(tmp_path: Path) -> None:
    file = tmp_path / "spo.yaml"
    file.write_text("environment:\n  task: Pendulum-v1\nspo_core:\n  seed: 3\narchitecture:\n  activation: tanh\n")
    config = load(file, SpoConfig)
    assert (config.environment.task, config.environment.num_envs) == ("Pendulum-v1", 16)
    assert (config.training_core.seed, config.training_core.gamma) == (3, 0.99)
    assert config.architecture.hidden_sizes == (256, 256)


def test_limits_of_shared_settings_hold_here_too() -> None:
    for section in ({"environment": {"num_envs": 0}}, {"architecture": {"hidden_sizes": (0,)}}):
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            SpoConfig(**section)


def test_gradient_steps_follow_from_the_replay_ratio() -> None:
    assert SpoConfig().num_gradient_steps() == 64  # 32 x (16 x 32) / 256
    reference = SpoConfig(
        environment={"num_envs": 64}, spo={"replay_ratio": 64, "batch_size": 1024, "replay_size": 65_536}
    )
    assert (reference.num_gradient_steps(), reference.num_replay_rollouts()) == (128, 32)
    assert SpoConfig(spo={"replay_ratio": 1e-3}).num_gradient_steps() == 1
    # a rank has half of the environments, and draws half of each minibatch
    half = reference.model_copy(update={"environment": reference.environment.model_copy(update={"num_envs": 32})})
    assert (half.num_gradient_steps(2), half.num_replay_rollouts(2)) == (128, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spo": {"replay_size": 511}}, r"spo.replay_size: got 511; expected at least one rollout, 512"),
        ({"spo": {"targets": "sequences", "sequence_length": 24}}, r"spo.sequence_length: got 24; expected a divisor"),
        ({"spo": {"targets": "sequences", "sequence_length": 64}}, r"expected at most one rollout's 32 steps"),
        ({"architecture": {"shared": True}}, r"architecture.shared: got .*; expected False"),
        ({"environment": {"normalize_reward": True}}, r"environment.normalize_reward: got .*; expected False"),
        ({"environment": {"reward_clip": 1.0}}, r"environment.reward_clip: got .*; expected None"),
        (
            {"search": {"mode": "tree", "reference": ("baseline",)}},
            r"search.mode: got tree; expected particles or auto with search.reference baseline",
        ),
        (
            {"search": {"resampling": "none", "reference": ("terminals", "readout")}},
            r"search.reference: got terminals, readout; expected none of lineage, readout, resampler",
        ),
        (
            {"search": {"mode": "particles", "num_particles": 2}, "spo": {"epsilon": 0.7}},
            r"spo.epsilon: got 0.7; expected less than 0.693, log 2: .*search.num_particles 2",
        ),
    ],
)
def test_impossible_combination_names_the_setting(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SpoConfig(**changes)


def test_what_only_looks_impossible_is_taken() -> None:
    SpoConfig(search={"mode": "particles", "resampling": "none", "reference": ("terminals", "baseline")})
    SpoConfig(search={"mode": "particles", "num_particles": 2}, spo={"epsilon": 0.69})
    SpoConfig(search={"mode": "particles", "num_particles": 1}, spo={"adaptive_temperature": False})


@pytest.mark.parametrize(
    ("section", "name", "least"),
    [
        ("spo", "init_alpha", 1e-4),
        ("spo", "init_alpha_mean", 1e-4),
        ("spo", "init_alpha_stddev", 1e-4),
        ("search", "root_noise_concentration", 0.03),
    ],
)
def test_number_that_would_be_lost_to_rounding_is_refused(section: str, name: str, least: float) -> None:
    SpoConfig(**{section: {name: least}})
    for value in (0.0, 0.9 * least):
        with pytest.raises(ValidationError, match=f"greater than or equal to {least:g}"):
            SpoConfig(**{section: {name: value}})


def test_settings_of_ppo_alone_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training_core:\n  clip_coef: 0.2\n")
    with pytest.raises(ConfigError, match=r"line 2: training_core.clip_coef: is no setting"):
        load(file, SpoConfig)


def test_ppo_ignores_the_sections_of_spo(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text("search:\n  num_particles: 4\nspo:\n  epsilon: 0.1\nenvironment:\n  num_envs: 8\n")
    assert load(file, PpoConfig).environment.num_envs == 8
    assert load(file, SpoConfig).search.num_particles == 4
