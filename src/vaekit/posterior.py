"""The posterior q(z|x) = N(mean, diag(std^2)), its divergences and the moments of the whole batch.

Letters: B images of a batch (of this rank), d latent entries. Everything that is a logarithm or a variance is
computed in float32 or better, whatever the dtype of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.collectives import mean_over_images

MOMENTS = ("samples", "means", "total")


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian for each image: `mean` (B, d) and `logvar` = log std^2 (B, d), never log std."""

    mean: Tensor
    logvar: Tensor

    def __post_init__(self) -> None:
        # float64 stays float64: the tests of exactness need it.
        object.__setattr__(self, "mean", at_least_float32(self.mean))
        object.__setattr__(self, "logvar", at_least_float32(self.logvar))

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

    def kl_standard(self) -> Tensor:
        """KL(q(z|x_i) || N(0, I)) of each image: (B,), nats, summed over the latent entries (eq. 11)."""
        return 0.5 * (self.var + self.mean.square() - 1 - self.logvar).sum(1)  # eq. 11

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


def batch_moments(posterior: Posterior, z: Tensor, moments: str = "samples") -> tuple[Tensor, Tensor]:
    """Mean and variance of the aggregate posterior over all images of the optimisation step (eqs 16-19).

    `posterior` holds (B, d), `z` (B, d) one sample of it. Returns `global_mean` (d,) and `global_var` (d,), over
    the images of all ranks. The mean is that of the means (eq. 18). Three estimators of the variance:

    - `samples`: mean_i (z_i - global_mean)^2, about the mean of the *means* and divided by n, the paper's eq. 19;
    - `means`: mean_i (mean_i - global_mean)^2, what the author's published code computes; it leaves out std^2, so
      the variance of the means alone is pulled to one;
    - `total`: mean_i std_i^2 + mean_i (mean_i - global_mean)^2, the law of total variance: the expectation of
      `samples` without its sampling noise.

    Raises `ValueError` for an unknown estimator.
    """
    if moments not in MOMENTS:
        raise ValueError(f"unknown moments {moments!r}; choose one of {', '.join(MOMENTS)}")
    global_mean = mean_over_images(posterior.mean)  # eq. 18
    points = at_least_float32(z) if moments == "samples" else posterior.mean
    global_var = mean_over_images((points - global_mean).square())  # eq. 19
    if moments == "total":
        global_var = global_var + mean_over_images(posterior.var)
    return global_mean, global_var


def kl_global(posterior: Posterior, z: Tensor, moments: str = "samples") -> Tensor:
    """KL_G: the KL of the batch's moment-matched Gaussian to N(0, I), one number (), nats (eq. 20).

    It sees two moments of the aggregate posterior and neither its shape nor its correlations, hence it is a lower
    bound of KL(q(z) || N(0, I)). See `batch_moments` for `moments` and what is raised.
    """
    global_mean, global_var = batch_moments(posterior, z, moments)
    return 0.5 * (global_var + global_mean.square() - 1 - global_var.log()).sum()  # eq. 20


def kl_gaussians(mean1: Tensor, var1: Tensor, mean2: Tensor, var2: Tensor) -> Tensor:
    """KL(N(mean1, var1) || N(mean2, var2)) of each entry, nats, any broadcastable shapes (eq. 10).

    The paper prints the squared distance of the means without dividing it by the second variance. That is a
    misprint: it only holds for var2 = 1, the paper's one use of it.
    """
    ratio = var1 / var2
    return 0.5 * (ratio + (mean1 - mean2).square() / var2 - 1 - ratio.log())  # eq. 10, corrected


def product_of_gaussians(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (d,) of the normalised product of the Gaussians N(mean_i, var_i), (N, d) (eqs 12-14).

    Precisions add, so one variance near zero makes the product a Dirac: the paper's argument against simply
    lowering beta_1, and for a mixture in place of the product. A diagnostic, not a loss.
    """
    product_var = 1 / (1 / var).sum(0)  # eq. 13
    return product_var * (mean / var).sum(0), product_var  # eq. 14


def log_densities(z: Tensor, posterior: Posterior) -> Tensor:
    """log q(z_m|x_n) of every image at every point: z (M, d), posterior (N, d) -> (M, N), nats, float64.

    The squares are expanded, so that the work is two matrix products; about the mean of the means, which keeps
    their differences exact.
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
