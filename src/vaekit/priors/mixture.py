"""A mixture of Gaussians fitted to the latents of training pictures.

KL_G (eq. 20) matches two moments of each entry and ignores how the entries depend on each other, so
N(0, I) is not quite where the latents of real pictures lie. Letters: N latents of d entries, K components.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaekit.priors.base import NO_METADATA, Latents, log_standard_normal, read_prior
from vaekit.system.files import write_tensors

NAME = "gaussian-mixture"  # in the files
# Components to try, fewest first. A full covariance has d (d + 1) / 2 numbers, 33,000 for d = 256: ten thousand
# latents suffice for one or two. The fit takes 5 to 10 s for d = 256, 45 s for d = 512 (9,600 latents, one thread).
GRID: Mapping[str, tuple[int, ...]] = {"full": (1, 2, 5, 10), "diag": (1, 10, 50)}
REGULARISATION = 1e-3  # added to the variances, as a share of the entry's own
MOST = 20_000  # latents that `fit_mixture` takes
LARGEST_FULL = 2048  # entries: beyond, a covariance of each component takes many minutes, and is diagonal
MAX_ITERATIONS = 20  # of EM: 70 more gained 2 nats of 190 (d = 256, 2 components) and took four times as long


@dataclass(frozen=True, eq=False, repr=False)
class GaussianMixturePrior:
    """sum_k weights_k N(mean_k, scale_k scale_k^T), on the CPU.

    `weights` (K,) sum to one, `mean` (K, d); `scale` holds lower Cholesky factors (K, d, d) or, for diagonal
    covariances, standard deviations (K, d).
    """

    weights: Tensor
    mean: Tensor
    scale: Tensor

    @property
    def components(self) -> int:
        """Number of components, K."""
        return len(self.weights)

    @property
    def covariance(self) -> str:
        """`full` or `diag`."""
        return "full" if self.scale.ndim == 3 else "diag"

    @property
    def latent_dim(self) -> int:
        """Entries of a latent, d."""
        return self.mean.shape[1]

    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw z (num_images, d) on the CPU; `temperature` narrows each component, and moves none."""
        component = torch.multinomial(self.weights, num_images, replacement=True, generator=generator)
        eps = temperature * torch.randn(num_images, self.latent_dim, generator=generator, dtype=self.mean.dtype)
        z = torch.empty_like(eps)
        with torch.autocast("cpu", enabled=False):  # which the caller may use to decode z
            for k in component.unique():  # one factor at a time: (num_images, d, d) would not fit
                chosen, scale = component == k, self.scale[k]
                z[chosen] = self.mean[k] + (eps[chosen] @ scale.T if scale.ndim == 2 else eps[chosen] * scale)
        return z

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""
        z = z.detach().to(self.mean)
        parts = [log_normal(z, mean, scale) for mean, scale in zip(self.mean, self.scale, strict=True)]
        return torch.logsumexp(torch.stack(parts, 1) + self.weights.log(), 1)

    def save(self, path: str | Path, metadata: Mapping[str, str] = NO_METADATA) -> None:
        """Write weights, mean and scale as safetensors, with metadata; a reader sees the old file or the new."""
        tensors = {"weights": self.weights, "mean": self.mean, "scale": self.scale}
        write_tensors(tensors, Path(path), {"prior": NAME, **metadata})

    @classmethod
    def load(cls, path: str | Path) -> GaussianMixturePrior:
        """Read what `save` wrote. Raises `ValueError` if the file is missing, damaged or something else."""
        tensors, metadata = read_prior(path)
        if metadata.get("prior") != NAME or tensors.keys() != {"weights", "mean", "scale"}:
            raise ValueError(f"{path} holds no fitted prior; give a file that GaussianMixturePrior.save wrote")
        prior = cls(**tensors)
        if not prior.is_density():
            raise ValueError(f"{path} holds numbers that are no Gaussian mixture; fit the prior again")
        return prior

    def is_density(self) -> bool:
        if self.mean.ndim != 2 or self.weights.shape != self.mean.shape[:1]:
            return False
        k, d = self.mean.shape
        if self.scale.shape not in ((k, d, d), (k, d)):
            return False
        if not all(t.is_floating_point() and t.isfinite().all() for t in (self.weights, self.mean, self.scale)):
            return False
        deviations = self.scale.diagonal(dim1=1, dim2=2) if self.scale.ndim == 3 else self.scale
        return bool((self.weights >= 0).all() and abs(self.weights.sum() - 1) < 1e-3 and (deviations > 0).all())


