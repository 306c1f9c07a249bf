"""What every density of latents can do, and N(0, I), which needs no fit.

Letters: N latents of d entries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from vaekit.config.variants import PRIORS, FittedBy, code_of

NO_METADATA: Mapping[str, str] = MappingProxyType({})


class Prior(Protocol):
    """A density of latents of d entries that can be sampled."""

    def sample(self, num_images: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw z (num_images, d) on the CPU."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I) over d entries."""

    latent_dim: int

    def sample(self, num_images: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw z (num_images, d) on the CPU."""
        return torch.randn(num_images, self.latent_dim, generator=generator)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""
        return log_standard_normal(z)


def log_standard_normal(z: Tensor) -> Tensor:
    """(N, d) -> (N,), nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


class FittedPrior(Prior, Protocol):
    """A density that was fitted to latents, and can be kept in a file."""

    def save(self, path: str | Path, metadata: Mapping[str, str] = NO_METADATA) -> None:
        """Write it with the metadata, whole or not at all; `load_prior` reads it."""


def fit_prior(name: str, z: Tensor, seed: int) -> FittedPrior:
    """Fit the prior `name` to the latents z (N, d) of train pictures. Raises `ValueError` for one without a fit."""
    return code_of("priors", fitted_by(name).fit)(z, seed=seed)


def load_prior(name: str, path: Path) -> FittedPrior:
    """Read the prior `name` from its file. Raises `ValueError` if it is missing, damaged or something else."""
    return code_of("priors", fitted_by(name).load).load(path)


def fitted_by(name: str) -> FittedBy:
    """How the prior `name` is fitted. Raises `ValueError` for one that is not fitted."""
    fitted = {known: row.fitted for known, row in PRIORS.items() if row.fitted is not None}
    if name not in fitted:
        raise ValueError(f"no prior {name!r} to fit; choose one of {', '.join(fitted)}")
    return fitted[name]
