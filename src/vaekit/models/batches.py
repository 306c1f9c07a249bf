"""Many pictures or latents through a model, some at a time and without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vaekit.models.posterior import Posterior, gathered
from vaekit.models.vae import VAE
from vaekit.networks.chain import in_evaluation

DECODED_AT_ONCE = 16  # pictures: 256x256 is costly
ENCODED_AT_ONCE = 50


@contextmanager
def evaluating(vae: VAE) -> Iterator[torch.device]:
    """No gradients, evaluation mode, and every module's own mode restored after; gives the VAE's device."""
    with in_evaluation(vae), torch.no_grad():
        yield next(vae.parameters()).device


def encode_batches(vae: VAE, batches: Iterable[Tensor]) -> Posterior:
    """The posterior of N pictures that come in batches (B, C, H, W), without gradients: (N, d), on the CPU."""
    with evaluating(vae) as device:
        return gathered(vae.encode(x.to(device)) for x in batches)


def decode_batches(vae: VAE, z: Tensor, batch_size: int = DECODED_AT_ONCE) -> Iterator[Tensor]:
    """Decode latents z (N, d) some at a time, without gradients: (B, C, H, W) each, on the VAE's device."""
    for part in z.split(batch_size):
        with evaluating(vae) as device:
            x_hat = vae.decode(part.to(device))
        yield x_hat
