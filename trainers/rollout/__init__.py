"""The rollout core that every algorithm shares: preallocated storage, `collect`, episode statistics."""

from trainers.rollout.collect import Policy, collect
from trainers.rollout.episodes import EpisodeStatistics, EpisodeSummary
from trainers.rollout.storage import RolloutStorage

__all__ = ["EpisodeStatistics", "EpisodeSummary", "Policy", "RolloutStorage", "collect"]
