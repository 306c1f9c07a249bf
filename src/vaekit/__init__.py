"""Train image VAEs that are sharp and do not collapse.

The public surface, each name imported when it is first used, so that `import vaekit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaekit.assessment import evaluate_run
    from vaekit.benchmark import bench
    from vaekit.comparison import compare
    from vaekit.config import Config, preset
    from vaekit.diagnostics import diagnose
    from vaekit.evaluation import evaluate
    from vaekit.objectives import GlobalELBO, Losses, StandardELBO, discriminator_loss, vae_loss
    from vaekit.patchgan import PatchDiscriminator
    from vaekit.posterior import MomentsMemory, Posterior, batch_moments, kl_gaussians, kl_global, product_of_gaussians
    from vaekit.runs import draw_run
    from vaekit.sampling import sample_run
    from vaekit.training import train
    from vaekit.vae import VAE, build_discriminator, build_vae

__version__ = "0.1.0"

HOMES = {
    "Config": "config",
    "GlobalELBO": "objectives",
    "Losses": "objectives",
    "MomentsMemory": "posterior",
    "PatchDiscriminator": "patchgan",
    "Posterior": "posterior",
    "StandardELBO": "objectives",
    "VAE": "vae",
    "batch_moments": "posterior",
    "bench": "benchmark",
    "build_discriminator": "vae",
    "build_vae": "vae",
    "compare": "comparison",
    "diagnose": "diagnostics",
    "discriminator_loss": "objectives",
    "draw_run": "runs",
    "evaluate": "evaluation",
    "evaluate_run": "assessment",
    "kl_gaussians": "posterior",
    "kl_global": "posterior",
    "preset": "config",
    "product_of_gaussians": "posterior",
    "sample_run": "sampling",
    "train": "training",
    "vae_loss": "objectives",
}

__all__ = [
    "VAE",
    "Config",
    "GlobalELBO",
    "Losses",
    "MomentsMemory",
    "PatchDiscriminator",
    "Posterior",
    "StandardELBO",
    "batch_moments",
    "bench",
    "build_discriminator",
    "build_vae",
    "compare",
    "diagnose",
    "discriminator_loss",
    "draw_run",
    "evaluate",
    "evaluate_run",
    "kl_gaussians",
    "kl_global",
    "preset",
    "product_of_gaussians",
    "sample_run",
    "train",
    "vae_loss",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'vaekit' has no attribute {name!r}")
    return getattr(import_module(f"vaekit.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
