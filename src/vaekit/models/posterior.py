"""The posterior q(z|x) = N(mean, diag(std^2)), its divergences and the moments of the whole batch.

Letters: B images of a batch (of this rank), d latent entries. Everything that is a logarithm or a variance is
computed in float32 or better, whatever the dtype of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vaekit.system.ranks import mean_over_images

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


class MomentsMemory(nn.Module):
    """The moments of the last K = `steps` steps, so that KL_G of a few images sees those of (K + 1) times as many.

    The value is that of all these images as one batch: their mean, and their variance about *that* mean (the law of
    total variance; exact for `means` and `total`, and for `samples` but for a term whose expectation is zero). Steps
    count alike, since those of a run have equally many images.

    The gradient has the strength of one large batch. There it is a mean over the images, to which each adds

        dKL/dglobal_mean * d mean_i + dKL/dglobal_var * d (z_i - global_mean)^2,

    and knows of the others through the moments alone (the variance is stationary in the mean it is taken about). The
    remembered images have no graph, so the mean over this step's own images, at the pooled moments, is its estimate:
    this step's mean and its variance about the *pooled* mean pass their gradient on as if they were the whole. A
    plain average with the detached ones would be 1 / (K + 1) as strong. What remains is that the remembered moments
    are those of older weights.

    The buffers are part of a run's state and of its checkpoints; on all ranks they are the same.
    """

    means: Tensor  # (K, d), newest first
    variances: Tensor  # (K, d)
    filled: Tensor  # (K,), one where there was such a step, else zero

    def __init__(self, steps: int, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(steps, latent_dim))
        self.register_buffer("variances", torch.zeros(steps, latent_dim))
        self.register_buffer("filled", torch.zeros(steps))

    def forward(self, global_mean: Tensor, global_var: Tensor) -> tuple[Tensor, Tensor]:
        """This step's moments (d,), (d,) -> the pooled ones (d,), (d,); remembers this step and forgets the oldest."""
        means = torch.cat([global_mean.detach()[None], self.means])  # (K + 1, d)
        variances = torch.cat([global_var.detach()[None], self.variances])
        filled = torch.cat([torch.ones_like(self.filled[:1]), self.filled])
        weights = (filled / filled.sum())[:, None]
        pooled_mean = (weights * means).sum(0)
        pooled_var = (weights * (variances + (means - pooled_mean).square())).sum(0)
        self.means.copy_(means[:-1])
        self.variances.copy_(variances[:-1])
        self.filled.copy_(filled[:-1])
        own_var = global_var + (global_mean - pooled_mean).square()
        return straight_through(pooled_mean, global_mean), straight_through(pooled_var, own_var)


def straight_through(value: Tensor, gradient: Tensor) -> Tensor:
    """The value of the one, the gradient of the other."""
    return gradient + (value - gradient).detach()


def kl_global(posterior: Posterior, z: Tensor, moments: str = "samples", memory: MomentsMemory | None = None) -> Tensor:
    """KL_G: the KL of the batch's moment-matched Gaussian to N(0, I), one number (), nats (eq. 20).

    It sees two moments of the aggregate posterior and neither its shape nor its correlations, hence it is a lower
    bound of KL(q(z) || N(0, I)). With a `memory` the batch is that of several steps, and each call is a step. See
    `batch_moments` for `moments` and what is raised.
    """
    global_mean, global_var = batch_moments(posterior, z, moments)
    if memory is not None:
        global_mean, global_var = memory(global_mean, global_var)
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
