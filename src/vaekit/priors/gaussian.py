"""One Gaussian with the mean and the full covariance of the aggregate posterior.

KL_G (eq. 20) compares the diagonal of that covariance with I: N(0, I) is wrong in what entries have to do with each
other, and in their scale where the objective's own optimum has another (docs/study.md). Both are known exactly once the
training pictures are encoded, without any fit. Letters: N latents of d entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from vaekit.priors.base import NO_METADATA, Latents, log_standard_normal, read_prior
from vaekit.system.files import write_tensors

NAME = "gaussian"  # in the files
TENSORS = ("mean", "root", "inverse")
LARGEST = 8192  # entries: the covariance of twice as many takes gigabytes, and minutes to take apart
SMALLEST = 1e-6  # variance of a direction, as a share of the largest: one that never varies has a density all the same


@dataclass(frozen=True, eq=False, repr=False)
class GaussianPrior:
    """N(mean, root root) on the CPU: `mean` (d,), `root` (d, d) symmetric and positive, `inverse` its inverse.

    The symmetric root turns nothing: entry j of the whitened latents is the one nearest to entry j of z, so that those
    of a grid keep their places.
    """

    mean: Tensor
    root: Tensor
    inverse: Tensor

    @property
    def latent_dim(self) -> int:
        """Entries of a latent, d."""
        return len(self.mean)

    @property
    def std(self) -> Tensor:
        """The standard deviation of each entry, (d,)."""
        return self.root.square().sum(0).sqrt()

    def colour(self, u: Tensor) -> Tensor:
        """u (N, d) of mean zero and covariance I -> z (N, d) of this mean and covariance."""
        with torch.autocast("cpu", enabled=False):  # which the caller may use to decode z
            return self.mean + u @ self.root

    def whiten(self, z: Tensor) -> Tensor:
        """z (N, d) on any device -> u (N, d), the inverse of `colour`."""
        with torch.autocast("cpu", enabled=False):
            return (z.detach().to(self.mean) - self.mean) @ self.inverse

    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw z (num_images, d) on the CPU."""
        return self.colour(temperature * torch.randn(num_images, self.latent_dim, generator=generator))

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""
        return log_standard_normal(self.whiten(z)) + self.log_determinant

    @cached_property
    def log_determinant(self) -> Tensor:
        """log |du / dz| of `whiten`, ()."""
        return torch.linalg.slogdet(self.inverse.double()).logabsdet.float()

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, by name."""
        return {name: getattr(self, name) for name in TENSORS}

    def save(self, path: str | Path, metadata: Mapping[str, str] = NO_METADATA) -> None:
        """Write it as safetensors, with metadata; a reader sees the old file or the new."""
        write_tensors(self.tensors(), Path(path), {"prior": NAME, **metadata})

    @classmethod
    def load(cls, path: str | Path) -> GaussianPrior:
        """Read what `save` wrote. Raises `ValueError` if the file is missing, damaged or something else."""
        tensors, metadata = read_prior(path)
        if metadata.get("prior") != NAME or tensors.keys() != set(TENSORS):
            raise ValueError(f"{path} holds no Gaussian; fit the prior again")
        return cls(**tensors).checked(path)

    def checked(self, path: str | Path) -> GaussianPrior:
        """Itself. Raises `ValueError` for numbers that are no Gaussian."""
        d = self.latent_dim
        shapes_fit = self.mean.shape == (d,) and self.root.shape == self.inverse.shape == (d, d)
        if not shapes_fit or not all(tensor.isfinite().all() for tensor in self.tensors().values()):
            raise ValueError(f"{path} holds numbers that are no Gaussian; fit the prior again")
        return self


def fit_gaussian(latents: Latents, seed: int = 0) -> GaussianPrior:
    """The Gaussian with the moments of the aggregate posterior (1/N) sum_i N(mean_i, diag(std_i^2)), eq. 15.

    Its mean is that of the means (eq. 16), its covariance that of the means and, on the diagonal, the mean variance:
    eq. 17 with the entries beside the diagonal that it leaves out. Nothing is drawn: `seed` is there for the table.
    Raises `ValueError` for more entries than `LARGEST`.
    """
    if latents.mean.shape[1] > LARGEST:
        raise ValueError(f"latents of {latents.mean.shape[1]:,} entries; a covariance is fitted to {LARGEST:,} at most")
    means = latents.mean.double()
    mean = means.mean(0)
    covariance = (
        torch.cov(means.T, correction=0).reshape(2 * (len(mean),)) + latents.std.double().square().mean(0).diag()
    )
    variances, directions = torch.linalg.eigh(covariance)
    std = variances.clamp(min=SMALLEST * max(variances[-1].item(), SMALLEST)).sqrt()
    root, inverse = ((directions * scale) @ directions.T for scale in (std, 1 / std))
    return GaussianPrior(mean.float(), root.float(), inverse.float())
