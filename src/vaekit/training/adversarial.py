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

Judge = Callable[
    [Tensor, Tensor], dict[str, Tensor]
]  # x, x_hat -> `realism`, and `features` if the objective compares them


def judge_through(fabric: Fabric, discriminator: PatchDiscriminator, features: bool) -> Judge:
    """A function that judges reconstructions in the VAE's step: gradients pass through the discriminator to x_hat.

    Its own weights get no gradient. It is called unwrapped, so that DistributedDataParallel does not wait for one.
    """

    def judge(x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        discriminator.requires_grad_(False)
        with fabric.autocast():
            if discriminator.batch_statistics:  # real and fake pictures in one batch: see `judge_both`
                both = [activation.chunk(2) for activation in discriminator.activations(torch.cat([x, x_hat]))]
                real, fake = [real.detach() for real, _ in both], [fake for _, fake in both]
            else:
                fake = discriminator.activations(x_hat)
                with torch.no_grad():
                    real = discriminator.activations(x) if features else []
        discriminator.requires_grad_(True)
        distance = {"features": feature_distance(real[:-1], fake[:-1])} if features else {}
        return {"realism": fake[-1], **distance}

    return judge


def judge_both(discriminator: Any, x: Tensor, x_hat: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of real and fake pictures seen in one batch, so that live BatchNorm gives both the same statistics."""
    realism_real, realism_fake = discriminator(torch.cat([x, x_hat])).chunk(2)
    return realism_real, realism_fake


def backward_discriminator(fabric: Fabric, discriminator: Any, x: Tensor, x_hat: Tensor, chunks: list[slice]) -> Losses:
    """Gradients of the discriminator's loss, each chunk of real pictures beside its reconstructions (eq. 24)."""
    terms: dict[str, Tensor] = {}
    for chunk in chunks:
        with fabric.no_backward_sync(discriminator, enabled=chunk is not chunks[-1]):
            losses = discriminator_loss(*judge_both(discriminator, x[chunk], x_hat[chunk]))
            share = len(x[chunk]) / len(x)
            fabric.backward(share * losses.total)
        for name, term in losses.terms.items():
            terms[name] = terms.get(name, 0.0) + share * term.detach()
    return Losses(terms, losses.weights)
