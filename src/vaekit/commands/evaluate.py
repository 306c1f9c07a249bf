"""Measure a finished run: reconstruction, generation, latents, usefulness, with the protocol of all of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit.commands.protocol import measured_before, priors_sha256, protocol_of
from vaekit.config.measuring import Features, Measuring
from vaekit.config.priors import PRIORS
from vaekit.config.settings import Config
from vaekit.data.cache import Prepared
from vaekit.data.labels import Labels, find_labels
from vaekit.data.loader import HeldOut, evenly
from vaekit.data.view import USUAL_CHANNELS
from vaekit.measures.by_label import measure_by_label
from vaekit.measures.codes import as_decoded, codes_in_use
from vaekit.measures.diagnostics import diagnose
from vaekit.measures.extractor import Extractor
from vaekit.measures.features import load_extractor
from vaekit.measures.full import (
    KnownSets,
    Say,
    Subject,
    TrainPart,
    disentangled,
    few_images,
    measure_generations,
    measure_reconstructions,
    usefulness_of,
)
from vaekit.measures.quick import BATCH, MOST_MEASURED
from vaekit.models.base import Density
from vaekit.models.batches import encode_batches
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE
from vaekit.reports.charts import power_spectra
from vaekit.reports.evaluation import Evaluation
from vaekit.reports.figures import decoded
from vaekit.reports.mosaic import Pixels, labelled, save_png, to_rgb
from vaekit.runs.folder import FIGURES_FOLDER, config_of, held_out_of, mark_as_output, short_hash, title_of, trained_on
from vaekit.runs.prior import compared_with, fitted_pictures, prior_of
from vaekit.system.devices import available, float32_products, precision_here
from vaekit.system.files import write_text
from vaekit.system.ranks import check_one_process

COLUMNS = 8  # of samples_nearest.png


def evaluate_run(
    run: str | Path,
    images: str | Path | None = None,
    *,
    features: Features = "efficientnet-lite0",
    weights: Path | None = None,
    labels: Path | None = None,
    label_column: str | None = None,
    normal: Iterable[str] = (),
    limit: int | None = None,
    seed: int = 0,
    reuse: bool = False,
    out: str | Path | None = None,
    say: Say = lambda line: None,
) -> Evaluation:
    """Measure a finished run on its own test pictures, or on all pictures of the folder `images`.

    `features` names the feature space of the distances ("efficientnet-lite0", "inception", "dinov2" or "none") and
    `weights` the file of its weights where it needs one; `labels` is a table of file,label (class folders are found
    without) and `label_column` the name of its column; `normal` names the classes that are no anomaly; `limit` takes
    that many pictures, at even distances, by default at most 10,000; with `reuse`, numbers of the same protocol that
    are already there are returned; `say` hears the progress.

    Returns an `Evaluation`, and writes it to evaluation.json in the folder `out`, by default the run
    (`evaluation-<folder>.json` for other pictures, of which those that it trained on are left out), its tables beside
    it in Markdown and the power spectra to figures/. Where they cannot be written, `say` hears why.

    Raises `ValueError` for a folder without a model, pictures that are gone, fewer than two of them, labels that miss
    files, a normal class that none of them has, an unknown feature space or one without its weights.
    """
    check_one_process("evaluate")
    measuring = Measuring(features, weights, labels, label_column, tuple(normal), limit)
    kept_in = None if out is None else Path(out)
    return measure_run(Path(run), images, measuring, {}, seed=seed, reuse=reuse, out=kept_in, say=say)


def measure_run(
    run: Path,
    images: str | Path | None,
    measuring: Measuring,
    known: KnownSets,
    *,
    seed: int = 0,
    reuse: bool = False,
    out: Path | None = None,
    say: Say,
) -> Evaluation:
    """What `evaluate_run` does; `known` keeps sets of real pictures from one run of a comparison to the next."""
    started_at = time.monotonic()
    vae = VAE.from_pretrained(run, available("auto"))
    config = config_of(run, vae)
    prepared, chosen = pictures_of(run, config, images, measuring.limit, say)
    labels, unlabelled = labels_for(prepared, measuring)
    check_normal(labels, measuring.normal)
    extractor, no_features = extractor_for(config, measuring)
    subject = Subject(vae, prepared, HeldOut(prepared.images, chosen), extractor, seed, say, known)
    subject.warnings += few_images(len(chosen)) if extractor else []
    subject.missing |= unlabelled | no_features
    say(f"{len(chosen):,} pictures, {seen_as(config)}")

    if out is not None:
        mark_as_output(out / FIGURES_FOLDER)  # which fails now where it cannot be written, and not after all measures
    out = out or run
    name = "evaluation" if images is None else name_of_other(out, prepared)
    protocol = protocol_of(run, config, subject, labels, measuring.normal)
    before = measured_before(out / f"{name}.json", protocol) if reuse else None
    if before is not None:
        return before

    with torch.no_grad(), float32_products(), in_precision_of(config):
        reconstruction, posterior, errors = measure_reconstructions(subject)
        posterior = Posterior(as_decoded(vae.codebook, posterior.mean), posterior.logvar)
        train = train_part(run, config, subject)
        generation = measure_generations(subject, priors_of(run, config, subject, train), train)
        closest = None if train is None else nearest_of(subject, train)
        by_label = measure_by_label(subject, train, posterior, labels)
    say("diagnosing the latents")
    latents = diagnosed(vae, posterior, seed, config.objective)
    result = Evaluation(
        protocol=protocol | {"priors": priors_sha256(run)},  # with those fitted just now
        reconstruction=reconstruction,
        generation=generation,
        latents=latents,
        usefulness=usefulness_of(subject, train, posterior, errors, labels, measuring.normal),
        disentanglement=disentangled(subject, posterior),
        spectra={kind: pictures.spectrum.tolist() for kind, pictures in subject.sets.items()},
        warnings=[*subject.warnings, *latents["verdict"]["warnings"]],
        not_measured=subject.missing | latents.pop("not_measured"),
        measuring_sec=round(time.monotonic() - started_at, 1),
        by_label=by_label,
    )
    try:
        say(f"the numbers are in {write_evaluation(result, closest, out, name)}")
    except OSError as error:
        say(f"WARNING: the numbers are not kept: {error}; name another folder with --out")
    return result


def diagnosed(vae: VAE, posterior: Posterior, seed: int, objective: str) -> dict[str, Any]:
    """What `diagnose` finds, and how codes are used where the model has some."""
    found = diagnose(posterior, seed, objective)
    return found if vae.codebook is None else found | {"codes": codes_in_use(vae.codebook, posterior.mean)}


def labels_for(prepared: Prepared, measuring: Measuring) -> tuple[Labels | None, dict[str, str]]:
    """The labels of the pictures, or why there are none. A table that nobody named stops nothing."""
    try:
        return find_labels(prepared.folder, prepared.names, measuring.labels, measuring.label_column), {}
    except ValueError as error:
        if measuring.labels is not None or measuring.label_column is not None or measuring.normal:
            raise
        return None, {"usefulness": str(error)}


def check_normal(labels: Labels | None, normal: tuple[str, ...]) -> None:
    """Raise `ValueError` for a normal class that no picture has: a slip of the pen would cost a whole evaluation."""
    if normal and labels is None:
        raise ValueError("normal classes need labels: sort pictures into class folders, or give a CSV (--labels)")
    known = () if labels is None else labels.decided().classes
    unknown = sorted(set(normal) - set(known))
    if unknown:
        raise ValueError(f"no class {', '.join(unknown)} among the labels; there are {', '.join(known[:20])}")
    if normal and not set(known) - set(normal):
        raise ValueError("all classes are normal; leave out those that are anomalies")


def name_of_other(out: Path, prepared: Prepared) -> str:
    """The name of the evaluation on other pictures: that of their place, and more where another place has it too."""
    name = f"evaluation-{title_of(prepared)}"
    path = out / f"{name}.json"
    known = path.is_file() and json.loads(path.read_text(encoding="utf-8"))["protocol"]["pictures"]["folder"]
    return f"{name}-{short_hash(prepared.place)}" if known and known != prepared.place else name


def pictures_of(
    run: Path, config: Config, images: str | Path | None, limit: int | None, say: Say
) -> tuple[Prepared, np.ndarray]:
    """The pictures to measure a run with, and the places of those. Raises `ValueError` for fewer than two."""
    prepared, test = held_out_of(run, config, images, say)
    chosen = test[evenly(len(test), MOST_MEASURED if limit is None else limit)]
    if limit is None and len(chosen) < len(test):
        say(f"{len(chosen):,} of {len(test):,} test pictures, at even distances; --limit takes more")
    if len(chosen) < 2:
        raise ValueError(
            f"too few pictures to measure {run} with, {len(chosen)}: two or more are needed; name a folder with more"
            + (", or raise --limit" if limit is not None else "")
        )
    return prepared, chosen


def train_part(run: Path, config: Config, subject: Subject) -> TrainPart | None:
    """What the run trained on, encoded; None, with the reason in `missing`, if those pictures are gone."""
    try:
        prepared, indices = trained_on(run, config, subject.prepared)
    except ValueError as error:
        absent = [
            name for name, row in PRIORS.items() if name not in subject.vae.priors and not (row.trained or row.of_codes)
        ]
        subject.missing[", ".join([*absent, "posteriors", "train"])] = str(error)
        return None
    encoded = fitted_pictures(subject.vae.latent_dim, indices)
    of = f" of {len(indices):,}" if len(encoded) < len(indices) else ""
    subject.say(f"encoding {len(encoded):,}{of} train pictures")
    batches = HeldOut(prepared.images, encoded).batches(BATCH)
    compared = compared_with(subject.vae, indices)
    return TrainPart(prepared, indices, encoded, encode_batches(subject.vae, batches), compared)


def priors_of(run: Path, config: Config, subject: Subject, train: TrainPart | None) -> dict[str, Density]:
    """Every prior of the run by name: those that it has, and those that are fitted in seconds to the train latents."""
    priors: dict[str, Density] = {}
    at_hand = None if train is None else train.prepared
    for name, row in PRIORS.items():
        if name not in subject.vae.priors:
            of_others = row.takes_minutes and row.of_codes != (subject.vae.codebook is not None)
            if train is None or row.fitted is None or of_others:
                continue
            if row.takes_minutes:
                subject.missing[name] = "it takes minutes to fit, and was not: vaekit fit-prior RUN"
                continue
            subject.say(f"fitting {row.fitted.what} to the latents of the train pictures")
        try:
            priors[name] = prior_of(run, subject.vae, name, subject.say, at_hand)
        except ValueError as error:
            subject.missing[name] = str(error)
    return priors


def nearest_of(subject: Subject, train: TrainPart) -> Pixels | None:
    """Samples of the model's prior, those nearest to one train picture, above it; None with too few of those."""
    name = subject.vae.prior_name
    if name not in subject.closest:
        return None
    places, ratios = subject.closest[name]
    chosen = ratios.argsort()[:COLUMNS]
    below = HeldOut(train.prepared.images, train.compared[places[chosen].numpy()]).some(COLUMNS)
    tiles = np.concatenate([decoded(subject.vae, subject.latents[name][chosen]), to_rgb(below)])
    return labelled(tiles, rows=("sample", "nearest train picture"))


