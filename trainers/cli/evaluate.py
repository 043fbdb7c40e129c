"""`ppo eval`: how good is a saved policy? Deterministic episodes, and a film of one if wanted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from pydantic import BaseModel, Field

from trainers.cli.algorithms import AlgorithmEntry
from trainers.config import MAX_SEED

__all__ = ["evaluate"]

MAX_ENVS: Final = 64


class EvalFlags(BaseModel):
    """The flags of `eval`."""

    checkpoint: Path = Field(description="Folder of checkpoints (the newest good one is taken), or one file.")
    episodes: int = Field(default=20, ge=1, description="Episodes to run.")
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Seed of the environments; the training's evaluation's otherwise."
    )
    device: str = Field(default="cpu", description="Where to run the networks: auto, cpu, cuda or cuda:N.")
    video: Path | None = Field(default=None, description="Film one episode into this file: .mp4 or .gif.")
    prints_json: Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(name="json")] = Field(
        default=False, description="Print one JSON object instead of sentences."
    )


def evaluate(entry: AlgorithmEntry[Any], argv: Sequence[str]) -> None:
    """Run a policy and print what came of it.

    Raises:
        TrainersError: the checkpoint, the task or the machine is not up to it.
        SystemExit: 2 after tyro's message about a flag; 0 after --help.
    """
    description = f"Evaluate a saved {entry.title} policy, without training."
    flags = tyro.cli(EvalFlags, prog=f"{entry.name} eval", description=description, args=argv)
    from trainers.cli.policies import opened_policy
    from trainers.cli.video import film, require_video
    from trainers.evaluation import run_episodes

    if flags.video is not None:
        require_video(flags.video)
    with opened_policy(entry, flags.checkpoint, flags.device, min(flags.episodes, MAX_ENVS), flags.seed) as policy:
        summary = run_episodes(policy.algorithm.deterministic_policy(), policy.env, flags.episodes)
        if flags.prints_json:
            print(json.dumps({"checkpoint": str(policy.saved.path), **summary._asdict()}))
        else:
            print(policy.title)
            print(
                f"{summary.episodes} episodes: mean return {summary.mean_return:g} "
                f"(min {summary.min_return:g}, max {summary.max_return:g}), mean length {summary.episode_length_mean:g}"
            )
        if flags.video is not None:
            num_frames, episode_return = film(policy, flags.video, flags.seed)
            if not flags.prints_json:
                print(f"{flags.video}: one episode, {num_frames} frames, return {episode_return:g}")
