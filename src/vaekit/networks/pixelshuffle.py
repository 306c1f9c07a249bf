"""A small network for small budgets: pixels folded into channels, channels growing as the resolution falls.

Where the paper's network works at full resolution with 128 channels, this one starts at half resolution
(pixel-unshuffle, which loses nothing) and doubles its channels at each halving, so that every stage costs about
the same. Residual branches start at zero: the untrained network is a shallow linear one, which needs no
normalisation and learns from the first step. The only normalisation is the one before the heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaekit.networks.chain import Chain

GRID_CHANNELS = 64  # channels of the coarsest grid before the heads, as in the paper's network
LOGVAR_INIT = -4.0  # std 0.14 at the start: noise of std 1 hides the means for hundreds of steps (docs/log.md)


class ResidualBlock(nn.Module):
    """x + f(x) with f = 3x3, 3x3, each after SiLU; f is zero at the start."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.residual = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def stage_widths(channels: int, stages: int, max_channels: int) -> list[int]:
    """Channels at resolutions 1/2, 1/4, ... of the picture: doubling, up to `max_channels`."""
    return [min(channels << stage, max_channels) for stage in range(stages)]


class PixelShuffleEncoder(nn.Module):
    """x (B, C, H, W) in [-1, 1] -> mean and logvar, (B, d) each; H and W are multiples of 2^stages.

    `image_shape` is (C, H, W). The first of the `stages` halvings is the pixel-unshuffle itself.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        *,
        stages: int,
        channels: int = 64,
        max_channels: int = 512,
        identity_blocks: int = 1,
        dense: bool = False,
    ) -> None:
        super().__init__()
        in_channels, height, width = image_shape
        widths = stage_widths(channels, stages, max_channels)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * in_channels, widths[0], 3, padding=1)]
        for stage, wide in enumerate(widths):
            if stage > 0:
                self.coarsest = len(layers)  # where the last halving begins
                layers.append(nn.Conv2d(widths[stage - 1], wide, 2, stride=2))
            layers += [ResidualBlock(wide) for _ in range(identity_blocks)]
        # Adam moves an output by up to lr x fan-in x feature in a step. With heads over 4,096 unbounded features a
        # run at lr 2e-3 diverged after a thousand steps; with fewer and normalised ones it did not (docs/log.md).
        layers += [nn.GroupNorm(1, widths[-1]), nn.SiLU()]
        positions = (height >> stages) * (width >> stages)
        if dense:
            layers += [nn.Conv2d(widths[-1], GRID_CHANNELS, 1), nn.Flatten()]
        self.features = Chain(*layers)
        self.mean, self.logvar = (
            nn.Linear(GRID_CHANNELS * positions, latent_dim)
            if dense
            else nn.Conv2d(widths[-1], latent_dim // positions, 1)
            for _ in range(2)
        )
        nn.init.zeros_(self.logvar.weight)
        assert self.logvar.bias is not None
        nn.init.constant_(self.logvar.bias, LOGVAR_INIT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.mean(features).flatten(1), self.logvar(features).flatten(1)


class PixelShuffleDecoder(nn.Module):
    """z (B, d) -> x_hat (B, C, H, W), about [-1, 1] but not clamped: the mirror image of the encoder."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        *,
        stages: int,
        channels: int = 64,
        max_channels: int = 512,
        identity_blocks: int = 1,
        dense: bool = False,
    ) -> None:
        super().__init__()
        out_channels, height, width = image_shape
        widths = stage_widths(channels, stages, max_channels)
        finest = max(1, channels // 2)  # at full resolution, where the last convolution evens out the sub-pixels
        grid = (height >> stages, width >> stages)
        layers: list[nn.Module]
        if dense:
            layers = [nn.Linear(latent_dim, widths[-1] * math.prod(grid)), nn.Unflatten(1, (widths[-1], *grid))]
        else:
            entries = latent_dim // math.prod(grid)
            layers = [nn.Unflatten(1, (entries, *grid)), nn.Conv2d(entries, widths[-1], 1)]
        for stage, (wide, narrow) in enumerate(zip(reversed(widths), [*reversed(widths[:-1]), finest], strict=True)):
            layers += [ResidualBlock(wide) for _ in range(identity_blocks)]
            layers += [shuffled(nn.Conv2d(wide, 4 * narrow, 1)), nn.PixelShuffle(2)]
            if stage == 0:
                self.finer = len(layers)  # where the first doubling ends
        layers += [nn.SiLU(), nn.Conv2d(finest, out_channels, 3, padding=1)]
        self.front: nn.Module = nn.Identity()  # what an objective puts before the first layer
        self.layers = Chain(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.front(z))


def shuffled(layer: nn.Conv2d) -> nn.Conv2d:
    """Give the four sub-pixels of a pixel-shuffle the same first weights, which avoids a checkerboard pattern."""
    with torch.no_grad():
        layer.weight.copy_(layer.weight[::4].repeat_interleave(4, 0))
        if layer.bias is not None:
            layer.bias.copy_(layer.bias[::4].repeat_interleave(4, 0))
    return layer
