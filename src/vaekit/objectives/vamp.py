"""The VAE whose prior is the mixture of the posteriors of K learned pictures: eq. 15, of pictures that are learned.

Letters: B images of a batch, d latent entries, u_k the learned pictures; `shared` holds their mean and logvar (K, d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior, at_least_float32
from vaekit.objectives.elbo import StandardELBO
from vaekit.objectives.likelihood import likelihood_weights
from vaekit.system.ranks import mean_over_images


@dataclass(frozen=True)
class VampELBO(StandardELBO):
    """KL to (1/K) sum_k q(z|u_k), the VampPrior (Tomczak and Welling, AISTATS 2018, eq. 9); likelihood of eq. 22.

    As KL_G it lets the aggregate posterior be what the data make of it: a mixture is pulled to a mixture, and no image
    to one Gaussian. The KL has no closed form; it is log q(z|x) - log p(z) at the z that is decoded.
    """

    @property
    def weights(self) -> dict[str, float]:
        return {"kl_vamp": self.kl} | self.likelihood_weights

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """The batch mean of the KL by one sample, nats; it may be below zero."""
        mean, logvar = (at_least_float32(tensor) for tensor in shared)
        log_q = log_gaussian(z, posterior.mean, posterior.logvar)
        log_p = torch.logsumexp(log_gaussian(z[:, None], mean, logvar), 1) - math.log(len(mean))
        return {"kl_vamp": mean_over_images(log_q - log_p)}


def log_gaussian(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mean, exp(logvar)) summed over the entries: (..., d) each, broadcastable -> (...), nats."""
    squares = (at_least_float32(z) - mean).square() * torch.exp(-logvar)
    return -0.5 * (squares + logvar + math.log(2 * math.pi)).sum(-1)


def build_vamp(config: Config, beside: None) -> VampELBO:
    """The objective with the weights of a config."""
    return VampELBO(config.weights.kl_standard, **likelihood_weights(config))