def fit_mixture(latents: Latents, seed: int = 0) -> GaussianMixturePrior:
    """Fit a mixture to one draw of each posterior, of at most MOST of them."""
    z = latents.sample(torch.Generator().manual_seed(seed))
    return fit_gaussian_mixture(z[:: -(-len(z) // MOST)], seed=seed)


def fit_gaussian_mixture(
    z: Tensor | np.ndarray, components: int | None = None, covariance: str | None = None, seed: int = 0
) -> GaussianMixturePrior:
    """Fit a mixture of Gaussians to the latents z (N, d) of training pictures, by EM of scikit-learn.

    z are samples of the posteriors for a density of the aggregate posterior q(z), or the means for one of the means.
    What is left open of `components` and `covariance` (`full` or `diag`) is chosen from `GRID` by the likelihood of a
    tenth of the latents, drawn by `seed` and kept from the fit; more components are tried until that gets worse. With
    nothing to choose all latents are fitted. Fewer than ten have no tenth to keep from the fit: the defaults are then
    one component and a diagonal covariance, as it is for more than 2,048 entries. EM stops after 20 rounds and draws
    its start from `seed`. An entry that never varies gets a standard deviation of 0.03.

    Raises `ValueError` for latents that are not (N, d) with N of two or more or not finite, fewer latents than
    components, or an unknown covariance.
    """
    points = checked_latents(z)
    if covariance is not None and covariance not in GRID:
        raise ValueError(f"unknown covariance {covariance!r}; choose one of {', '.join(GRID)}")
    if components is not None and not 1 <= components <= len(points):
        raise ValueError(f"{components} components for {len(points)} latents; choose from 1 to {len(points)}")
    if len(points) < 10:
        components, covariance = components or 1, covariance or "diag"
    if components is not None and covariance is not None:
        return fit_by_em(points, components, covariance, seed)
    order = np.random.default_rng(seed).permutation(len(points))
    held_out, fitted = np.split(points[order], [len(points) // 10])
    best, best_score = None, -math.inf
    kinds = [kind for kind in GRID if kind == "diag" or points.shape[1] <= LARGEST_FULL]
    for kind in [covariance] if covariance else kinds:
        previous = -math.inf
        for size in [components] if components else GRID[kind]:
            if size > 1 and 10 * size > len(fitted):
                break
            prior = fit_by_em(fitted, size, kind, seed)
            score = prior.log_prob(torch.from_numpy(held_out)).mean().item()
            if score > best_score:
                best, best_score = prior, score
            if score <= previous:
                break
            previous = score
    assert best is not None
    return best


def checked_latents(z: Tensor | np.ndarray) -> np.ndarray:
    points = torch.as_tensor(z).detach().cpu().float().numpy()
    if points.ndim != 2 or len(points) < 2:
        raise ValueError(f"latents of shape {points.shape}; give (N, d) with two or more")
    if not np.isfinite(points).all():
        raise ValueError("some latents are not finite; a prior needs a model whose training did not diverge")
    return points


def fit_by_em(points: np.ndarray, components: int, covariance: str, seed: int) -> GaussianMixturePrior:
    """EM on standardised points (N, d), float32: the likelihood of float64 in half the time."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    center, spread = points.mean(0), np.where(np.ptp(points, 0) > 0, points.std(0), np.float32(1))
    mixture = GaussianMixture(
        components, covariance_type=covariance, reg_covar=REGULARISATION, max_iter=MAX_ITERATIONS, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 20 rounds are meant; k-means warns of equal points
        mixture.fit((points - center) / spread)
    covariances = torch.from_numpy(mixture.covariances_).double()
    scale = covariances.sqrt() if covariance == "diag" else torch.linalg.cholesky(covariances)
    unit = torch.from_numpy(spread)
    return GaussianMixturePrior(
        weights=torch.from_numpy(mixture.weights_).float(),
        mean=torch.from_numpy(center) + unit * torch.from_numpy(mixture.means_).float(),
        scale=(scale.float() * (unit if covariance == "diag" else unit[:, None])).contiguous(),  # as from a file
    )


def log_normal(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """log N(z; mean, scale scale^T) of z (N, d), by the change of variables z = mean + scale eps: (N,), nats."""
    if scale.ndim == 1:
        return log_standard_normal((z - mean) / scale) - scale.log().sum()
    eps = torch.linalg.solve_triangular(scale, (z - mean).T, upper=False).T
    return log_standard_normal(eps) - scale.diagonal().log().sum()
