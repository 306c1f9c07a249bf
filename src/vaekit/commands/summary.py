"""What is about to be trained, in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vaekit.commands.prepare import about_files, about_shift, about_split
from vaekit.config.settings import Config
from vaekit.data.cache import Prepared
from vaekit.models.vae import VAE
from vaekit.system.bf16 import bf16_gain
from vaekit.system.devices import Fabric, resolve_precision
from vaekit.system.processors import SPINNING, spins


def summary(
    fabric: Fabric, config: Config, vae: VAE, prepared: Prepared, train: np.ndarray, test: np.ndarray, run: Path
) -> str:
    """What is about to happen, in three lines, and more where the caller should know something."""
    height, width = config.image_size
    parameters = sum(p.numel() for p in vae.parameters()) / 1e6
    length = f"{config.minutes:g} min" if config.minutes is not None else f"{config.images:,} images"
    skipped = f", {len(prepared.skipped)} unreadable (see pictures.json)" if prepared.skipped else ""
    own_share = fabric.world_size > 1 and fabric.device.type != "cuda" and has_batch_norm(config)
    notes = []
    if fabric.is_global_zero:  # it takes a second to look at labels and pixels
        notes = about_files(prepared) + about_split(prepared, train, test)
        notes += about_shift(prepared.images, train, test) if config.split_by == "name" else []
    notes += ["BatchNorm: each process normalises its own share of the batch"] if own_share else []
    if fabric.device.type == "cpu" and torch.get_num_threads() > 1 and spins():
        notes.append(SPINNING)
    note = "".join(f"\n{line}" for line in notes)
    return (
        f"{len(prepared):,} pictures at {height}x{width}: {len(train):,} to train, "
        f"{len(test):,} to test{skipped}\n"
        f"preset {config.preset}, objective {config.objective}{' + PatchGAN' if config.gan else ''}: "
        f"{parameters:.1f} M parameters, {config.latent_dim} latent entries, batch {config.batch}, {length}\n"
        f"{fabric.world_size} x {fabric.device.type} in {precision_of(config, fabric.device.type)}; "
        f"the run goes to {run}{note}"
    )


def precision_of(config: Config, device: str) -> str:
    """The precision of a run, and why it was chosen where that was measured."""
    precision = resolve_precision(config.device, config.precision)
    if config.precision != "auto" or device != "cpu":
        return precision
    times = {"bf16": ("fp32", bf16_gain()), "fp32": ("bf16", 1 / bf16_gain())}
    other, longer = times[precision]
    return f"{precision} ({other} takes {longer:.1f} times as long here)"


def has_batch_norm(config: Config) -> bool:
    """Whether a network has live BatchNorm, which mixes the images of a batch."""
    return "batch" in (config.network.norm, config.discriminator.norm if config.gan else None)
