"""The processes of one run: `torchrun --nproc-per-node 2 -m trainers ppo ...` starts several, each with a share of the
environments; anything else is a run of one.

Networks are equal on all ranks and stay so: gradients and statistics are averaged over them before they are used.
Only the first rank talks, evaluates and saves.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.errors import RankLostError

__all__ = ["ALONE", "Ranks", "join_ranks", "local_rank"]


class Ranks:
    """This process among its equals. Every method is called by all of them, in the same order.

    Args:
        rank: this process's number, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """Whether this is the one that talks."""
        return self.rank == 0

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the ranks; differentiates nothing."""
        return self.sum(tensor) / self.size if self.size > 1 else tensor

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        with self._company():
            dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return everybody's value, by rank; they must be plain and small."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        with self._company():
            dist.all_gather_object(values, value)
        return values

    def gather_on_first(self, value: Any) -> list[Any]:
        """Return everybody's value, by rank, to the first one and nothing to the others; they may be large."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size if self.is_first else []
        with self._company():
            dist.gather_object(value, values if self.is_first else None)
        return values

    def from_first(self, value: Any) -> Any:
        """Return the first one's value; it may be large."""
        if self.size == 1:
            return value
        values = [value if self.is_first else None]
        with self._company():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def close(self) -> None:
        """Leave the others."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def _company(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).partition("\n")[0][:200]
            raise RankLostError(
                f"rank {self.rank}: another rank is gone: {reason}. With --max-restarts torchrun starts all of them "
                "again; with --resume auto they go on from the last checkpoint."
            ) from None


ALONE: Final = Ranks()


def local_rank(environ: Mapping[str, str] = os.environ) -> int:
    """Return this process's number on this machine: which of its GPUs is its own."""
    return int(environ.get("LOCAL_RANK", "0"))


def join_ranks(device: torch.device, environ: Mapping[str, str] = os.environ) -> Ranks:
    """Meet the other ranks where torchrun says; alone if it has not started us."""
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return ALONE
    ranks = Ranks(int(environ["RANK"]), int(environ["WORLD_SIZE"]))
    if ranks.size > 1:
        store, _, _ = next(dist.rendezvous("env://", ranks.rank, ranks.size))  # type: ignore[attr-defined]
        # torchrun keeps its store over restarts, and in it the addresses of processes that are gone
        start = f"start {environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        store = dist.PrefixStore(start, store)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size)
    return ranks
