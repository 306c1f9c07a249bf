"""Measures of pictures, pure functions of tensors in [-1, 1]; thin over torchmetrics where it has them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio


def l1(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean absolute difference of each pair: (B, C, H, W) twice -> (B,)."""
    return (x - x_hat).abs().flatten(1).mean(1)


def psnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair in dB: (B, C, H, W) twice -> (B,); x_hat is clamped to [-1, 1]."""
    # torchmetrics reduces over the images of a call, and an average of ratios is what people report.
    pairs = zip(x_hat.clamp(-1, 1), x, strict=True)
    return torch.stack([peak_signal_noise_ratio(fake, real, data_range=2.0) for fake, real in pairs])


def laplacian_energy(x: Tensor) -> Tensor:
    """Mean squared Laplacian of the grey picture, (B, C, H, W) -> (B,): a measure of sharpness without a network."""
    grey = x.mean(1)
    sides = grey[:, 1:-1, 2:] + grey[:, 1:-1, :-2] + grey[:, 2:, 1:-1] + grey[:, :-2, 1:-1]
    return (sides - 4 * grey[:, 1:-1, 1:-1]).square().flatten(1).mean(1)
