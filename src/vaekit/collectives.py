"""Sums over ranks that carry gradients; the identity on one process.

The batch moments belong to the whole optimisation step, so they are sums over the images of every rank. A plain
all-reduce has no gradient, and would give 1/W of it on W ranks, silently. Here the backward sums the incoming
gradients over the ranks. With the same loss on every rank and DistributedDataParallel averaging the gradients,
that is exactly the gradient of one process: no extra factor.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SumOverRanks(torch.autograd.Function):
    """Sum over ranks, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return SumOverRanks.apply(gradient)


def is_distributed() -> bool:
    """Whether more than one process takes part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, any shape, differentiable; `x` itself on one process."""
    return SumOverRanks.apply(x) if is_distributed() else x


def mean_over_images(x: Tensor) -> Tensor:
    """(B, ...) -> (...): mean over the images of all ranks, which may hold different numbers of them."""
    total = sum_over_ranks(x.sum(0))
    count = sum_over_ranks(torch.tensor(float(len(x)), device=x.device, dtype=x.dtype))
    return total / count


def from_rank_zero(*values: float) -> list[float]:
    """Rank 0's numbers on every rank: clocks and signals differ between processes, decisions must not."""
    if not is_distributed():
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64, device=current_device())
    dist.broadcast(shared, 0)
    return shared.tolist()


def current_device() -> torch.device:
    """Where the process group's tensors live."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
