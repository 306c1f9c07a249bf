"""The priors of a run: N(0, I), and those fitted to the latents of its train pictures and kept in its folder."""

from __future__ import annotations

from pathlib import Path

import torch

from vaekit.config.settings import Config
from vaekit.config.variants import PRIORS
from vaekit.data.loader import HeldOut
from vaekit.models.posterior import Posterior
from vaekit.models.vae import ENCODED_AT_ONCE, VAE, WEIGHTS_FILE, encode_batches
from vaekit.priors.base import Prior, StandardNormal, fit_prior, fitted_by, load_prior
from vaekit.runs.folder import config_of, trained_on


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
        posterior = encode_batches(vae, HeldOut(prepared.images, indices).batches(ENCODED_AT_ONCE))
    z = posterior.sample(generator=torch.Generator().manual_seed(config.seed))
    prior = fit_prior(name, z, config.seed)
    prior.save(path)
    return prior
