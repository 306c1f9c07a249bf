"""The optimisers of the VAE and of the discriminator, and their learning rates over the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from vaekit.config.settings import Config
from vaekit.networks.muon import Muon
from vaekit.system.devices import resolve_precision

ADAM_EPSILON = 1e-7  # Keras' default
PICTURES, PICTURES_RATE = "pseudo_inputs.", 10.0  # values of pixels have further to go than weights
RATE = "rate"  # of a group, in learning rates of its optimiser


def vae_optimizer(vae: nn.Module, config: Config, device: torch.device) -> Optimizer:
    """Muon or AdamW over the weights of the VAE, with the settings of a config."""
    settings = config.optimizer
    groups = grouped(vae)
    weights = (groups, config.lr, (settings.beta1, settings.beta2), ADAM_EPSILON, settings.weight_decay)
    if settings.kind == "muon":
        bf16 = resolve_precision(config.device, config.precision) == "bf16"
        on_device = device.type == "cuda"  # a CPU decides without waiting for anything
        dtype = torch.bfloat16 if bf16 else torch.float32
        return Muon(*weights, momentum=settings.momentum, fused=on_device, dtype=dtype)
    return AdamW(*weights, fused=has_fused(device))


def grouped(vae: nn.Module) -> list[dict[str, Any]]:
    """The weights of a VAE as an optimiser takes them: learned pictures are no matrices, and do not decay."""
    pictures = [p for name, p in vae.named_parameters() if name.startswith(PICTURES)]
    weights = [p for name, p in vae.named_parameters() if not name.startswith(PICTURES)]
    return [{"params": weights}] + [
        {"params": pictures, "matrices": False, "weight_decay": 0.0, RATE: PICTURES_RATE}
    ] * bool(pictures)


def discriminator_optimizer(discriminator: nn.Module, config: Config, device: torch.device) -> Optimizer:
    """Adam over the weights of a discriminator, of pictures or of latents, with the settings of a config."""
    settings = config.optimizer
    return AdamW(
        discriminator.parameters(),
        settings.discriminator_lr,
        (settings.discriminator_beta1, settings.beta2),
        ADAM_EPSILON,
        weight_decay=0.0,
        fused=has_fused(device),
    )


def has_fused(device: torch.device) -> bool:
    """Whether torch has a fused AdamW for a device."""
    return device.type in ("cpu", "cuda")


def learning_rate_factor(progress: float, warmup: float, decay: str) -> float:
    """Share of the peak learning rate: a linear rise over the first `warmup` of the run, then cosine or constant."""
    rise = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return rise * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)) if decay == "cosine" else 1.0)


def set_learning_rates(optimizers: Mapping[str, Optimizer], config: Config, progress: float) -> None:
    """Move all optimisers, by name, along the schedule; `progress` is the fraction of the run that is over."""
    factor = learning_rate_factor(progress, config.optimizer.warmup, config.optimizer.decay)
    for name, optimizer in optimizers.items():
        peak = config.lr if name == "vae" else config.optimizer.discriminator_lr
        for group in optimizer.param_groups:
            group["lr"] = factor * peak * group.get(RATE, 1.0)
