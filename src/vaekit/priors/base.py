"""What every fitted density of latents can do, the latents it is fitted to, and N(0, I), which needs no fit.

Letters: N latents of d entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from vaekit.config.priors import PRIORS, FittedBy
from vaekit.config.variants import code_of
from vaekit.system.files import read_tensors

NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I) over d entries."""

    latent_dim: int

    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw z (num_images, d) on the CPU."""
        return temperature * torch.randn(num_images, self.latent_dim, generator=generator)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""
        return log_standard_normal(z)


def log_standard_normal(z: Tensor) -> Tensor:
    """(N, d) -> (N,), nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


@dataclass(frozen=True, eq=False)
class Latents:
    """The posteriors of N training pictures, to which a prior is fitted: `mean` and `std` (N, d).

    `positions`: the places P of the grid that the entries belong to, (d / P, P) flattened; 1 where all see all.
    `codes` (G, K, e) are those that latents become, where they do. `labels`, where the pictures have any, are places
    (N,) in `classes`, or which of K `attributes` they have, 0 or 1, (N, K).
    """

    mean: Tensor
    std: Tensor
    positions: int = 1
    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    labels: Tensor | None = None
    codes: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or self.mean.shape != self.std.shape or len(self.mean) < 2:
            shapes = f"{tuple(self.mean.shape)} and {tuple(self.std.shape)}"
            raise ValueError(f"latents with means and stds of shapes {shapes}; give (N, d) twice, N of two or more")
        if not (self.mean.isfinite().all() and self.std.isfinite().all()):
            raise ValueError("some latents are not finite; a prior needs a model whose training did not diverge")

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One z of each posterior (eq. 6): N draws (N, d) of the aggregate posterior (eq. 15)."""
        return self.mean + self.std * torch.randn(self.mean.shape, generator=generator)


class FittedPrior(Protocol):
    """A density of latents of d entries that was fitted to some, and can be kept in a file."""

    @property
    def latent_dim(self) -> int:
        """Entries of a latent, d."""

    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw z (num_images, d) on the CPU, its noise from a generator there.

        A `temperature` below 1 multiplies the noise: draws lie nearer to the middle, safer and less varied.
        """

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""

    def save(self, path: str | Path, metadata: Mapping[str, str] = NO_METADATA) -> None:
        """Write it with the metadata, whole or not at all; its class reads it with `load`."""


def read_prior(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a prior's file. Raises `ValueError` if it is missing, damaged or something else."""
    try:
        return read_tensors(Path(path))
    except ValueError as error:
        raise ValueError(f"{error}; fit the prior again") from error


def fit_prior(name: str, latents: Latents, seed: int, **options: Any) -> FittedPrior:
    """Fit the prior `name` to the latents of train pictures; `options` are those of its own fit.

    Raises `ValueError` for one without a fit.
    """
    return code_of("priors", fitted_by(name).fit)(latents, seed=seed, **options)


def fitted_by(name: str) -> FittedBy:
    """How the prior `name` is fitted. Raises `ValueError` for one that is not fitted."""
    fitted = {known: row.fitted for known, row in PRIORS.items() if row.fitted is not None}
    if name not in fitted:
        raise ValueError(f"no prior {name!r} to fit; choose one of {', '.join(fitted)}")
    return fitted[name]
