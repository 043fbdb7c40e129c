"""What a run computes on and with which random numbers: device, seeds, threads, precision."""

import random
from typing import Final, NamedTuple

import numpy as np
import torch

from trainers.config import HardwareConfig
from trainers.errors import MissingError
from trainers.ranks import ALONE, Ranks, join_ranks, local_rank

__all__ = ["Runtime", "Seeds", "prepare", "resolve_device", "seed_after", "spawn_seeds"]

SEED_BITS: Final = 30
"""envpool gives environment i the seed `seed + i`, in a signed 32-bit number: room for 2^30 environments."""


class Seeds(NamedTuple):
    """One independent seed for each use, so that a change to one use leaves the random numbers of the others."""

    environment: int
    network: int
    policy: int
    minibatch: int


class Runtime(NamedTuple):
    """What the parts of a run are built with."""

    device: torch.device
    seeds: Seeds
    ranks: Ranks = ALONE


def prepare(hardware: HardwareConfig, seed: int) -> Runtime:
    """Resolve the device, meet the other ranks, seed the global generators and set torch's threads and precision.

    Raises:
        MissingError: CUDA is asked for and absent.
    """
    device = resolve_device(hardware.device, local_rank())
    torch.set_num_threads(hardware.torch_threads)
    if device.type == "cuda":
        # what ranks tell each other goes over the current device: left at the first GPU, they all meet there
        torch.cuda.set_device(device.index or 0)
        torch.set_float32_matmul_precision("high")  # TF32: 10 bits of mantissa are enough for networks
        torch.backends.cudnn.allow_tf32 = True
    ranks = join_ranks(device)
    seeds = spawn_seeds(seed, ranks.rank)
    _seed_global_generators(seed if ranks.is_first else seeds.policy)
    return Runtime(device, seeds, ranks)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Turn auto, cpu, cuda or cuda:N into a device that is there; each rank on a machine takes a GPU of its own.

    Raises:
        MissingError: CUDA is asked for and absent.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    if name == "cuda" and local_rank:
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise MissingError(
            f"hardware.device: got {name!r}; expected a GPU that torch {torch.__version__} can use, and it finds "
            f"{num_gpus}. Use --device cpu, or install a driver and a CUDA build of torch."
        )
    return device


def spawn_seeds(seed: int, rank: int = 0) -> Seeds:
    """Derive the seed of each use from the seed of the run.

    Ranks agree on the networks, and on the first environment of all; they explore and shuffle each in its own way.
    """
    first = _derive(np.random.SeedSequence(seed))
    if rank == 0:
        return first
    own = _derive(np.random.SeedSequence([seed, rank]))
    return own._replace(environment=first.environment, network=first.network)


def _derive(sequence: np.random.SeedSequence) -> Seeds:
    children = sequence.spawn(len(Seeds._fields))
    return Seeds(*(int(child.generate_state(1)[0]) >> (32 - SEED_BITS) for child in children))


def seed_after(seed: int, update: int) -> int:
    """Derive the seed of the environments that follow on an update; that of the first ones, on update 0, is `seed`."""
    return int(np.random.SeedSequence([seed, update]).generate_state(1)[0]) >> (32 - SEED_BITS) if update else seed


def _seed_global_generators(seed: int) -> None:
    """For code that draws from them unasked; ours has generators of its own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
