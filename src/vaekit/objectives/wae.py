"""The Wasserstein autoencoder: the aggregate of its points is pulled to N(0, I) by the MMD of the two.

Letters: N latents z (N, d) of a whole step, of all ranks; y, y' draws of N(0, I); k the sum of inverse multiquadratics
k_C(x, y) = C / (C + |x - y|^2), with C = 2 d s for each scale s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior, at_least_float32
from vaekit.objectives.likelihood import LikelihoodTerms, likelihood_weights
from vaekit.system.autocast import without_autocast
from vaekit.system.ranks import images_of_ranks

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
NODES, ENDS = 64, 4.2  # of the quadrature: exact to 1e-11 for |z|^2 up to twenty times d


@dataclass(frozen=True)
class WassersteinMMD(LikelihoodTerms):
    """Reconstruction and the MMD between the latents of the step and N(0, I) (Tolstikhin et al., ICLR 2018, alg. 2).

    As KL_G, it acts on the batch as a whole and on no image; it sees the shape of the aggregate and not only two
    moments. Their code draws as many y as there are latents, and compares samples with samples. Here the expectations
    over N(0, I) are integrals that are known (`kernel_to_normal`): the estimate is as unbiased, with about half of its
    noise at the optimum. The reconstruction is that of eq. 22 instead of their squared error.
    """

    mmd: float = 3000.0
    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        return {"mmd": self.mmd} | self.likelihood_weights

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """The squared MMD of the latents of all ranks, no unit."""
        return {"mmd": mmd_to_normal(images_of_ranks(z))}


def mmd_to_normal(z: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2(q(z), N(0, I)) from N >= 2 latents z (N, d): (), it may be below zero.

    E k(z, z') over the pairs of different latents - 2 E k(z, y) + E k(y, y'). Time and memory grow as N^2: 0.1 GiB for
    a thousand latents. In float32 or better, whatever autocast says.
    """
    n, d = z.shape
    with without_autocast(z.device):
        z = at_least_float32(z)
        products = z @ z.T
        squares = products.diagonal()
        distances = (squares[:, None] + squares - 2 * products).clamp(min=0)
        between = torch.zeros_like(distances)
        for c in constants(d):
            between = between + c / (c + distances)
        pairs = (between.sum() - between.diagonal().sum()) / (n * (n - 1))
        return pairs - 2 * kernel_to_normal(squares, d).mean() + kernel_of_normals(d)


def kernel_to_normal(squares: Tensor, d: int) -> Tensor:
    """E_y k(z, y) over y ~ N(0, I) of latents with |z|^2 = `squares` (N,): (N,).

    C / (C + r^2) is the integral over u > 0 of exp(-u) exp(-t r^2) with t = u / C, and E_y exp(-t |z - y|^2) is
    (1 + 2 t)^(-d/2) exp(-t |z|^2 / (1 + 2 t)).
    """
    t, weights = quadrature_on(d, squares.dtype, squares.device)
    shrunk = 1 + 2 * t
    return torch.exp(-0.5 * d * shrunk.log() - t / shrunk * squares[:, None]) @ weights


def kernel_of_normals(d: int) -> float:
    """E k(y, y') over two draws of N(0, I), whose difference has the covariance 2 I."""
    t, weights = quadrature(d)
    return float(np.exp(-0.5 * d * np.log1p(4 * t)) @ weights)


def constants(d: int) -> list[float]:
    """C of each kernel."""
    return [2 * d * scale for scale in SCALES]


@cache
def quadrature(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Points t = u / C and weights of the integral over u, of all kernels one after another.

    By the double exponential rule (Takahasi and Mori, 1974): u = exp(s - exp(-s)) at even steps of s.
    """
    s, step = np.linspace(-ENDS, ENDS, NODES, retstep=True)
    u = np.exp(s - np.exp(-s))
    weights = step * (1 + np.exp(-s)) * u * np.exp(-u)
    return np.concatenate([u / c for c in constants(d)]), np.tile(weights, len(SCALES))


@cache
def quadrature_on(d: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same as tensors, made once: to send them in each step would be to wait for the device."""
    with torch.inference_mode(False):  # or no later step could send a gradient through them
        t, weights = (torch.tensor(values, dtype=dtype, device=device) for values in quadrature(d))
    return t, weights


def build_wae_mmd(config: Config, beside: None) -> WassersteinMMD:
    """The objective with the weights of a config."""
    return WassersteinMMD(config.weights.mmd, **likelihood_weights(config))
