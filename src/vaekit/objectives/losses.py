"""The objectives of the paper as compositions of named terms, and the two losses that train with them.

Letters: x, x_hat images (B, C, H, W) in [-1, 1]; z latents (B, d); `realism` logits of the discriminator
(B, 1, H/8, W/8). Terms are minimised: equations 22 and 23 are printed with inconsistent signs (22 is a
log-likelihood, 23 a loss, and both have -H beside +L1); as a loss, L1 and the cross-entropy are both penalties.

Every term is a mean over the images of *all ranks*, so each rank holds the same losses: what is logged is the loss
of the whole batch, a non-finite value stops all ranks at once, and ranks may hold different numbers of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from vaekit.models.posterior import MOMENTS, MomentsMemory, Posterior, at_least_float32, kl_global
from vaekit.system.ranks import mean_over_images


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
    """What the training loop needs: the terms that see the latents of the whole step, and the weights of all terms."""

    @property
    def weights(self) -> dict[str, float]: ...

    def latent_terms(self, posterior: Posterior, z: Tensor) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class GlobalELBO:
    """The proposed objective: KL_G on the moments of the whole batch, KL_I on each image (eq. 23).

    The defaults are the paper's (beta_1, beta_2, beta_3, beta_4) = (1, 0.5, 5000, 100). The author's published
    code has `kl_individual=0.1` and `moments="means"`, which costs far less to hold information: see
    `posterior.batch_moments`. A `memory` makes KL_G see earlier steps too; only training steps may then ask for terms.
    """

    kl_global: float = 1.0
    kl_individual: float = 0.5
    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0
    moments: str = "samples"
    memory: MomentsMemory | None = None

    def __post_init__(self) -> None:
        if self.moments not in MOMENTS:
            raise ValueError(f"unknown moments {self.moments!r}; choose one of {', '.join(MOMENTS)}")

    @property
    def weights(self) -> dict[str, float]:
        return {
            "kl_global": self.kl_global,
            "kl_individual": self.kl_individual,
            "l1": self.l1,
            "realism": self.realism,
            "features": self.features,
        }

    def latent_terms(self, posterior: Posterior, z: Tensor) -> dict[str, Tensor]:
        """KL_G (eq. 20) and the batch mean of KL_I (eq. 21), nats."""
        return {
            "kl_global": kl_global(posterior, z, self.moments, self.memory),
            "kl_individual": mean_over_images(posterior.kl_individual()),
        }


@dataclass(frozen=True)
class StandardELBO:
    """The standard VAE objective, weighted (eqs 3-4, 11); with `kl` > 1 it is the beta-VAE.

    The paper's baseline is b = [1, 5000] with L1: the defaults.
    """

    kl: float = 1.0
    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        return {"kl_standard": self.kl, "l1": self.l1, "realism": self.realism, "features": self.features}

    def latent_terms(self, posterior: Posterior, z: Tensor) -> dict[str, Tensor]:
        """The batch mean of the standard KL (eq. 11), nats."""
        return {"kl_standard": mean_over_images(posterior.kl_standard())}


def likelihood_terms(
    x: Tensor, x_hat: Tensor, realism: Tensor | None = None, features: Tensor | None = None
) -> dict[str, Tensor]:
    """The reconstruction terms of eq. 22 as penalties: `l1`, and `realism` where there is a discriminator.

    x, x_hat (B, C, H, W) in [-1, 1]; `realism` the logits of x_hat. `l1` is the mean absolute difference over all
    pixels and channels, `realism` the mean cross-entropy of the logits against 1, nats. `features`, the
    `feature_distance` of x_hat from x, joins them where it is given; the paper has no such term.
    """
    terms = {"l1": l1(x, x_hat)}
    if realism is not None:
        terms["realism"] = cross_entropy(realism, 1.0)
    if features is not None:
        terms["features"] = features
    return terms


def feature_distance(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """How far reconstructions are from their pictures in the eyes of the discriminator, a scalar.

    Its maps of features for x and for x_hat, (B, C, H, W) each: the mean absolute difference of each map, added up
    over the maps (feature matching: Wang et al., CVPR 2018, eq. 4, after Larsen et al., ICML 2016).
    """
    maps = zip(real, fake, strict=True)
    return mean_over_images(torch.stack([absolute_difference(one, other) for one, other in maps]).sum(0))


def vae_loss(
    objective: Objective,
    x: Tensor,
    x_hat: Tensor,
    posterior: Posterior,
    z: Tensor,
    realism: Tensor | None = None,
    features: Tensor | None = None,
) -> Losses:
    """What the encoder and decoder minimise (eq. 23 for the proposed objective, eqs 3-4 for the standard one).

    x, x_hat (B, C, H, W) in [-1, 1]; z (B, d) the sample of `posterior` that was decoded; `realism` the logits of
    x_hat, or None to train without a discriminator; `features` the `feature_distance`, if it counts.
    """
    terms = objective.latent_terms(posterior, z) | likelihood_terms(x, x_hat, realism, features)
    return Losses(terms, objective.weights)


def discriminator_loss(realism_real: Tensor, realism_fake: Tensor) -> Losses:
    """What the discriminator minimises: cross-entropy of real against 1 and of fake against 0, nats (eq. 24).

    Logits (B, 1, h, w) of pictures and of detached reconstructions. Undecided, the sum is 2 ln 2 = 1.386. The
    paper multiplies it by beta_4; under Adam a constant factor changes nothing but epsilon's share, so it is 1.
    """
    terms = {
        "discriminator_real": cross_entropy(realism_real, 1.0),
        "discriminator_fake": cross_entropy(realism_fake, 0.0),
    }
    return Losses(terms, dict.fromkeys(terms, 1.0))  # eq. 24


def l1(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean absolute difference over all images, pixels and channels, a scalar."""
    return mean_over_images(absolute_difference(x, x_hat))


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
