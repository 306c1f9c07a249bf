"""The fitted priors of a run: to what they are fitted, and where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit.config.priors import LEARNED, PRIORS
from vaekit.config.settings import Config
from vaekit.data.attributes import find_attributes
from vaekit.data.cache import Prepared
from vaekit.data.labels import find_labels
from vaekit.data.loader import Batches, evenly
from vaekit.models.base import Density
from vaekit.models.batches import ENCODED_AT_ONCE, evaluating
from vaekit.models.posterior import Posterior, gathered
from vaekit.models.vae import VAE
from vaekit.priors.base import Latents, fit_prior, fitted_by
from vaekit.runs.folder import config_of, trained_on
from vaekit.system.ranks import object_from_rank_zero, objects_of_ranks, rank_and_world

FEWEST_ENCODED = 2048  # at the end of a training
DRAWS_PER_IMAGE = 3  # of a flow, for each picture seen
MOST_COMPARED = 60_000  # pictures, for copies
MOST_NUMBERS = 30_000_000  # of means: 60,000 latents of 512 entries, 120 MB, and a gigabyte while moments are taken

Say = Callable[[str], object]


def prior_of(run: Path, vae: VAE, name: str, say: Say = lambda line: None, at_hand: Prepared | None = None) -> Density:
    """The prior `name` of a run: one that came with its model, or one fitted now to its train latents, and then kept.

    `say` hears where it could not be kept; `at_hand` are the run's own pictures, if they are known. Raises `ValueError`
    if the train pictures are gone, or for a prior that takes minutes to fit and is not there.
    """
    if name in vae.priors:
        return vae.priors[name]
    if PRIORS[name].trained:
        raise ValueError(f"{run} has no learned prior; these train one: --objective {' or '.join(LEARNED)}")
    if PRIORS[name].of_codes and vae.codebook is None:
        raise ValueError(f"{run} has no prior of codes, since it has no codes: those of objective vq and vq2 have")
    if fitted_by(name).takes_minutes:
        raise ValueError(f"{run} has no {name}; fit one, which takes minutes: vaekit fit-prior {run} --kind {name}")
    config = config_of(run, vae)
    prepared, indices = trained_on(run, config, at_hand)
    latents = latents_of(vae, config, prepared, indices, MOST_NUMBERS, say)
    prior = fit_prior(name, latents, config.seed)
    vae.set_prior(name, prior, pictures=len(latents.mean))
    try:
        keep(name, run, vae)
    except OSError as error:
        say(f"WARNING: the prior is not kept, and will be fitted again: {error}")
    return prior


def keep(name: str, run: Path, vae: VAE) -> None:
    """Write a prior of a model beside its weights in the folder of a run. Raises `OSError` if the disk refuses it."""
    kept: Any = vae.kept[name]
    kept.prior.save(run / fitted_by(name).file, kept.metadata)


def latents_of(
    vae: VAE, config: Config, prepared: Prepared, indices: np.ndarray, most: int, say: Say = lambda line: None
) -> Latents:
    """The latents of the pictures at `indices`, at even distances if those are more than `most`; ranks share the work.

    They are encoded as they are, also where a run mirrors them: new pictures are to look as the pictures do, and those
    of both kinds lie apart, which no Gaussian can say. Their labels are those of class folders or of a labels.csv, if
    there are any, classes or attributes; `say` hears why not.
    """
    chosen = fitted_pictures(vae.latent_dim, indices, most)
    batches = Batches(prepared.images, chosen, ENCODED_AT_ONCE)
    posterior = encoded(vae, batches)
    known = object_from_rank_zero(labels_of(prepared, chosen, say) if rank_and_world()[0] == 0 else {})
    codes = None if vae.codebook is None else vae.codebook.codes.detach().cpu()
    return Latents(posterior.mean, posterior.std, config.positions, codes=codes, **known)


def fitted_pictures(latent_dim: int, indices: np.ndarray, most: int = MOST_NUMBERS) -> np.ndarray:
    """Those at `indices` that priors are fitted to, at even distances: as many as have `most` latents."""
    most = min(most, MOST_NUMBERS // latent_dim)
    return indices[evenly(len(indices), max(2, most))]


def compared_with(vae: VAE, indices: np.ndarray) -> np.ndarray:
    """Of the pictures at `indices` those that a model's priors were fitted to, for copies; see `pictures_of_fits`.

    Priors of before do not say to how many: as many as priors are fitted to at most.
    """
    most = len(fitted_pictures(vae.latent_dim, indices))
    counts = {kept.pictures or most for name, kept in vae.kept.items() if PRIORS[name].fitted is not None} or {most}
    return pictures_of_fits(indices, counts)


def pictures_of_fits(indices: np.ndarray, counts: Iterable[int]) -> np.ndarray:
    """Those of the pictures at `indices` that fits of so many saw, all together; 60,000 of them at most."""
    places = np.unique(np.concatenate([evenly(len(indices), count) for count in counts]))
    return indices[places[evenly(len(places), MOST_COMPARED)]]


def encoded(vae: VAE, batches: Batches) -> Posterior:
    """The posterior of all pictures of the batches: (N, d), on the CPU of every rank."""
    rank, world = rank_and_world()

    def own() -> Iterator[Posterior]:
        with evaluating(vae) as device:
            for i in range(rank, len(batches), world):
                yield gathered([vae.encode_unchecked(batches[i].to(device))])

    parts = objects_of_ranks(list(own()))
    return gathered(parts[i % world][i // world] for i in range(len(batches)))


def labels_of(prepared: Prepared, chosen: np.ndarray, say: Say) -> dict[str, Any]:
    """The labels of the pictures at `chosen`, and the names of their classes or attributes, as `Latents` has them."""
    try:
        attributes = find_attributes(prepared.folder, prepared.names)
        labels = find_labels(prepared.folder, prepared.names) if attributes is None else None
    except (ValueError, OSError) as error:  # a table about other things, about some of the pictures, or that is gone
        say(f"the labels are not used: {error}")
        return {}
    if attributes is not None:
        say(f"{len(attributes.names)} attributes in {attributes.source}: {', '.join(attributes.names)}")
        return {"attributes": attributes.names, "labels": torch.from_numpy(attributes.values[chosen])}
    if labels is None:
        return {}
    labels = labels.decided()
    present, places = np.unique(labels.indices[chosen], return_inverse=True)
    return {"classes": tuple(labels.classes[i] for i in present), "labels": torch.from_numpy(places)}


def length_of_fit(images_seen: float) -> tuple[int, int]:
    """After a training that saw so many images: latents to encode, and draws of a flow; about a seventh of its time.

    Of training on a picture, encoding it costs a sixteenth (54 and 896 a second on two cores), a draw of a flow about a
    fortieth. All are encoded after one epoch.
    """
    return max(FEWEST_ENCODED, int(images_seen)), int(DRAWS_PER_IMAGE * images_seen)
