"""The posterior q(z|x) = N(mean, diag(std^2)), its divergences and densities.

Letters: B images of a batch (of this rank), d latent entries. Everything that is a logarithm or a variance is
computed in float32 or better, whatever the dtype of the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian for each image: `mean` (B, d) and `logvar` = log std^2 (B, d), never log std.

    Points are Gaussians with `logvar` minus infinity: their KL to any density is infinite, and z is the mean.
    """

    mean: Tensor
    logvar: Tensor

    def __post_init__(self) -> None:
        # float64 stays float64: the tests of exactness need it.
        object.__setattr__(self, "mean", at_least_float32(self.mean))
        object.__setattr__(self, "logvar", at_least_float32(self.logvar))

    def __getitem__(self, chosen: Any) -> Posterior:
        """The posteriors of some of the images."""
        return Posterior(self.mean[chosen], self.logvar[chosen])

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """`mean` and `logvar`: what it is made of, and can be made of again."""
        return self.mean, self.logvar

    @property
    def num_entries(self) -> int:
        """Latent entries, d."""
        return self.mean.shape[1]

    @property
    def points(self) -> bool:
        """Whether these are points, Gaussians without a width: an autoencoder's. Waits for the device."""
        return bool(self.logvar.isneginf().all())

    @property
    def std(self) -> Tensor:
        """(B, d) standard deviations."""
        return torch.exp(0.5 * self.logvar)

    @property
    def var(self) -> Tensor:
        """(B, d) variances."""
        return torch.exp(self.logvar)

    def sample(self, eps: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw z (B, d) by the reparametrisation trick (eq. 6).

        `eps` (B, d) is the standard normal noise; without it, it is drawn from `generator` or the global one.
        """
        if eps is None:
            eps = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + eps * self.std  # eq. 6

    def kl_entries(self) -> Tensor:
        """KL(q(z_j|x_i) || N(0, 1)) of each image and entry: (B, d), nats (eq. 11 before its sum)."""
        return 0.5 * (self.var + self.mean.square() - 1 - self.logvar)  # eq. 11

    def kl_standard(self) -> Tensor:
        """KL(q(z|x_i) || N(0, I)) of each image: (B,), nats, summed over the latent entries (eq. 11)."""
        return self.kl_entries().sum(1)  # eq. 11

    def kl_individual(self) -> Tensor:
        """KL_I of each image: (B,), nats, summed over the latent entries; it ignores the mean (eq. 21).

        As printed it has no factor 1/2, so it is *twice* KL(q(z|x_i) || N(mean_i, I)); the paper's weight
        beta_2 = 0.5 makes up for it. The paper sums over the data set; we leave the sum over images to the
        objective, which takes the mean over the batch so that the weight does not depend on the batch size.
        """
        return (self.var - 1 - self.logvar).sum(1)  # eq. 21


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 unless it is already that or float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def gathered(posteriors: Iterable[Posterior]) -> Posterior:
    """The posteriors of several batches as one, (N, d) in all, on the CPU."""
    parts = zip(*(posterior.tensors for posterior in posteriors), strict=True)
    return Posterior(*(torch.cat([part.cpu() for part in tensors]) for tensors in parts))


def kl_gaussians(mean1: Tensor, var1: Tensor, mean2: Tensor, var2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)) of each entry, nats, any broadcastable shapes (eq. 10).

    The paper prints the squared distance of the means without dividing it by the second variance. That is a
    misprint: it only holds for var2 = 1, the paper's one use of it.
    """
    ratio = var1 / var2
    return 0.5 * (ratio + (mean1 - mean2).square() / var2 - 1 - ratio.log())  # eq. 10, corrected


def kl_of_logvars(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """The same of logarithms of variances, which may be too small or too large to be taken out of them (eq. 10)."""
    difference = logvar1 - logvar2
    return 0.5 * (torch.exp(difference) + (mean1 - mean2).square() * torch.exp(-logvar2) - 1 - difference)


def product_of_gaussians(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (d,) of the normalised product of the Gaussians N(mean_i, var_i), (N, d) (eqs 12-14).

    Precisions add, so one variance near zero makes the product a Dirac: the paper's argument against simply
    lowering beta_1, and for a mixture in place of the product. A diagnostic, not a loss.
    """
    product_var = 1 / (1 / var).sum(0)  # eq. 13
    return product_var * (mean / var).sum(0), product_var  # eq. 14


def log_densities(z: Tensor, posterior: Posterior) -> Tensor:
    """log q(z_m|x_n) of every image at every point: z (M, d), posterior (N, d) -> (M, N), nats, float64.

    The squares are expanded, so that the work is two matrix products. Points and means are first shifted by the mean of
    the means, which keeps their differences exact.
    """
    mean, logvar = posterior.mean.double(), posterior.logvar.double()
    center = mean.mean(0)
    z, mean = z.double() - center, mean - center
    precision = torch.exp(-logvar)
    constant = (mean.square() * precision + logvar + math.log(2 * math.pi)).sum(1)
    return -0.5 * (z.square() @ precision.T - 2 * z @ (precision * mean).T + constant)


def log_mixture(z: Tensor, posterior: Posterior) -> Tensor:
    """log q(z) of the aggregate posterior (1/N) sum_i N(mean_i, std_i^2) at points z (M, d): (M,), nats (eq. 15).

    Holds M x N densities at once.
    """
    return torch.logsumexp(log_densities(z, posterior), 1) - math.log(len(posterior.mean))  # eq. 15
