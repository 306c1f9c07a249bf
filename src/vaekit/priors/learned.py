"""Priors that are trained with a model, and are what its weights are whenever they are asked.

Letters: z (N, d). They draw on the CPU from a generator there, wherever the model is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaekit.priors.base import log_standard_normal
from vaekit.priors.mixture import GaussianMixturePrior

AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class VampPrior:
    """(1/K) sum_k q(z|u_k) of a model with learned pictures u_k (Tomczak and Welling, AISTATS 2018, eq. 9).

    `posteriors` gives their mean and logvar, (K, d) each.
    """

    posteriors: Callable[[], tuple[Tensor, ...]]
    latent_dim: int

    @torch.no_grad()
    def mixture(self) -> GaussianMixturePrior:
        """It, as the mixture of Gaussians that it is, on the CPU."""
        mean, logvar = (tensor.float().cpu() for tensor in self.posteriors())
        return GaussianMixturePrior(torch.full((len(mean),), 1 / len(mean)), mean, torch.exp(0.5 * logvar))

    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw z (num_images, d); a `temperature` below 1 keeps nearer to the middle of each component."""
        return self.mixture().sample(num_images, generator, temperature=temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""
        return self.mixture().log_prob(z)


@dataclass(frozen=True, eq=False)
class TwoLevelPrior:
    """N(0, I) for the upper half of z, and what the decoder expects of the lower: p(z_2) p(z_1|z_2)."""

    decoder: Any
    latent_dim: int

    @torch.no_grad()
    def expected(self, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logvar (N, d / 2) of the lower level."""
        weight = next(self.decoder.parameters())
        parts = [self.decoder.prior_of(part.to(weight.device, weight.dtype)) for part in upper.split(AT_ONCE)]
        mean, logvar = (torch.cat(each).float().cpu() for each in zip(*parts, strict=True))
        return mean, logvar

    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw z (num_images, d); a `temperature` below 1 multiplies the noise of both levels."""
        upper, noise = (temperature * torch.randn(num_images, self.latent_dim, generator=generator)).chunk(2, 1)
        mean, logvar = self.expected(upper)
        return torch.cat([upper, mean + noise * torch.exp(0.5 * logvar)], 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""
        upper, lower = z.detach().float().cpu().chunk(2, 1)
        mean, logvar = self.expected(upper)
        scaled = (lower - mean) * torch.exp(-0.5 * logvar)
        return log_standard_normal(upper) + log_standard_normal(scaled) - 0.5 * logvar.sum(1)


@dataclass(frozen=True, eq=False)
class PulledBack:
    """What a flow f takes to N(0, I): z = the inverse of f at a draw of it."""

    flow: Any
    latent_dim: int

    @torch.no_grad()
    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw z (num_images, d); a `temperature` below 1 multiplies the noise."""
        weight = next(self.flow.parameters())
        noise = temperature * torch.randn(num_images, self.latent_dim, generator=generator)
        return self.flow.inverse(noise.to(weight.device, weight.dtype)).float().cpu()

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""
        weight = next(self.flow.parameters())
        moved, log_det = (part.float().cpu() for part in self.flow.with_log_det(z.to(weight.device, weight.dtype)))
        return log_standard_normal(moved) + log_det
