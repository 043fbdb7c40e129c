"""What the run's page says on top."""

from pathlib import Path

from trainers.cli.description import MAX_CHANGES, describe
from trainers.config import PpoConfig


def described(config: PpoConfig, folder: Path | None = Path("/data/my runs/one")) -> str:
    return describe("ppo", "PPO", config, "cuda:0", 9155, folder)


def test_description_tells_task_size_and_highlights() -> None:
    text = described(PpoConfig())
    assert text.startswith("**PPO** on **CartPole-v1**, seed 1: 98,304 timesteps in 96 updates of 32 environments x 32")
    assert "| networks | 64 x 64, tanh, 9,155 parameters |" in text
    assert "| learning rates | actor 0.003, critic 0.003, annealed to 0 |" in text
    assert "| device | cuda:0 of " in text
    assert "All other settings are the defaults." in text


def test_description_tells_how_to_go_on_from_any_directory() -> None:
    text = described(PpoConfig())
    assert "\nppo --resume '/data/my runs/one'\n" in text
    assert "\nppo eval --checkpoint '/data/my runs/one' --video run.mp4\n" in text
    assert f"ppo --resume {Path.cwd() / 'here'}\n" in described(PpoConfig(), Path("here"))


def test_run_that_saves_nothing_promises_nothing() -> None:
    text = described(PpoConfig(), None)
    assert "--resume" not in text
    assert "cannot go on" in text


def test_settings_other_than_the_defaults_are_listed() -> None:
    config = PpoConfig.model_validate(
        {
            "training_core": {"gamma": 0.5, "seed": 9},
            "architecture": {"hidden_sizes": (8, 4)},
            "logging": {"run_id": "x"},
        }
    )
    text = described(config)
    assert "- `training_core.gamma`: `0.5` (default `0.98`)" in text
    assert "- `architecture.hidden_sizes`: `8, 4` (default `64, 64`)" in text
    assert "run_id" not in text
    assert "`training_core.seed`" not in text, "it stands in the first line"


def test_description_fits_into_a_tag() -> None:
    options = {f"option_{number}": number for number in range(MAX_CHANGES)}
    config = PpoConfig.model_validate(
        {"environment": {"options": options}, "training_core": {"gamma": 0.5, "gae_lambda": 0.5, "clip_coef": 0.5}}
    )
    assert len(described(config)) < 7000