@contextmanager
def in_precision_of(config: Config, device: str | None = None) -> Iterator[None]:
    """The network in the precision of the run, as in training; measures are in float32 and float64 all the same."""
    device = device or available("auto")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision_here(config.precision, device))
    with torch.autocast(device, dtype, enabled=dtype is not None):
        yield


def extractor_for(config: Config, measuring: Measuring) -> tuple[Extractor | None, dict[str, str]]:
    """The features that distances are taken in, if any are asked for; or why they cannot be."""
    if measuring.features == "none":
        return None, {}
    if config.channels not in USUAL_CHANNELS:
        return None, {"features": f"these networks take grey and colour; the pictures have {config.channels} bands"}
    return load_extractor(measuring.features, measuring.weights, available("auto")), {}


def seen_as(config: Config) -> str:
    """What becomes of pictures of another size or with other channels."""
    height, width = config.image_size
    kind = {1: "grey", 3: "colour"}.get(config.channels, f"{config.channels} bands")
    done = {"crop": "cropped and resized", "pad": "resized with bars", "stretch": "stretched"}[config.fit]
    return f"{done} to {height}x{width} in {kind}: what this model takes"


def write_evaluation(result: Evaluation, closest: Pixels | None, out: Path, name: str) -> Path:
    """The result as JSON, whose path is returned, its tables as Markdown; power spectra and `closest` as figures."""
    mark_as_output(out / FIGURES_FOLDER)
    path = out / f"{name}.json"
    write_text(result.to_json() + "\n", path)
    write_text(result.markdown() + "\n", path.with_suffix(".md"))
    figure = f"power_spectra{name.removeprefix('evaluation')}.png"
    save_png(power_spectra(result.spectra), out / FIGURES_FOLDER / figure)
    if closest is not None:
        save_png(closest, out / FIGURES_FOLDER / figure.replace("power_spectra", "samples_nearest"))
    return path
