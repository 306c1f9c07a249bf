"""New pictures from a finished run: from N(0, I), or from a density fitted to the latents of its train pictures."""

from __future__ import annotations

from pathlib import Path

import torch

from vaekit.config.settings import Config
from vaekit.config.variants import PRIORS
from vaekit.data.loader import HeldOut
from vaekit.measures.quick import BATCH
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE, WEIGHTS_FILE, encode_batches
from vaekit.priors.base import Prior, StandardNormal, fit_prior, fitted_by, load_prior
from vaekit.reports.figures import decoded, square
from vaekit.reports.mosaic import save_png
from vaekit.runs.folder import FIGURES_FOLDER, config_of, trained_on
from vaekit.system.devices import available


def sample_run(
    run: str | Path, prior: str = "normal", num_images: int = 64, seed: int = 0, out: str | Path | None = None
) -> Path:
    """Draw `num_images` new pictures from a finished run and return where they are.

    `prior` is "normal", N(0, I), or "gaussian-mixture", fitted to the latents of the train pictures when it is first
    asked for, and kept in the run. Without `out` they go into one PNG in the run's figures; with it, one by one into
    that folder. Raises `ValueError` for an unknown prior, a folder without a model, train pictures that are gone.
    """
    if prior not in PRIORS:
        raise ValueError(f"unknown prior {prior!r}; choose one of {', '.join(PRIORS)}")
    if num_images < 1:
        raise ValueError(f"{num_images} samples; ask for one or more")
    run = Path(run)
    vae = VAE.from_pretrained(run, available("auto"))
    z = prior_of(run, vae, prior).sample(num_images, torch.Generator().manual_seed(seed))
    if out is None:
        return save_png(square(vae, z), run / FIGURES_FOLDER / f"samples-{prior}.png")
    for i, picture in enumerate(decoded(vae, z)):
        save_png(picture, Path(out) / f"{i:06d}.png")
    return Path(out)


def prior_of(run: Path, vae: VAE, name: str) -> Prior:
    """The prior `name` of a run; one that has to be fitted, and is not yet, is fitted now."""
    if PRIORS[name].fitted is None:
        return StandardNormal(vae.latent_dim)
    return run_prior(run, config_of(run, vae), vae, name)


def run_prior(run: Path, config: Config, vae: VAE, name: str, posterior: Posterior | None = None) -> Prior:
    """The prior `name` fitted to the train latents of a run: kept in it from before, or fitted now (and then kept).

    `posterior` is that of the train pictures, if it is known already. Fitted to one sampled z of each picture, that is
    to the aggregate posterior (eq. 15). Raises `ValueError` if the train pictures are gone.
    """
    path = run / fitted_by(name).file
    if path.is_file() and path.stat().st_mtime >= (run / WEIGHTS_FILE).stat().st_mtime:
        return load_prior(name, path)
    if posterior is None:
        prepared, indices = trained_on(run, config)
        posterior = encode_batches(vae, HeldOut(prepared.images, indices).batches(BATCH))
    z = posterior.sample(generator=torch.Generator().manual_seed(config.seed))
    prior = fit_prior(name, z, config.seed)
    prior.save(path)
    return prior
