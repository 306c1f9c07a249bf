"""The discriminator's part of a step: its output for reconstructions, and its own gradients (eqs 22, 24)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaekit.networks.patchgan import PatchDiscriminator
from vaekit.objectives.likelihood import feature_distance
from vaekit.objectives.losses import Losses, discriminator_loss
from vaekit.system.devices import Fabric

# x, x_hat, and what is judged in its place, if something is -> `realism`, and `features` if the objective compares them
Judge = Callable[[Tensor, Tensor, Tensor | None], dict[str, Tensor]]


def judge_through(fabric: Fabric, discriminator: PatchDiscriminator, features: bool) -> Judge:
    """A function that judges reconstructions in the VAE's step: gradients pass through the discriminator to x_hat.

    Its own weights get no gradient. It is called unwrapped, so that DistributedDataParallel does not wait for one.
    """

    def judge(x: Tensor, x_hat: Tensor, fakes: Tensor | None) -> dict[str, Tensor]:
        discriminator.requires_grad_(False)
        with fabric.autocast():
            real, fake = seen(discriminator, x, x_hat, features)
            judged = fake if fakes is None else seen(discriminator, x, one_batch(fakes))[1]
        discriminator.requires_grad_(True)
        distance = {"features": feature_distance(real[:-1], fake[:-1])} if features else {}
        return {"realism": judged[-1], **distance}

    return judge


def seen(
    discriminator: PatchDiscriminator, x: Tensor, made: Tensor, features: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Activations of pictures x, without gradient and only where `features` asks for them, and of what was made.

    Live BatchNorm sees both in one batch, as in `judge_both`, and nothing else: what was made otherwise from the same
    pictures would get a gradient through the statistics.
    """
    if discriminator.batch_statistics:
        maps = discriminator.activations(torch.cat([x, made]))
        return [each[: len(x)].detach() for each in maps], [each[len(x) :] for each in maps]
    with torch.no_grad():
        real = discriminator.activations(x) if features else []
    return real, discriminator.activations(made)


def one_batch(fakes: Tensor) -> Tensor:
    """Fakes (B, F, C, H, W), F for each image, as pictures (B F, C, H, W); those (B, C, H, W) as they are."""
    if fakes.ndim == 4:
        return fakes
    return fakes.flatten(0, 1).contiguous(memory_format=torch.channels_last)


def judge_both(discriminator: Any, x: Tensor, fakes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of real and fake pictures seen in one batch, so that live BatchNorm gives both the same statistics."""
    logits = discriminator(torch.cat([x, fakes]))
    return logits[: len(x)], logits[len(x) :]


def backward_discriminator(fabric: Fabric, discriminator: Any, x: Tensor, fakes: Tensor, chunks: list[slice]) -> Losses:
    """Gradients of the discriminator's loss, each chunk of real pictures beside its reconstructions (eq. 24)."""
    terms: dict[str, Tensor] = {}
    for chunk in chunks:
        with fabric.no_backward_sync(discriminator, enabled=chunk is not chunks[-1]):
            losses = discriminator_loss(*judge_both(discriminator, x[chunk], one_batch(fakes[chunk])))
            share = len(x[chunk]) / len(x)
            fabric.backward(share * losses.total)
        for name, term in losses.terms.items():
            terms[name] = terms.get(name, 0.0) + share * term.detach()
    return Losses(terms, losses.weights)


def backward_latent_discriminator(fabric: Fabric, discriminator: Any, z: Tensor, draws: Tensor) -> Losses:
    """Gradients of the loss of a discriminator of latents: draws of N(0, I) (B, d) are real, latents z (B, d) fake."""
    real, fake = discriminator(torch.cat([draws, z])).chunk(2)
    losses = discriminator_loss(real, fake)
    fabric.backward(losses.total)
    return losses
