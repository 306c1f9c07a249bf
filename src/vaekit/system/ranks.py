"""Sums over ranks that carry gradients; the identity on one process.

The batch moments belong to the whole optimisation step, so they are sums over the images of every rank. A plain
all-reduce has no gradient, and would give 1/W of it on W ranks, silently. Here the backward sums the incoming
gradients over the ranks. With the same loss on every rank and DistributedDataParallel averaging the gradients,
that is exactly the gradient of one process: no extra factor.
"""

import math
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
    count = sum_over_ranks(x.new_full((), len(x)))  # made on the device: copying a `torch.tensor` there would wait
    return total / count


def from_rank_zero(x: Tensor) -> None:
    """Overwrite `x` with rank 0's, in place."""
    if is_distributed():
        dist.broadcast(x, 0)


def agree(clock: float, stop: bool) -> tuple[float, bool]:
    """Rank 0's clock, and whether *any* rank was asked to stop: both differ between processes, decisions must not.

    Between the CPUs (see `devices.BACKENDS`), so that no process waits for a GPU.
    """
    if not is_distributed():
        return clock, stop
    mine = [clock if dist.get_rank() == 0 else -math.inf, float(stop)]
    shared = torch.tensor(mine, dtype=torch.float64)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    clock, asked = shared.tolist()
    return clock, bool(asked)


def which_ranks(condition: bool) -> str:
    """Where `condition` holds, the same on every rank: "on rank 1", "on ranks 0, 2", "on every rank".

    Empty if it holds nowhere, or if there is one process.
    """
    if not is_distributed():
        return ""
    holds = torch.zeros(dist.get_world_size())
    holds[dist.get_rank()] = float(condition)
    ranks = sum_over_ranks(holds).nonzero().flatten().tolist()
    if len(ranks) in (0, len(holds)):
        return "on every rank" if ranks else ""
    return f"on rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
