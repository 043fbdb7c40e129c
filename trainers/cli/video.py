"""A film of one episode."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainers.cli.policies import SavedPolicy, make_env
from trainers.errors import ConfigError, MissingError

__all__ = ["film", "require_video"]

FRAMES_PER_S: Final = 30
MAX_FRAMES: Final = 10_000
"""Five and a half minutes; an episode may go on for hours."""

FORMATS: Final[dict[str, dict[str, Any]]] = {
    # even sides, which the usual colour format needs; the default of 16 would stretch the picture
    ".mp4": {"fps": FRAMES_PER_S, "macro_block_size": 2},
    ".gif": {"duration": 1000 / FRAMES_PER_S, "loop": 0},
}


def require_video(file: Path) -> None:
    """Make sure that films can be written, and to this file.

    Raises:
        MissingError: the packages are not installed.
        ConfigError: the file's format is unknown, or its folder does not exist.
    """
    if file.suffix not in FORMATS:
        raise ConfigError(f"--video: got {file}; expected a name that ends in {' or '.join(FORMATS)}.")
    if not file.parent.is_dir():
        raise ConfigError(f"--video: got {file}; expected a folder that exists. Make {file.parent}.")
    if any(importlib.util.find_spec(package) is None for package in ("imageio", "imageio_ffmpeg")):
        raise MissingError("--video: needs imageio. Install it: pip install 'rltelemetry[video]'")


def film(policy: SavedPolicy, file: Path, seed: int | None) -> tuple[int, float]:
    """Write the first episode of one environment; the file appears when it is complete.

    Returns:
        Frames, and the episode's return.

    Raises:
        MissingError: the task cannot be rendered on this machine.
    """
    import imageio.v2 as imageio

    config = policy.saved.config
    first_seed = config.evaluation.seed if seed is None else seed
    unfinished = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
    num_frames, episode_return = 0, 0.0
    with closing(make_env(config, 1, first_seed, render_mode="rgb_array")) as env:
        try:
            writer: Any
            with imageio.get_writer(unfinished, **FORMATS[file.suffix]) as writer:
                for picture, score in _episode(policy, env):
                    writer.append_data(picture)
                    num_frames += 1
                    episode_return += score
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    return num_frames, episode_return


def _episode(policy: SavedPolicy, env: Any) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """The pictures of one episode, each with what the step before it has brought."""
    act, obs = policy.algorithm.deterministic_policy(), env.reset()
    yield env.render()[0], 0.0
    for elapsed in range(MAX_FRAMES - 1):
        step = env.step(act(obs, np.full(1, elapsed)))
        obs = step.obs
        yield env.render()[0], float(step.score[0])
        if step.finished[0]:
            return
