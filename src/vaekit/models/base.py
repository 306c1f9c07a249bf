"""What every model gives a training step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Latents(Protocol):
    """What `encode` returns of B images; a `Posterior` is one."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it is made of, one row an image, and can be made of again: what gradients of the latent terms reach."""

    @property
    def num_entries(self) -> int:
        """Entries of z, d."""

    def sample(self, eps: Tensor) -> Tensor:
        """z (B, d), what is decoded, from the noise eps (B, d)."""


class Pass(NamedTuple):
    """One pass of training over B images, as tensors alone: DistributedDataParallel searches its output for them."""

    latents: tuple[Tensor, ...]  # the tensors of what `encode` returns, for a VAE mean and logvar, (B, d) each
    z: Tensor  # what was decoded, (B, d)
    x_hat: Tensor  # (B, C, H, W)
    shared: tuple[Tensor, ...] = ()  # what latent terms need beside and belongs to no image, see `Model.shared`
    measured: Mapping[str, Tensor] = NOTHING  # what image terms need of the latents, (B, ...) each
    fakes: Tensor | None = None  # (B, F, C, H, W): what the discriminator judges in place of x_hat, F for each image


class Density(Protocol):
    """What a model draws new latents from; those of `vaekit.priors` are such."""

    def sample(self, num_images: int, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Tensor:
        """z (num_images, d) on the CPU, from a generator there."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of z (N, d): (N,), nats."""


class Model(Protocol):
    """What the training step needs of a model, beside its `forward`, which returns a `Pass`."""

    def encode_unchecked(self, x: Tensor) -> Latents:
        """x (B, C, H, W) in [-1, 1] -> the latents of each image, without waiting for the device."""

    def latents_of(self, tensors: Iterable[Tensor]) -> Latents:
        """What `encode_unchecked` returned, made of its tensors again."""

    def shared(self) -> tuple[Tensor, ...]:
        """What latent terms need beside the latents of the images, with gradient: of a learned prior, for instance."""

    def decode(self, z: Tensor) -> Tensor:
        """z (B, d) -> x_hat (B, C, H, W)."""
