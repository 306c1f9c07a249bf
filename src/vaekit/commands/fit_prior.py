"""Fit a density to the latents of a run's train pictures, to draw new pictures from."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit.commands.evaluate import in_precision_of
from vaekit.config.settings import Config
from vaekit.data.cache import Prepared
from vaekit.data.loader import Batches, evenly
from vaekit.measures.copying import FEWEST, Copying, copying, small, small_of
from vaekit.models.base import Density
from vaekit.models.batches import ENCODED_AT_ONCE, decode_batches, encode_batches
from vaekit.models.kept import remove_stale, weights_sha256
from vaekit.models.vae import VAE
from vaekit.priors.base import Latents, fit_prior, fitted_by
from vaekit.priors.fitting import Fit, Length
from vaekit.runs.checkpoint import latest, load_checkpoint, save_checkpoint
from vaekit.runs.folder import config_of, held_out_of, trained_on
from vaekit.runs.lock import claimed
from vaekit.runs.log import PLAIN_LINE_EVERY_SEC, duration, last_counters
from vaekit.runs.prior import MOST_NUMBERS, Say, keep, latents_of, length_of_fit, pictures_of_fits
from vaekit.system.devices import available, float32_products
from vaekit.system.files import bytes_of, in_one_line
from vaekit.system.ranks import check_one_process, rank_and_world

RECIPE = 4  # of the fit of a network: raise it when an interrupted one of before cannot go on
UNFINISHED = "prior-unfinished"  # in the folder of a run: what a fit that was interrupted goes on from
KEPT_EVERY_SEC = 60.0
LEAST_MINUTES = 0.5  # of a fit at the end of a training, where a fifth of its time is less
SAMPLES_CHECKED = 500  # pictures, for copies


@dataclass(frozen=True)
class Subject:
    """A model in the folder of its run, and the pictures that it was trained on and measured with."""

    run: Path
    vae: VAE
    config: Config
    prepared: Prepared
    train: np.ndarray
    test: np.ndarray


def fit_prior_run(
    run: str | Path, kind: str | None = None, minutes: float | None = None, say: Say = lambda line: None
) -> Path:
    """Fit a prior, by default of the kind that a finished run ended with, to its train pictures; returns its file.

    A flow, or a transformer of codes, is fitted for so many `minutes`, by default for about a tenth of the time that
    the training took, encoding aside; the others need no length. It takes the place of one that the run has. After a
    kill, the same command goes on. Raises `ValueError` for an unknown kind, a folder without a model, and train
    pictures that are gone or have changed.
    """
    check_one_process("fit-prior")
    if kind is not None:
        fitted_by(kind)  # which there has to be
    if minutes is not None and not minutes > 0:
        raise ValueError(f"{minutes:g} minutes; a fit takes more than 0")
    run = Path(run)
    vae = VAE.from_pretrained(run, available("auto"))
    config = config_of(run, vae)
    kind = kind or config.fitted_prior
    if minutes is not None and not fitted_by(kind).takes_minutes:
        raise ValueError(f"{fitted_by(kind).what} is fitted without a length; leave out --minutes")
    prepared, test = held_out_of(run, config)
    _, train = trained_on(run, config, prepared)
    subject = Subject(run, vae, config, prepared, train, test)
    most, draws = length_of_fit(max(last_counters(run).get("images_seen", 0.0), len(train)))
    length = Length(draws)
    if minutes is not None:
        most, length = MOST_NUMBERS, Length(minutes=minutes)  # of all pictures, or as many as there is memory for
    with claimed(run, first=True), float32_products():
        fit_and_keep(subject, kind, most, length, say)
    return run / fitted_by(kind).file


def fit_after_training(subject: Subject, images_seen: float, elapsed_sec: float, say: Say) -> None:
    """What `fit_prior_run` does, at the end of a training, and of the kind that its config names; all ranks call it.

    The fit takes a fifth of the time of the training at most, or half a minute. If it fails, the run has no prior but
    N(0, I) or the Gaussian, and `say` hears why: the model is there all the same.
    """
    most, draws = length_of_fit(images_seen)
    length = Length(draws, max(LEAST_MINUTES, elapsed_sec / 60 / 5))
    try:
        fit_and_keep(subject, subject.config.fitted_prior, most, length, say)
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and rank_and_world()[1] > 1:
            raise  # as of a full GPU: the other ranks would wait for this one
        say(f"WARNING: no prior for new pictures: {in_one_line(error)}; vaekit fit-prior {subject.run} tries again")


def fit_and_keep(subject: Subject, kind: str, most: int, length: Length, say: Say) -> None:
    """Fit the Gaussian and the prior `kind` to `most` latents of the train pictures; the model and its folder get them.

    Every rank calls it, and the first one writes. Raises `OSError` there if the disk refuses them, at the end, where no
    other rank waits any more.
    """
    vae, config = subject.vae, subject.config
    first = rank_and_world()[0] == 0
    refused: OSError | None = None
    if first:
        remove_stale(subject.run, vae.state_dict())
    with in_precision_of(config, vae.device.type):
        latents = latents_of(vae, config, subject.prepared, subject.train, most, say)
    for name in dict.fromkeys(("gaussian", kind)):
        started_at = time.monotonic()
        try:
            prior = fitted(subject, name, latents, length, say)
        except ValueError as error:
            if name == kind:
                raise
            say(f"no {name}: {error}")
            continue
        copies = False
        if fitted_by(name).takes_minutes:
            took = duration(time.monotonic() - started_at)
            row = fitted_by(name)
            say(f"{row.what} fitted in {took}: held-out loss {prior.held_out_loss:.4f}, where {row.start} is 1")
            if prior.held_out_loss >= 1:
                longer = f"vaekit fit-prior {subject.run} --kind {name} --minutes 5"
                labels = ", also by label" if latents.labels is not None else ""
                say(f"it has learned nothing more{labels} in this time; longer: {longer}")
            copies = repeats(subject, name, prior, len(latents.mean), say)
        vae.set_prior(name, prior, copies, len(latents.mean))
        try:
            if first:
                keep(name, subject.run, vae)
        except OSError as error:
            refused = error
    if refused is not None:
        raise refused


def repeats(subject: Subject, name: str, prior: Density, pictures: int, say: Say) -> bool:
    """Whether draws of a prior repeat training pictures, so that it is not the one that new pictures come from."""
    found = check_copies(subject, prior, pictures)
    if found is None:
        say(f"too few pictures to tell whether draws of the {name} repeat training pictures: look at some")
    elif found.copies:
        say(f"WARNING: {found.sentence}; the {name} is not used for new pictures unless it is named")
    return found is not None and found.copies


def fitted(subject: Subject, name: str, latents: Latents, length: Length, say: Say) -> Any:
    """The prior `name` of the latents; a flow goes on from what an interrupted fit has left, and leaves some."""
    if not fitted_by(name).takes_minutes:
        return fit_prior(name, latents, subject.config.seed)
    row = fitted_by(name)
    alone = rank_and_world() == (0, 1)  # ranks of other machines may not see the folder
    place = subject.run / UNFINISHED / identity(subject, name, latents, length) if alone else None
    kept_at = said_at = time.monotonic()

    def begin(fit: Fit) -> None:
        newest = latest(place) if place is not None else None
        if newest is not None:
            load_checkpoint(fit, newest)
            say(f"going on with a fit that was interrupted at step {fit.counters['step']:,.0f}")

    def watch(fit: Fit, done: float) -> None:
        nonlocal kept_at, said_at
        now = time.monotonic()
        if place is not None and now - kept_at >= KEPT_EVERY_SEC:
            kept_at = now
            try:
                save_checkpoint(fit, place, subject.config)
            except OSError as error:
                say(f"WARNING: {error}; the fit goes on")
        if now - said_at >= PLAIN_LINE_EVERY_SEC:
            said_at = now
            left = fit.counters["elapsed_sec"] * (1 - done) / done
            say(f"{done:4.0%}  fitting {row.what}  {duration(left)} left  {loss_line(fit.counters, row.start)}")

    options: dict[str, Any] = {"device": subject.vae.device, "begin": begin, "watch": watch}
    prior = fit_prior(name, latents, subject.config.seed, length=length, **options)
    if alone:
        shutil.rmtree(subject.run / UNFINISHED, ignore_errors=True)
    return prior


def identity(subject: Subject, name: str, latents: Latents, length: Length) -> str:
    """Sixteen digits of all that a fit depends on: one that was interrupted goes on where nothing else has changed."""
    labels = None if latents.labels is None else latents.labels.tolist()
    about = (
        RECIPE,
        name,
        length,
        latents.classes,
        latents.attributes,
        labels,
        latents.mean.shape,
        subject.config.seed,
    )
    weights = weights_sha256(subject.vae.state_dict())
    return hashlib.sha256(bytes_of(f"{weights} {about}")).hexdigest()[:16]


def loss_line(counters: Mapping[str, float], start: str) -> str:
    """The held-out loss of a fit for people."""
    return f"held-out loss {counters['held_out_loss']:.4f}, 1 is {start}" if "held_out_loss" in counters else ""


def check_copies(subject: Subject, prior: Density, pictures: int) -> Copying | None:
    """Whether draws of a prior repeat the `pictures` that it was fitted to, by pixels; None with too few to tell."""
    if min(len(subject.train), len(subject.test)) < FEWEST:
        return None
    vae, images = subject.vae, subject.prepared.images
    test = subject.test[evenly(len(subject.test), SAMPLES_CHECKED)]
    generator = torch.Generator().manual_seed(subject.config.seed)
    with in_precision_of(subject.config, vae.device.type):
        known = encode_batches(vae, Batches(images, test, ENCODED_AT_ONCE)).sample(generator=generator)
        new, usual = (
            torch.cat([small(x_hat.cpu()) for x_hat in decode_batches(vae, z)])
            for z in (prior.sample(len(test), generator), known)
        )
    fitted_to = small_of(images, pictures_of_fits(subject.train, [pictures]))
    return copying(new, usual, fitted_to)
