"""The running average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Update the running average of the weights, with a lower decay early in the run.

    The statistics of live BatchNorm are those of other weights, and stay (see `training.state.settle_batch_norm`).
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
