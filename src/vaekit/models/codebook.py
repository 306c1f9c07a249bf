"""Codebooks of a VQ-VAE: each few entries of z become the nearest of K vectors that are learned.

Letters: z (B, d) has d / P channels at each of P positions, which G groups of e entries share; N latents of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.networks.codes import latents_of_codes, nearest_indices, nearest_places, vectors_of
from vaekit.system.autocast import without_autocast

DECAY = 0.99  # of the moving averages, a step
LEAST_USE, FRESH_USE = 0.1, 0.2  # of a code, in shares of the mean use: below it begins anew, and with so much
STRIDE = 7919  # a prime: where codes that begin anew find their vectors, spread over the step


class Codebook(nn.Module):
    """z (B, d) -> the same with each group of entries replaced by its nearest code; gradients pass straight through.

    Each group has `codes` (K, e) of its own. They are the moving averages of what they stand for (van den Oord et al.,
    NeurIPS 2017, app. A.1), moved by `learn` and by no gradient. A code that is hardly used begins anew at a vector of
    the step, and so do all of them at first.
    """

    steps: Tensor  # ()

    def __init__(self, latent_dim: int, positions: int, num_codes: int, code_entries: int) -> None:
        super().__init__()
        self.positions = positions
        shape = latent_dim // positions // code_entries, num_codes, code_entries
        # Parameters without a gradient, so that the running average of the weights has them too.
        self.codes = nn.Parameter(torch.randn(shape), requires_grad=False)
        self.counts = nn.Parameter(torch.zeros(shape[:2]), requires_grad=False)  # how often each was nearest in a step
        self.sums = nn.Parameter(torch.zeros(shape), requires_grad=False)  # of the vectors that it was nearest to
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor) -> Tensor:
        return z + (self.nearest(z) - z).detach()

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """z (B, d) with the code of each group, without gradient."""
        return latents_of_codes(self.indices(z), self.codes).to(z.dtype)

    @torch.no_grad()
    def indices(self, z: Tensor) -> Tensor:
        """z (B, d) -> which code each is, (B, G, P); in full precision, whatever autocast says."""
        with without_autocast(z.device):
            return nearest_indices(z, self.codes, self.positions)

    @torch.no_grad()
    def learn(self, z: Tensor, sound: Tensor) -> None:
        """Move the codes to the latents z (N, d) of a whole step, of all ranks.

        Where `sound` () is false, nothing changes.
        """
        with without_autocast(z.device):
            vectors = vectors_of(z, self.codes, self.positions)
            which = nearest_places(vectors, self.codes)
            chosen = which[..., None] == torch.arange(self.codes.shape[1], device=which.device)  # (G, N P, K)
            # A product, and no scattered sum: that adds in another order on each GPU, and codes of ranks would part.
            added = chosen.mT.to(vectors.dtype) @ vectors
        counts = self.counts.lerp(chosen.sum(1).to(self.counts.dtype), 1 - DECAY)
        sums = self.sums.lerp(added, 1 - DECAY)

        usual = vectors.shape[1] / counts.shape[1]
        unused = counts < LEAST_USE * usual
        places = ((unused.cumsum(1) - 1) * STRIDE + self.steps) % vectors.shape[1]
        begun = vectors.gather(1, places[..., None].expand_as(sums))
        counts = torch.where(unused, FRESH_USE * usual, counts)
        sums = torch.where(unused[..., None], FRESH_USE * usual * begun, sums)

        self.steps += sound.to(self.steps.dtype)
        for kept, moved in ((self.counts, counts), (self.sums, sums), (self.codes, sums / counts[..., None])):
            kept.copy_(torch.where(sound, moved, kept))


def codebook_of(decoder: nn.Module) -> Codebook | None:
    """The codes that a decoder begins with, if it has some."""
    found = getattr(decoder, "front", None)
    return found if isinstance(found, Codebook) else None
