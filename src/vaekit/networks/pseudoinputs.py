"""Pictures that are learned: the pseudo-inputs of the VampPrior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SPREAD, PATCHES = 0.25, 4  # of the first ones, smooth patterns: white noise would give them all one posterior


class PseudoInputs(nn.Module):
    """K pictures (K, C, H, W), about [-1, 1], at first smooth random patterns (Tomczak and Welling, 2018)."""

    def __init__(self, count: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        coarse = SPREAD * torch.randn(count, channels, PATCHES, PATCHES)
        smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        self.pictures = nn.Parameter(smooth)

    def forward(self) -> Tensor:
        return self.pictures
