"""Sums over ranks that carry gradients; the identity on one process.

The batch moments belong to the whole optimisation step, so they are sums over the images of every rank. A plain
all-reduce has no gradient, and would give 1/W of it on W ranks, silently. Here the backward sums the incoming
gradients over the ranks. With the same loss on every rank and DistributedDataParallel averaging the gradients,
that is exactly the gradient of one process: no extra factor.
"""

import math
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(days=30)
Plain = TypeVar("Plain")  # what pickles


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


def rank_and_world() -> tuple[int, int]:
    """The number of this rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def average_gradients(network: nn.Module) -> None:
    """Give every rank the mean of the ranks' gradients, for a loss that is the mean over shares of one size."""
    if not is_distributed():
        return
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def mean_over_images(x: Tensor) -> Tensor:
    """(B, ...) -> (...): mean over the images of all ranks, which may hold different numbers of them."""
    total = sum_over_ranks(x.sum(0))
    count = sum_over_ranks(x.new_full((), len(x)))  # made on the device: copying a `torch.tensor` there would wait
    return total / count


def images_of_ranks(x: Tensor) -> Tensor:
    """(B, ...) -> (N, ...): the rows of all ranks in their order, with gradient; `x` itself on one process.

    Ranks may hold different numbers of rows, which they tell each other between the CPUs.
    """
    if not is_distributed():
        return x
    rank, world = rank_and_world()
    counts = torch.zeros(world, dtype=torch.int64)
    counts[rank] = len(x)
    dist.all_reduce(counts)
    before, after = int(counts[:rank].sum()), int(counts[rank + 1 :].sum())
    padding = [0, 0] * (x.ndim - 1) + [before, after]
    return sum_over_ranks(nn.functional.pad(x, padding))


def agree(clock: float, stop: int) -> tuple[float, int]:
    """Rank 0's clock, and the signal that asked *any* rank to stop, or 0: both differ between processes.

    Between the CPUs (see `devices.BACKENDS`), so that no process waits for a GPU.
    """
    if not is_distributed():
        return clock, stop
    mine = [clock if dist.get_rank() == 0 else -math.inf, float(stop)]
    shared = torch.tensor(mine, dtype=torch.float64)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    clock, asked = shared.tolist()
    return clock, int(asked)


def object_from_rank_zero(value: Plain) -> Plain:
    """Rank 0's `value`, which can be pickled, on every rank."""
    if not is_distributed():
        return value
    shared = [value]
    dist.broadcast_object_list(shared, 0)
    return shared[0]


def objects_of_ranks(value: Plain) -> list[Plain]:
    """What every rank has as `value`, which can be pickled, in the order of the ranks."""
    if not is_distributed():
        return [value]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def from_first_of_machine(make: Callable[[], Plain]) -> Plain:
    """What `make` gives the first process of each machine, for all of it; the others wait, for days if need be.

    They wait in a group with a time limit of its own: that of other collectives is minutes, for lost processes.
    """
    if not is_distributed():
        return make()
    patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    here = socket.gethostname()
    mine = (here, make()) if is_first_of_machine() else None
    everyone: list[tuple[str, Plain] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine, group=patient)
    return dict(found for found in everyone if found is not None)[here]


def check_alike(cure: str = "give all ranks the same command, pictures and run folder", **facts: str) -> None:
    """Raise `ValueError`, with its `cure`, on every rank where one has another value of a fact than rank 0."""
    everyone = objects_of_ranks(facts)
    for rank, theirs in enumerate(everyone):
        for name, value in theirs.items():
            if value != everyone[0][name]:
                raise ValueError(
                    f"rank {rank} has other {name} than rank 0: {value} instead of {everyone[0][name]}; {cure}"
                )


def is_first_process() -> bool:
    """Whether this is the process that speaks for all ranks; known before they have met."""
    return is_first_of_machine() and os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0")) == "0"


def is_first_of_machine() -> bool:
    """Whether this is the first process of its machine; known before the ranks have met."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def check_one_process(command: str) -> None:
    """Raise `ValueError` for a command that several processes would each do in full, writing the same files."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"{command} works in one process, and this is one of several; start it without torchrun, and not in the "
            "program of a training on several devices"
        )


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
