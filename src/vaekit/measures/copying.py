"""Whether new pictures repeat training pictures.

A picture that is typical is near to many others; a copy is near to one of them alone. So what counts is how much nearer
the nearest training picture is than those after it (Carlini et al., "Extracting training data from diffusion models",
2023). What is usual is told by test pictures that the same decoder has drawn: soft pictures are nearer to some training
pictures than sharp ones are, and would count as copies beside the test pictures themselves. Letters: N queries, M
training pictures, F numbers of each: features, or small pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vaekit.data.loader import Batches
from vaekit.measures.distances import squared_distances

NEIGHBOURS = 50  # after the nearest one
SIDE = 16  # pixels of the small pictures
AT_ONCE = 64
RARE = 0.02  # of the test pictures are this near to a training picture, by definition
FEWEST = 100  # pictures: of fewer, one or two decide
POINTS = 0.02  # more of the samples than that, and than chance explains: they count as copies


@dataclass(frozen=True)
class Copying:
    """How many of N samples lie as near to one training picture as only 2 % of the reconstructed test pictures do.

    `share` of the samples, `test_share` of the reconstructions, `ratio` and `test_ratio` the medians of the distance to
    the nearest over the mean distance to the 50 after it.
    """

    share: float
    test_share: float
    ratio: float
    test_ratio: float
    num_images: int

    @property
    def copies(self) -> bool:
        """Whether the samples repeat training pictures."""
        by_chance = 3 * math.sqrt(2 * RARE * (1 - RARE) / self.num_images)  # three standard errors of the difference
        return self.num_images >= FEWEST and self.share > self.test_share + POINTS + by_chance

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        usual = f"{self.test_share:.1%} of the reconstructed test pictures"
        found = f"{self.share:.1%} of the samples are as near to one training picture as {usual}"
        none = "no copies" if self.num_images >= FEWEST else "too few pictures to tell"
        return f"{found}: {'they repeat training pictures' if self.copies else none}"


def nearest(queries: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """The place (N,) of the training picture (M, F) nearest to each query (N, F), and its ratio (N,).

    The ratio is its distance over the mean distance to the `NEIGHBOURS` after it: 0 for a copy, near 1 else. Raises
    `ValueError` for fewer than three training pictures.
    """
    if len(train) < 3:
        raise ValueError(f"{len(train)} training pictures; whether samples copy any needs three or more")
    train = train.double()
    places = queries.new_empty(len(queries), dtype=torch.int64)  # whole: pieces would lie between the large blocks
    ratios = queries.new_empty(len(queries), dtype=torch.float64)
    for rows, squared in squared_distances(queries.double(), train, AT_ONCE):
        values, order = squared.clamp_(min=0).sqrt_().topk(min(NEIGHBOURS + 1, len(train)), largest=False)
        places[rows] = order[:, 0]
        ratios[rows] = values[:, 0] / values[:, 1:].mean(1).clamp(min=1e-12)
    return places, ratios


def copying(samples: Tensor, test: Tensor, train: Tensor) -> Copying:
    """Whether samples (N, F) repeat training pictures (M, F) more than reconstructed test pictures (T, F) do.

    Those say what is usual: people are photographed twice, and some pictures are rare. Raises
    `ValueError` as `nearest` does.
    """
    return judged(nearest(samples, train)[1], nearest(test, train)[1])


def judged(ratios: Tensor, usual: Tensor) -> Copying:
    """The verdict on samples from their ratios (N,) and those of reconstructed test pictures (T,), see `nearest`."""
    limit = usual.quantile(RARE)
    return Copying(
        share=(ratios < limit).double().mean().item(),
        test_share=(usual < limit).double().mean().item(),
        ratio=ratios.median().item(),
        test_ratio=usual.median().item(),
        num_images=min(len(ratios), len(usual)),
    )


def small(x: Tensor) -> Tensor:
    """Pictures x (N, C, H, W) as the averages of 16x16 fields, (N, C 256): what a copy shares, whatever its details."""
    return adaptive_avg_pool2d(x.float(), SIDE).flatten(1)


def small_of(images: np.ndarray, chosen: np.ndarray) -> Tensor:
    """`small` of stored pictures, uint8 (N, C, H, W), at the places `chosen`, in [-1, 1]."""
    return torch.cat([small(x) for x in Batches(images, chosen, AT_ONCE)])
