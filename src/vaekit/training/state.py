"""Everything that changes during a run, built from the seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES
from vaekit.models.build import build_discriminator
from vaekit.models.decoding import called_in_training
from vaekit.models.vae import VAE, build_vae
from vaekit.networks.latent_discriminator import LatentDiscriminator
from vaekit.networks.norms import BATCHNORM_MOMENTUM, synchronise_batch_norm
from vaekit.objectives.moments import MomentsMemory
from vaekit.system.devices import Fabric, make_fabric
from vaekit.training.optimizers import discriminator_optimizer, vae_optimizer

NORM_RATE = 0.01  # weight of a new norm in its running average, which spans a hundred steps


class UsualNorm(nn.Module):
    """The usual norm of the VAE's gradient: a running average, infinite before the first step.

    A buffer, so that it lives on the device and in checkpoints.
    """

    value: Tensor  # ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(math.inf))

    def update(self, norm: Tensor) -> None:
        """Take in the norm of one more step, unless it is not finite."""
        moved = torch.where(self.value.isinf(), norm, self.value + NORM_RATE * (norm - self.value))
        self.value.copy_(torch.where(norm.isfinite(), moved, self.value))


@dataclass(frozen=True)
class Step:
    """What one step left on the device: its number, its loss terms, and whether this rank's own x_hat was finite."""

    number: int
    terms: Mapping[str, Tensor]
    own_finite: Tensor


@dataclass
class TrainState:
    """Everything that changes during a run.

    `vae`, the discriminators and the optimisers are Fabric's wrappers: call the wrapped networks; `.module` is the
    network itself. `scaler` scales the losses of fp16 runs. Without a discriminator, it and its optimiser are None;
    without `moments_memory`, so is `memory`; the discriminator of latents is that of `wae-gan`. `unchecked` are the
    steps that `check_finite` has not seen yet.
    """

    vae: Any
    vae_optimizer: Any
    ema: VAE
    usual_norm: UsualNorm
    scaler: torch.amp.GradScaler | None = None
    discriminator: Any = None
    discriminator_optimizer: Any = None
    memory: MomentsMemory | None = None
    latent_discriminator: Any = None
    latent_discriminator_optimizer: Any = None
    unchecked: list[Step] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=lambda: {"step": 0, "images_seen": 0, "elapsed_sec": 0.0})

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks by name, unwrapped, and what else lives on the device, for checkpoints."""
        networks: dict[str, nn.Module] = {"vae": self.vae.module, "ema": self.ema, "usual_norm": self.usual_norm}
        if self.discriminator:
            networks["discriminator"] = self.discriminator.module
        if self.memory:
            networks["memory"] = self.memory
        if self.latent_discriminator:
            networks["latent_discriminator"] = self.latent_discriminator.module
        return networks

    @property
    def beside(self) -> nn.Module | None:
        """What the objective is built with, beside the config."""
        judge = self.latent_discriminator
        return self.vae.module.codebook or (judge.module if judge else self.memory)

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """The optimisers by name, for checkpoints and schedules."""
        optimizers = {
            "vae": self.vae_optimizer,
            "discriminator": self.discriminator_optimizer,
            "latent_discriminator": self.latent_discriminator_optimizer,
        }
        return {name: optimizer for name, optimizer in optimizers.items() if optimizer is not None}


def fabric_of(config: Config) -> Fabric:
    """The devices, ranks and precision that a config asks for; see `make_fabric`."""
    return make_fabric(config.device, config.devices, config.precision, config.batch)


def build_state(fabric: Fabric, config: Config) -> TrainState:
    """Networks and optimisers from the seed.

    The VAE is built first, so its initial weights are the same with and without a discriminator.
    """
    torch.manual_seed(config.seed)
    synchronise = fabric.world_size > 1 and fabric.device.type == "cuda"

    vae = build_vae(config).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(vae).requires_grad_(False).to(fabric.device)
    optimizer = vae_optimizer(vae, config, fabric.device)
    if synchronise:
        synchronise_batch_norm(vae)
    if config.compile != "no":
        vae.encoder.compile(mode=config.compile)
        for part in called_in_training(vae.decoder):
            part.compile(mode=config.compile)
    wrapped, wrapped_optimizer = fabric.setup(vae, optimizer)
    state = TrainState(wrapped, wrapped_optimizer, ema, UsualNorm().to(fabric.device))
    state.scaler = getattr(fabric.strategy.precision, "scaler", None)
    if config.moments_memory:
        state.memory = MomentsMemory(config.moments_memory, config.latent_dim).to(fabric.device)
    if config.gan:
        discriminator = build_discriminator(config).to(memory_format=torch.channels_last)
        optimizer = discriminator_optimizer(discriminator, config, fabric.device)
        if synchronise:
            synchronise_batch_norm(discriminator)
        state.discriminator, state.discriminator_optimizer = fabric.setup(discriminator, optimizer)
    if OBJECTIVES[config.objective].judges_latents:
        of_latents = LatentDiscriminator(config.latent_dim)
        optimizer = discriminator_optimizer(of_latents, config, fabric.device)
        state.latent_discriminator, state.latent_discriminator_optimizer = fabric.setup(of_latents, optimizer)
    return state


@torch.no_grad()
def settle_batch_norm(ema: VAE, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Take the statistics of live BatchNorm anew, as means over batches of pictures and noise, as `forward` takes them.

    Without live BatchNorm nothing happens. As `torch.optim.swa_utils.update_bn`, for weights that were averaged over
    steps (Izmailov et al., 2018).
    """
    layers = [layer for layer in ema.modules() if type(layer) is nn.BatchNorm2d]
    if not layers:
        return
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # all batches count alike
        layer.train()
    for x, eps in batches:
        ema(x, eps)
    for layer in layers:
        layer.momentum = BATCHNORM_MOMENTUM
        layer.eval()
