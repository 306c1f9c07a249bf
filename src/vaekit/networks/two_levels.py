"""Two levels of latents: beside those of the coarsest grid, others of the grid that is twice as fine.

Letters: z (B, d) = (upper, lower), d / 2 entries each. The upper level has c channels at the coarsest P positions, the
lower one c / 4 channels at the 4 P positions below; flattened, both are (c, P), so that all of z has 2 c channels at P
positions, and what knows of one level knows of two.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

LOGVAR_INIT = -4.0  # as that of the upper level: see `pixelshuffle`


def folded(fine: Tensor) -> Tensor:
    """(B, c, 2 h, 2 w) -> (B, 4 c, h, w); the channels of one fine position stay together."""
    batch, channels, height, width = fine.shape
    blocks = fine.view(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)


def unfolded(coarse: Tensor) -> Tensor:
    """`folded` undone."""
    batch, channels, height, width = coarse.shape
    blocks = coarse.view(batch, 2, 2, channels // 4, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // 4, 2 * height, 2 * width)


class TwoLevelEncoder(nn.Module):
    """x (B, C, H, W) -> mean and logvar, (B, d) each, of an encoder of d / 2 entries and of its finer features.

    `encoder` has `features`, a `Chain` whose last halving begins at `coarsest`, where there are `channels`. Where its
    latents are `points`, so are the lower ones.
    """

    def __init__(self, encoder: Any, channels: int, lower_channels: int, points: bool = False) -> None:
        super().__init__()
        features = encoder.features
        self.finer, encoder.features = features[: encoder.coarsest], features[encoder.coarsest :]
        self.upper = encoder
        self.normalise = nn.Sequential(nn.GroupNorm(1, channels), nn.SiLU())
        self.mean = nn.Conv2d(channels, lower_channels, 1)
        self.logvar = None if points else nn.Conv2d(channels, lower_channels, 1)
        if self.logvar is not None:
            assert self.logvar.bias is not None
            nn.init.zeros_(self.logvar.weight)
            nn.init.constant_(self.logvar.bias, LOGVAR_INIT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.finer(x)
        mean, logvar = self.upper(fine)
        fine = self.normalise(fine)
        lower = folded(self.mean(fine)).flatten(1)
        width = torch.full_like(lower, -math.inf) if self.logvar is None else folded(self.logvar(fine)).flatten(1)
        return torch.cat([mean, lower], 1), torch.cat([logvar, width], 1)


class TwoLevelDecoder(nn.Module):
    """z (B, d) -> x_hat (B, C, H, W): the lower level joins the features of a decoder of d / 2 entries.

    `decoder` has `layers`, a `Chain` whose first doubling ends at `finer`, where there are `channels`. With
    `expects`, its features there give p(lower | upper) too, a Gaussian.
    """

    def __init__(self, decoder: Any, channels: int, lower_channels: int, expects: bool = True) -> None:
        super().__init__()
        self.coarse, self.layers = decoder.layers[: decoder.finer], decoder.layers[decoder.finer :]
        self.front: nn.Module = nn.Identity()  # what an objective puts before the first layer
        self.joined = nn.Conv2d(lower_channels, channels, 1)
        self.prior = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, 2 * lower_channels, 1)) if expects else None
        for parameter in () if self.prior is None else self.prior.parameters():
            nn.init.zeros_(parameter)  # N(0, I) at first

    def forward(self, z: Tensor) -> Tensor:
        upper, lower = self.front(z).chunk(2, 1)
        return self.finished(self.coarse(upper), lower)

    def finished(self, fine: Tensor, lower: Tensor) -> Tensor:
        """x_hat of the features of the finer grid, and lower latents (B, d / 2)."""
        height, width = fine.shape[-2:]
        return self.layers(fine + self.joined(unfolded(lower.unflatten(1, (-1, height // 2, width // 2)))))

    def expected(self, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logvar (B, d / 2) of p(lower | upper), from the features of the finer grid."""
        assert self.prior is not None
        mean, logvar = (folded(part).flatten(1) for part in self.prior(fine).chunk(2, 1))
        return mean, logvar

    def with_prior(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x_hat, and mean and logvar (B, d / 2) of p(lower | upper)."""
        upper, lower = self.front(z).chunk(2, 1)
        fine = self.coarse(upper)
        return self.finished(fine, lower), *self.expected(fine)

    def prior_of(self, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logvar (B, d / 2) of p(lower | upper), of upper latents (B, d / 2)."""
        return self.expected(self.coarse(upper))
