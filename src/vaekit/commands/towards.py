"""A picture moved towards a label, by the difference of the means of the latents of those that have it and have not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaekit.commands.evaluate import in_precision_of
from vaekit.commands.using import load, means_of, read_picture
from vaekit.models.vae import VAE
from vaekit.priors.base import Latents
from vaekit.reports.figures import decoded
from vaekit.reports.mosaic import labelled, save_png
from vaekit.runs.folder import config_of, trained_on
from vaekit.runs.prior import Say, labels_of, latents_of
from vaekit.system.devices import float32_products
from vaekit.system.ranks import check_one_process

STEPS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)  # in differences of the means
ENCODED = 8_000  # latents of train pictures that the means are taken of
FEWEST_SHOWN = 20  # where others see the direction: that of a few pictures gives them away
MOST_LABELS = 60  # that a page has sliders for
FEWEST = 2  # pictures on either side


def towards_run(
    run: str | Path, picture: str | Path, label: str, out: str | Path, say: Say = lambda line: None
) -> Path:
    """Draw a picture moved away from a label and towards it, a row of a PNG: attribute vectors (Larsen et al., 2016).

    `label` is a class or an attribute of the run's own pictures, "smiling", or one that is to go, "smiling=0". A step
    of 1 is the difference of the means of the latents of train pictures with it and without. Raises `ValueError` for a
    folder without a model, pictures that are gone or without labels, an unknown label, and what is no picture.
    """
    check_one_process("vary")
    if Path(out).suffix.lower() != ".png":
        raise ValueError(f"{out}: variants are written as .png")
    run = Path(run)
    vae = load(run)
    config = config_of(run, vae)
    x = read_picture(picture, vae)
    prepared, indices = trained_on(run, config)
    with in_precision_of(config, vae.device.type):
        latents = latents_of(vae, config, prepared, indices, ENCODED, say)
    step = direction(latents, label)
    with float32_products():
        z = means_of(vae, x) + torch.tensor(STEPS)[:, None] * step
        tiles = decoded(vae, z)
    columns = [f"{step:+g}" if step else "0" for step in STEPS]
    length = f"{step.norm():.1f} in the latents"
    say(f"a step of 1 is the mean of pictures with {label!r} less that of those without: {length}")
    return save_png(labelled(tiles, rows=("",), columns=columns, top=label), out)


def directions_of(run: Path, vae: VAE, say: Say) -> dict[str, Tensor]:
    """The `direction` (d,) of each label of a run's own pictures that 20 or more have, and 20 or more have not.

    Empty without labels. Raises `ValueError` if the pictures are gone.
    """
    config = config_of(run, vae)
    prepared, indices = trained_on(run, config)
    if not labels_of(prepared, indices, lambda line: None):
        return {}
    with in_precision_of(config, vae.device.type):
        latents = latents_of(vae, config, prepared, indices, ENCODED, say)
    names = latents.attributes or latents.classes
    sides = {name: having(latents, place) for place, name in enumerate(names[:MOST_LABELS])}
    return {name: apart(latents, has) for name, has in sides.items() if fewer(latents, has) >= FEWEST_SHOWN}


def direction(latents: Latents, label: str) -> Tensor:
    """The difference (d,) of the mean latents of pictures with a label and of those without.

    Raises `ValueError` for a label that is not known, and for one that nearly all pictures have, or nearly none.
    """
    name, _, wanted = label.partition("=")
    names = latents.attributes or latents.classes
    if latents.labels is None or not names:
        raise ValueError(f"no label {name!r}: the pictures of this run have none (class folders, or a labels.csv)")
    if name not in names or wanted not in ("", "0", "1"):
        raise ValueError(f"no label {label!r}; the pictures have {', '.join(names[:20])}")
    place = names.index(name)
    has = having(latents, place)
    if fewer(latents, has) < FEWEST:
        raise ValueError(f"{has.sum():,} of {len(has):,} pictures have the label {name!r}; both kinds are needed")
    return -apart(latents, has) if wanted == "0" else apart(latents, has)


def having(latents: Latents, place: int) -> np.ndarray:
    """Which pictures (N,) have the label at a place of the names."""
    assert latents.labels is not None
    return (latents.labels[:, place] == 1 if latents.attributes else latents.labels == place).numpy()


def fewer(latents: Latents, has: np.ndarray) -> int:
    """How many pictures have it or have it not, whichever are fewer."""
    return int(min(has.sum(), (~has).sum()))


def apart(latents: Latents, has: np.ndarray) -> Tensor:
    """The mean (d,) of the latents of those that have it, less that of those that have not."""
    with_it, without = (latents.mean[np.flatnonzero(side)].mean(0) for side in (has, ~has))
    return with_it - without
