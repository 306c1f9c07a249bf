"""The optimisers of the VAE and of the discriminator, and their learning rates over the run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from vaekit.config.settings import Config
from vaekit.networks.muon import Muon
from vaekit.system.devices import resolve_precision

ADAM_EPSILON = 1e-7  # Keras' default


def vae_optimizer(vae: nn.Module, config: Config, device: torch.device) -> Optimizer:
    """Muon or AdamW over the weights of the VAE, with the settings of a config."""
    settings = config.optimizer
    weights = (vae.parameters(), config.lr, (settings.beta1, settings.beta2), ADAM_EPSILON, settings.weight_decay)
    if settings.kind == "muon":
        bf16 = resolve_precision(config.device, config.precision) == "bf16"
        on_device = device.type == "cuda"  # a CPU decides without waiting for anything
        dtype = torch.bfloat16 if bf16 else torch.float32
        return Muon(*weights, momentum=settings.momentum, fused=on_device, dtype=dtype)
    return AdamW(*weights, fused=has_fused(device))


def discriminator_optimizer(discriminator: nn.Module, config: Config, device: torch.device) -> Optimizer:
    """Adam over the weights of the discriminator, with the settings of a config."""
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
    """Move both optimisers, by name, along the schedule; `progress` is the fraction of the run that is over."""
    factor = learning_rate_factor(progress, config.optimizer.warmup, config.optimizer.decay)
    peaks = {"vae": config.lr, "discriminator": config.optimizer.discriminator_lr}
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = factor * peaks[name]
