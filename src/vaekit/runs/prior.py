"""The priors of a run: N(0, I), and those fitted to the latents of its train pictures and kept in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vaekit.config.variants import PRIORS
from vaekit.data.loader import HeldOut
from vaekit.models.posterior import Posterior
from vaekit.models.vae import ENCODED_AT_ONCE, VAE, WEIGHTS_FILE, encode_batches
from vaekit.priors.base import Prior, StandardNormal, fit_prior, fitted_by, load_prior
from vaekit.runs.folder import config_of, trained_on
from vaekit.system.files import read_metadata, sha256

MODEL = "model_sha256"  # of the weights whose latents a prior was fitted to


def prior_of(
    run: Path,
    vae: VAE,
    name: str,
    posterior: Posterior | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Prior:
    """The prior `name` of a run: kept in it from before, or fitted now to its train latents, and then kept.

    `posterior` is that of the train pictures, if it is known already. Fitted to one sampled z of each picture, that is
    to the aggregate posterior (eq. 15). One that belongs to other weights, or is damaged, is fitted anew; `say` hears
    where it could not be kept. Raises `ValueError` if the train pictures are gone.
    """
    if PRIORS[name].fitted is None:
        return StandardNormal(vae.latent_dim)
    path, model = run / fitted_by(name).file, sha256(run / WEIGHTS_FILE)
    kept = read_metadata(path)
    if kept is not None and kept.get(MODEL) == model:
        return load_prior(name, path)
    config = config_of(run, vae)
    if posterior is None:
        try:
            prepared, indices = trained_on(run, config)
        except ValueError as error:
            if kept is None or MODEL in kept:
                raise
            say(f"WARNING: {path} is of an earlier version and may belong to other weights; {error}")
            return load_prior(name, path)
        posterior = encode_batches(vae, HeldOut(prepared.images, indices).batches(ENCODED_AT_ONCE))
    z = posterior.sample(generator=torch.Generator().manual_seed(config.seed))
    prior = fit_prior(name, z, config.seed)
    try:
        prior.save(path, {MODEL: model})
    except OSError as error:
        say(f"WARNING: the prior is not kept, and will be fitted again: {error}")
    return prior
