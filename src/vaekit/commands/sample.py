"""New pictures from a finished run: from N(0, I), or from a density fitted to the latents of its train pictures."""

from __future__ import annotations

from pathlib import Path

import torch

from vaekit.data.loader import HeldOut
from vaekit.measures.quick import encode
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE, WEIGHTS_FILE
from vaekit.priors.mixture import PRIORS, GaussianMixturePrior, Prior, StandardNormal, fit_gaussian_mixture
from vaekit.reports.figures import decode, square
from vaekit.reports.mosaic import save
from vaekit.runs.folder import FIGURES_FOLDER, trained_on
from vaekit.system.devices import available

PRIOR_FILE = "prior.safetensors"


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
    density = StandardNormal(vae.latent_dim) if prior == "normal" else run_prior(run, vae)
    z = density.sample(num_images, torch.Generator().manual_seed(seed))
    if out is None:
        return save(square(vae, z), run / FIGURES_FOLDER / f"samples-{prior}.png")
    for i, picture in enumerate(decode(vae, z)):
        save(picture, Path(out) / f"{i:06d}.png")
    return Path(out)


def run_prior(run: Path, vae: VAE, posterior: Posterior | None = None) -> Prior:
    """The mixture fitted to the train latents of a run: kept in it from before, or fitted now (and then kept).

    `posterior` is that of the train pictures, if somebody has it. Fitted to one sampled z of each picture, that is to
    the aggregate posterior (eq. 15). Raises `ValueError` if the train pictures are gone.
    """
    path = run / PRIOR_FILE
    if path.is_file() and path.stat().st_mtime >= (run / WEIGHTS_FILE).stat().st_mtime:
        return GaussianMixturePrior.load(path)
    if posterior is None:
        prepared, indices = trained_on(run, vae.config)
        posterior = encode(vae, HeldOut(prepared.images, indices))
    z = posterior.sample(generator=torch.Generator().manual_seed(vae.config.seed))
    prior = fit_gaussian_mixture(z, seed=vae.config.seed)
    prior.save(path)
    return prior
