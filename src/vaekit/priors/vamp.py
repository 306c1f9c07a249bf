"""The prior that `vamp` trains: the mixture of the posteriors of its learned pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vaekit.priors.mixture import GaussianMixturePrior


class VampPrior:
    """(1/K) sum_k q(z|u_k) of a model with learned pictures u_k, as they are now (Tomczak and Welling, 2018, eq. 9).

    `posteriors` gives their mean and logvar, (K, d) each.
    """

    def __init__(self, posteriors: Callable[[], tuple[Tensor, ...]], latent_dim: int) -> None:
        self.posteriors = posteriors
        self.latent_dim = latent_dim

    @torch.no_grad()
    def mixture(self) -> GaussianMixturePrior:
        """It, as the mixture of Gaussians that it is, on the CPU."""
        mean, logvar = (tensor.float().cpu() for tensor in self.posteriors())
        return GaussianMixturePrior(torch.full((len(mean),), 1 / len(mean)), mean, torch.exp(0.5 * logvar))

    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw z (num_images, d) on the CPU; a `temperature` below 1 keeps nearer to the middle of each component."""
        return self.mixture().sample(num_images, generator, temperature=temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""
        return self.mixture().log_prob(z)
