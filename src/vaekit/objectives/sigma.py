"""The VAE whose decoder has the variance that fits best, instead of a weight set by hand.

Letters: x, x_hat images (B, C, H, W) in [-1, 1]; D = C H W values of one image; sigma, one number for the whole step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior, at_least_float32
from vaekit.objectives.likelihood import LikelihoodTerms, judged_terms
from vaekit.system.ranks import mean_over_images

LEAST_LOG_SIGMA = -6.0  # a reconstruction that is exact would make the likelihood infinite


@dataclass(frozen=True)
class SigmaELBO(LikelihoodTerms):
    """KL to N(0, I) and a Gaussian likelihood N(x_hat, sigma^2 I), sigma^2 the mean squared error of the whole step.

    That is the sigma of maximum likelihood (sigma-VAE: Rybkin et al., ICML 2021, eq. 5; the isotropic case of Takida et
    al., Neurocomputing 2022). Its derivative there is zero, so sigma needs no gradient: the gradient is that of
    D / (2 sigma^2) times the error, as if each step chose the weight of its reconstruction anew. Rybkin's code bounds
    log sigma softly from below, which moves it a little everywhere; here the bound of -6 is hard, and moves nothing
    above it.
    """

    kl: float = 1.0
    realism: float = 100.0
    features: float = 0.0

    needs_statistics = True

    @property
    def weights(self) -> dict[str, float]:
        return {"kl_standard": self.kl, "nll": 1.0, "realism": self.realism, "features": self.features}

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """The batch mean of the standard KL (eq. 11), nats."""
        return {"kl_standard": mean_over_images(posterior.kl_standard())}

    def statistics(self, x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        """The mean squared error over all images, pixels and channels."""
        return {"mse": mean_over_images(squared_error(x, x_hat)).detach()}

    def image_terms(
        self, x: Tensor, x_hat: Tensor, judged: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """-log p(x|z) in nats an image, summed over its D values, and the terms of the discriminator for x_hat."""
        log_sigma = (0.5 * statistics["mse"].log()).clamp(min=LEAST_LOG_SIGMA)
        error = mean_over_images(squared_error(x, x_hat))
        nll = x[0].numel() * (0.5 * error * torch.exp(-2 * log_sigma) + log_sigma + 0.5 * math.log(2 * math.pi))
        return {"nll": nll} | judged_terms(**judged)


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean squared difference of each image over its pixels and channels: (B, C, H, W) -> (B,), float32 or wider."""
    return at_least_float32(x - x_hat).square().flatten(1).mean(1)


def build_sigma(config: Config, beside: None) -> SigmaELBO:
    """The objective with the weights of a config; its reconstruction has no weight to set."""
    weights = config.weights
    return SigmaELBO(weights.kl_standard, weights.realism, weights.features)
