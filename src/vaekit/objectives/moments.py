"""The moments of the whole batch, and KL_G, which acts on them (eqs 16-20).

Letters: B images of this rank, d latent entries, K earlier steps. Everything is in float32 or better.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.models.posterior import Posterior, at_least_float32
from vaekit.system.ranks import mean_over_images

MOMENTS = ("samples", "means", "total")


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
    total variance; exact for `means` and `total`, and for `samples` but for a term whose expectation is zero). All
    steps have the same weight, since all steps of a run have equally many images.

    The gradient is as large as that of one large batch. There it is a mean over the images, to which each image adds

        dKL/dglobal_mean * d mean_i + dKL/dglobal_var * d (z_i - global_mean)^2,

    which depends on the other images through the moments alone (the variance is stationary in the mean it is taken
    about). The remembered images have no graph, so the gradient is estimated by the mean over this step's own images,
    at the pooled moments: this step's mean and its variance about the *pooled* mean pass on their gradient as if they
    were those of all images. The gradient of a plain average with the detached moments would be 1 / (K + 1) as large.
    One error remains: the remembered moments are those of older weights.

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
    """A tensor with the value of `value` and the gradient of `gradient`."""
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
