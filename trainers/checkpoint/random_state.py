"""The global random generators as plain data: what `torch.load(weights_only=True)` takes.

The learners have generators of their own, and save them themselves. These are for code that draws from the global ones.
"""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "set_random_state"]


def random_state() -> dict[str, Any]:
    """Return the state of Python's, numpy's and torch's global generators."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    key_words = torch.from_numpy(np.asarray(keys, np.int64))
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), key_words, int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put a `random_state` back; generators of GPUs that are not there any more are left out."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device, generator in enumerate(state["cuda"][:num_gpus]):
        torch.cuda.set_rng_state(generator, device)
