"""What every objective gives the training step, and the two losses that train with them.

Letters: x, x_hat images (B, C, H, W) in [-1, 1]; z latents (B, d); `realism` logits of the discriminator
(B, 1, H/8, W/8). Terms are minimised: equations 22 and 23 are printed with inconsistent signs (22 is a
log-likelihood, 23 a loss, and both have -H beside +L1); as a loss, L1 and the cross-entropy are both penalties.

Every term is computed over the images of *all ranks*, so each rank holds the same losses: what is logged is the loss
of the whole batch, a non-finite value stops all ranks at once, and ranks may hold different numbers of images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from vaekit.models.base import NOTHING
from vaekit.models.posterior import Posterior
from vaekit.objectives.likelihood import cross_entropy


@dataclass(frozen=True)
class Losses:
    """Named scalar terms (nats, or mean absolute difference for `l1`) and the weight of each."""

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float]

    @cached_property
    def total(self) -> Tensor:
        """The weighted sum that is minimised, a scalar (eq. 23)."""
        return torch.stack([self.weights[name] * term for name, term in self.terms.items()]).sum()  # eq. 23

    def items(self) -> dict[str, float]:
        """Every term and `total` as plain numbers, for logs; waits for the device."""
        return {name: term.item() for name, term in (*self.terms.items(), ("total", self.total))}


class Objective(Protocol):
    """What the training step asks an objective for: the terms of a whole step, and those of a chunk of its images.

    Latent terms see the latents of all images of the step. Image terms are means over images, so those of chunks add
    up, weighted by their sizes; where they depend on the other images too, it is through `statistics` alone.
    """

    def at(self, progress: float) -> Objective:
        """The objective at this share of a run, 0 to 1."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of every term by name; latent terms first."""

    @property
    def compares_features(self) -> bool:
        """Whether image terms need `features`, the `likelihood.feature_distance`, in `judged`."""

    @property
    def needs_statistics(self) -> bool:
        """Whether image terms want `statistics`. Micro-batches then decode every image once more, to know them."""

    def latent_terms(self, latents: Any, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """Terms of what the model's `encode` returns, of the whole step, of the z (B, d) drawn from it, and of what the
        model's `shared` returns.
        """

    def statistics(self, x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        """What image terms need to know of the whole step: means over the images given, without gradient."""

    def image_terms(
        self, x: Tensor, x_hat: Tensor, judged: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Terms of images and reconstructions.

        `judged` holds `realism` and `features` where there is a discriminator, and what the model's pass has measured.

        Each is a mean over the images given, of all ranks.
        """


def vae_loss(
    objective: Objective,
    x: Tensor,
    x_hat: Tensor,
    posterior: Posterior,
    z: Tensor,
    realism: Tensor | None = None,
    features: Tensor | None = None,
    shared: tuple[Tensor, ...] = (),
    measured: Mapping[str, Tensor] = NOTHING,
) -> Losses:
    """What the encoder and decoder minimise (eq. 23 for the proposed objective, eqs 3-4 for the standard one).

    x, x_hat (B, C, H, W) in [-1, 1]; z (B, d) the sample of `posterior` that was decoded; `realism` the logits of
    x_hat, or None to train without a discriminator; `features` the `feature_distance`, if it counts; `shared` what the
    model's method of that name returns, and `measured` what its pass says of the latents.
    """
    judged = {name: term for name, term in (("realism", realism), ("features", features)) if term is not None}
    judged |= measured
    terms = objective.latent_terms(posterior, z, shared)
    terms |= objective.image_terms(x, x_hat, judged, objective.statistics(x, x_hat.detach()))
    return Losses(terms, objective.weights)


def discriminator_loss(realism_real: Tensor, realism_fake: Tensor) -> Losses:
    """What the discriminator minimises: cross-entropy of real against 1 and of fake against 0, nats (eq. 24).

    Logits (B, 1, h, w) of pictures and of detached reconstructions. Where the
    discriminator cannot decide, the sum is 2 ln 2 = 1.386. The paper multiplies it by beta_4. Under Adam a constant
    factor changes only the effect of epsilon, so it is 1 here.
    """
    terms = {
        "discriminator_real": cross_entropy(realism_real, 1.0),
        "discriminator_fake": cross_entropy(realism_fake, 0.0),
    }
    return Losses(terms, dict.fromkeys(terms, 1.0))  # eq. 24
