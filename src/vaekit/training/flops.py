"""The operations of a training step, counted on meta tensors, which have shapes and no values: nothing is computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from vaekit.config.settings import Config
from vaekit.models.build import build_discriminator
from vaekit.models.vae import build_vae


def step_flops(config: Config, adversarial: bool) -> float:
    """Floating-point operations of a step, for each image: those of the convolutions and matrix products.

    A multiplication and an addition count as two. With `adversarial`, the discriminator judges the reconstructions
    for the VAE and then learns from them and from the pictures. What is computed twice to save memory
    (micro-batches, checkpointed activations) is not counted: this is the work that the step needs.
    """
    with torch.device("meta"):
        vae = build_vae(config)
        x, eps = torch.empty(1, *config.image_shape), torch.empty(1, config.noise_dim)
        x_hat = torch.empty_like(x, requires_grad=True)

        def vae_pass() -> None:
            seen = vae(x, eps)
            outputs = (
                *seen.latents,
                seen.z,
                seen.x_hat,
                *seen.shared,
                *seen.measured.values(),
                *([] if seen.fakes is None else [seen.fakes]),
            )
            sum(output.sum() for output in outputs).backward()

        flops = counted(vae_pass)
        if adversarial:
            discriminator = build_discriminator(config)
            judged = x.expand(2 if vae.decodes_draws else 1, *x.shape[1:])  # pictures in place of each image
            flops += counted(lambda: discriminator(torch.cat([x, judged])).sum().backward())
            discriminator.requires_grad_(False)
            flops += counted(lambda: discriminator(x_hat).sum().backward())
            if vae.decodes_draws:
                flops += counted(lambda: discriminator(torch.cat([x_hat, x_hat])).sum().backward())
    return flops


def counted(work: Callable[[], None]) -> float:
    """The operations of a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
