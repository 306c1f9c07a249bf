"""Vectors and the nearest of K codes, group by group.

Letters: z (B, d) has d / P channels at each of P positions, flattened (d / P, P); G groups of e channels each have K
codes of their own, `codes` (G, K, e).
"""

from __future__ import annotations

from torch import Tensor


def vectors_of(z: Tensor, codes: Tensor, positions: int) -> Tensor:
    """z (B, d) -> (G, B P, e): what each group has to describe."""
    groups, _, entries = codes.shape
    by_group = z.to(codes.dtype).unflatten(1, (groups, entries, positions))
    return by_group.permute(1, 0, 3, 2).flatten(1, 2)


def nearest_places(vectors: Tensor, codes: Tensor) -> Tensor:
    """(G, M, e) -> which code of its group is the nearest of each, (G, M)."""
    return (codes.square().sum(2)[:, None] - 2 * vectors @ codes.mT).argmin(2)


def latents_of_codes(indices: Tensor, codes: Tensor) -> Tensor:
    """Which codes, (B, G, P), as latents (B, d)."""
    batch, _, positions = indices.shape
    places = indices.movedim(1, 0).flatten(1)  # (G, B P)
    found = codes.gather(1, places[..., None].expand(-1, -1, codes.shape[2]))
    return found.unflatten(1, (batch, positions)).permute(1, 0, 3, 2).flatten(1)


def nearest_indices(z: Tensor, codes: Tensor, positions: int) -> Tensor:
    """z (B, d) -> which codes are the nearest, (B, G, P)."""
    places = nearest_places(vectors_of(z, codes, positions), codes)
    return places.unflatten(1, (-1, positions)).movedim(0, 1)
