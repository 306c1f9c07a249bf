"""A sequence of layers that can discard its activations and compute them again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Chain(nn.Sequential):
    """`nn.Sequential` with a switch: with `recompute`, only what goes into each block is kept for the backward pass.

    A block is a layer with layers inside. It then runs twice a step; the gradients and BatchNorm's running statistics
    are those without the switch, bit for bit.
    """

    recompute = False

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            if self.recompute and torch.is_grad_enabled() and any(True for _ in layer.children()):
                x = checkpoint(layer, x, use_reentrant=False, **checkpoint_contexts(layer))
            else:
                x = layer(x)
        return x


def checkpoint_contexts(layer: nn.Module) -> dict[str, Any]:
    """The contexts of `checkpoint`; none under torch.compile, which takes none and updates statistics only once."""
    return {} if torch.compiler.is_compiling() else {"context_fn": partial(passes, layer)}


def passes(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the first and of the second run of a layer, in which BatchNorm does what it did in the first."""
    return nullcontext(), again(layer, [norm for norm in batch_norms(layer) if not norm.training])


@contextmanager
def again(layer: nn.Module, evaluated: list[_BatchNorm]) -> Iterator[None]:
    """A second run, which moves no statistics, with those norms in evaluation that were so in the first."""
    with running_statistics_kept(layer), in_evaluation(*evaluated):
        yield


def batch_norms(layer: nn.Module) -> list[_BatchNorm]:
    """The layers of BatchNorm in a network that keep running statistics."""
    return [inner for inner in layer.modules() if isinstance(inner, _BatchNorm) and inner.track_running_stats]


@contextmanager
def in_evaluation(*networks: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode inside the context, and every module's own mode restored after."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def running_statistics_kept(layer: nn.Module) -> Iterator[None]:
    """Hold BatchNorm's running statistics fixed inside the context."""
    norms = batch_norms(layer)
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.copy_(count)
