"""What every model gives a training step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Pass(NamedTuple):
    """One pass of training over B images, as tensors alone: DistributedDataParallel searches its output for them."""

    latents: tuple[Tensor, ...]  # the tensors of what `encode` returns, for a VAE mean and logvar, (B, d) each
    z: Tensor  # what was decoded, (B, d)
    x_hat: Tensor  # (B, C, H, W)
