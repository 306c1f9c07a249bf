"""Pictures larger than a model takes: reconstructed in tiles that overlap by half, and blended."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from vaekit.commands.using import reconstructed
from vaekit.models.batches import DECODED_AT_ONCE
from vaekit.models.vae import VAE

LEAST = 1e-3  # weight of a pixel at the edge of a tile, where that of its middle is 1


def reconstructed_in_tiles(vae: VAE, x: Tensor) -> Tensor:
    """A picture x (C, H, W) of any size from that of the model on -> what the model makes of it, (C, H, W), on the CPU.

    Each tile is encoded and decoded from its mean as a picture of its own. Where tiles overlap, the mean of both is
    taken, weighted by how near a pixel is to the middle of each.
    """
    _, height, width = vae.image_shape
    places = list(product(starts(x.shape[1], height), starts(x.shape[2], width)))
    weight = bump(height)[:, None] * bump(width)
    total, weights = torch.zeros_like(x), torch.zeros(x.shape[1:])
    for some in torch.arange(len(places)).split(DECODED_AT_ONCE):
        chosen = [places[i] for i in some]
        tiles = torch.stack([x[:, top : top + height, left : left + width] for top, left in chosen])
        for (top, left), tile in zip(chosen, reconstructed(vae, tiles), strict=True):
            total[:, top : top + height, left : left + width] += weight * tile
            weights[top : top + height, left : left + width] += weight
    return total / weights


def starts(length: int, size: int) -> list[int]:
    """Where tiles of `size` pixels begin on a side of `length`: at even distances of at most half a tile."""
    steps = math.ceil((length - size) / max(1, size // 2))
    return [round((length - size) * i / steps) for i in range(steps + 1)] if steps else [0]


def bump(size: int) -> Tensor:
    """Weights (size,) from the edge of a tile to its middle and back."""
    place = (torch.arange(size) + 0.5) / size
    return (0.5 - 0.5 * torch.cos(2 * math.pi * place)).clamp(min=LEAST)
