"""The likelihood of eq. 22 as penalties: L1, realism, and the distance in the features of the discriminator.

Letters: x, x_hat images (B, C, H, W) in [-1, 1]; `realism` logits of the discriminator (B, 1, H/8, W/8). Every term is
a mean over the images of all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vaekit.config.settings import Config
from vaekit.models.posterior import at_least_float32
from vaekit.system.ranks import mean_over_images


class LikelihoodTerms:
    """The image terms of every objective whose likelihood is that of eq. 22; for its weights see `weights`."""

    l1: float  # of those that compare pixels by it
    realism: float
    features: float
    needs_statistics = False

    def at(self, progress: float) -> Self:
        """The same at any time."""
        return self

    @property
    def likelihood_weights(self) -> dict[str, float]:
        """The weight of each image term by name."""
        return {"l1": self.l1, "realism": self.realism, "features": self.features}

    @property
    def compares_features(self) -> bool:
        """Whether the distance in the features of the discriminator counts."""
        return self.features > 0

    def statistics(self, x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        """Nothing: each of these terms is a mean over images."""
        return {}

    def image_terms(
        self, x: Tensor, x_hat: Tensor, judged: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """See `likelihood_terms`."""
        return likelihood_terms(x, x_hat, **judged)


def likelihood_weights(config: Config) -> dict[str, float]:
    """The weights of the image terms in a config, as those objectives take them."""
    weights = config.weights
    return {"l1": weights.l1, "realism": weights.realism, "features": weights.features}


def likelihood_terms(
    x: Tensor, x_hat: Tensor, realism: Tensor | None = None, features: Tensor | None = None
) -> dict[str, Tensor]:
    """The reconstruction terms of eq. 22 as penalties: `l1`, and `realism` where there is a discriminator.

    x, x_hat (B, C, H, W) in [-1, 1]; `realism` the logits of x_hat. `l1` is the mean absolute difference over all
    pixels and channels, `realism` the mean cross-entropy of the logits against 1, nats. `features`, the
    `feature_distance` of x_hat from x, joins them where it is given; the paper has no such term.
    """
    return {"l1": mean_over_images(absolute_difference(x, x_hat))} | judged_terms(realism, features)


def judged_terms(realism: Tensor | None = None, features: Tensor | None = None) -> dict[str, Tensor]:
    """The terms of `likelihood_terms` that the discriminator gives, where there is one."""
    terms = {}
    if realism is not None:
        terms["realism"] = cross_entropy(realism, 1.0)
    if features is not None:
        terms["features"] = features
    return terms


def feature_distance(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """How far reconstructions are from their pictures in the features of the discriminator, a scalar.

    `real` and `fake` are its feature maps of x and of x_hat, (B, C, H, W) each: the mean absolute difference of each
    map, added up over the maps (feature matching: Wang et al., CVPR 2018, eq. 4, after Larsen et al., ICML 2016).
    """
    maps = zip(real, fake, strict=True)
    return mean_over_images(torch.stack([absolute_difference(one, other) for one, other in maps]).sum(0))


def absolute_difference(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean absolute difference of each image over its pixels and channels: (B, C, H, W) -> (B,), float32 or wider."""
    difference = x - x_hat
    # Three times as fast as abs().mean() forwards and backwards, and its sums are wide without a wide copy.
    wide = torch.promote_types(difference.dtype, torch.float32)
    return torch.linalg.vector_norm(difference, 1, dim=(1, 2, 3), dtype=wide) / difference[0].numel()


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    """Mean binary cross-entropy of a batch of logits (B, ...) against one target in [0, 1], a scalar, nats."""
    logits = at_least_float32(logits)
    targets = torch.full_like(logits, target)
    return mean_over_images(binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(1))
