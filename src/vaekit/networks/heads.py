"""The head of an encoder whose latents are points: it takes the place of the one that gives logvar."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PointHead(nn.Module):
    """log std^2 of a point, minus infinity: features (B, ...) -> (B, d), without a weight."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, features: Tensor) -> Tensor:
        return torch.full((features.shape[0], self.latent_dim), -math.inf, dtype=features.dtype, device=features.device)
