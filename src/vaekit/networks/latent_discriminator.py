"""A discriminator of latents: does z come from N(0, I), or from an encoder?"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTH, LAYERS = 512, 2


class LatentDiscriminator(nn.Module):
    """z (B, d) -> logits (B, 1), high where z looks like a draw of N(0, I): layers of 512, ReLU between them."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        widths = [latent_dim, *[WIDTH] * LAYERS]
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(WIDTH, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)
