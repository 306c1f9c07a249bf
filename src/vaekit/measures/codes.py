"""How a VQ-VAE uses its codes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.models.codebook import Codebook

AT_ONCE = 256  # latents


def as_decoded(codebook: Codebook | None, z: Tensor) -> Tensor:
    """Latents z (N, d) as the decoder sees them, on the CPU: their nearest codes, where there is a codebook."""
    if codebook is None:
        return z
    return torch.cat([codebook.nearest(part.to(codebook.codes.device)).cpu() for part in z.split(AT_ONCE)])


def codes_in_use(codebook: Codebook, z: Tensor) -> dict[str, float]:
    """Which codes the latents z (N, d) of pictures take, counted over all of them and all positions.

    `used` and `perplexity` (the exponential of the entropy) are those of the mean group, of `codes` that there are.
    `nats` is an upper bound of what the codes of one picture hold: the entropies of all groups and positions added up;
    `most` that of codes that are all used alike.
    """
    groups, num_codes = codebook.counts.shape
    indices = torch.cat([codebook.indices(part.to(codebook.codes.device)).cpu() for part in z.split(AT_ONCE)])
    counts = torch.stack([torch.bincount(of_group.flatten(), minlength=num_codes) for of_group in indices.unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    entropy = -torch.special.xlogy(share, share).sum(1)
    return {
        "codes": num_codes,
        "groups": groups,
        "used": (counts > 0).double().sum(1).mean().item(),
        "perplexity": entropy.exp().mean().item(),
        "nats": codebook.positions * entropy.sum().item(),
        "most": codebook.positions * groups * math.log(num_codes),
    }
