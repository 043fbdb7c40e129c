"""The `ppo` and `spo` commands."""

from trainers.cli.commands import ppo, spo

__all__ = ["ppo", "spo"]
