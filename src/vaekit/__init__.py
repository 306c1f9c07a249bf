"""Train image VAEs that are sharp and do not collapse.

The public names. Each is imported when it is first used, so that `import vaekit` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vaekit.system.processors import spin_briefly

if TYPE_CHECKING:
    from vaekit.commands.anomalies import anomalies_run
    from vaekit.commands.bench import bench
    from vaekit.commands.compare import compare
    from vaekit.commands.draw import draw_run
    from vaekit.commands.encode import decode_run, encode_run, reconstruct_run
    from vaekit.commands.evaluate import evaluate_run
    from vaekit.commands.explore import explore_run
    from vaekit.commands.export import export_run
    from vaekit.commands.fit_prior import fit_prior_run
    from vaekit.commands.interpolate import interpolate_run, vary_run
    from vaekit.commands.latents import LatentTable
    from vaekit.commands.nearest import nearest_run
    from vaekit.commands.sample import sample_run
    from vaekit.commands.shapes import make_shapes
    from vaekit.commands.towards import towards_run
    from vaekit.commands.train import train
    from vaekit.commands.using import read_picture
    from vaekit.config.presets import preset
    from vaekit.config.settings import Config
    from vaekit.data.reading import save_picture
    from vaekit.export.latent_diffusion import DiffusersVAE
    from vaekit.measures.diagnostics import diagnose
    from vaekit.measures.quick import evaluate
    from vaekit.models.build import build_discriminator
    from vaekit.models.posterior import Posterior, kl_gaussians, product_of_gaussians
    from vaekit.models.vae import VAE, build_vae
    from vaekit.networks.patchgan import PatchDiscriminator
    from vaekit.objectives.elbo import GlobalELBO, StandardELBO
    from vaekit.objectives.losses import Losses, discriminator_loss, vae_loss
    from vaekit.objectives.moments import MomentsMemory, batch_moments, kl_global

__version__ = "0.1.0"

spin_briefly()  # here, since it must come before torch is loaded

HOMES = {
    "Config": "config.settings",
    "DiffusersVAE": "export.latent_diffusion",
    "GlobalELBO": "objectives.elbo",
    "LatentTable": "commands.latents",
    "Losses": "objectives.losses",
    "MomentsMemory": "objectives.moments",
    "PatchDiscriminator": "networks.patchgan",
    "Posterior": "models.posterior",
    "StandardELBO": "objectives.elbo",
    "VAE": "models.vae",
    "anomalies_run": "commands.anomalies",
    "batch_moments": "objectives.moments",
    "bench": "commands.bench",
    "build_discriminator": "models.build",
    "build_vae": "models.vae",
    "compare": "commands.compare",
    "decode_run": "commands.encode",
    "diagnose": "measures.diagnostics",
    "discriminator_loss": "objectives.losses",
    "draw_run": "commands.draw",
    "encode_run": "commands.encode",
    "evaluate": "measures.quick",
    "evaluate_run": "commands.evaluate",
    "explore_run": "commands.explore",
    "export_run": "commands.export",
    "fit_prior_run": "commands.fit_prior",
    "interpolate_run": "commands.interpolate",
    "kl_gaussians": "models.posterior",
    "kl_global": "objectives.moments",
    "nearest_run": "commands.nearest",
    "preset": "config.presets",
    "product_of_gaussians": "models.posterior",
    "read_picture": "commands.using",
    "reconstruct_run": "commands.encode",
    "make_shapes": "commands.shapes",
    "sample_run": "commands.sample",
    "save_picture": "data.reading",
    "towards_run": "commands.towards",
    "train": "commands.train",
    "vae_loss": "objectives.losses",
    "vary_run": "commands.interpolate",
}

__all__ = [
    "VAE",
    "Config",
    "DiffusersVAE",
    "GlobalELBO",
    "LatentTable",
    "Losses",
    "MomentsMemory",
    "PatchDiscriminator",
    "Posterior",
    "StandardELBO",
    "anomalies_run",
    "batch_moments",
    "bench",
    "build_discriminator",
    "build_vae",
    "compare",
    "decode_run",
    "diagnose",
    "discriminator_loss",
    "draw_run",
    "encode_run",
    "evaluate",
    "evaluate_run",
    "explore_run",
    "export_run",
    "fit_prior_run",
    "interpolate_run",
    "kl_gaussians",
    "kl_global",
    "make_shapes",
    "nearest_run",
    "preset",
    "product_of_gaussians",
    "read_picture",
    "reconstruct_run",
    "sample_run",
    "save_picture",
    "towards_run",
    "train",
    "vae_loss",
    "vary_run",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'vaekit' has no attribute {name!r}")
    return getattr(import_module(f"vaekit.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
