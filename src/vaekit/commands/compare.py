"""Several objectives on the same network, pictures, seed and budget: train, measure, put side by side in a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from vaekit.commands.evaluate import Say, evaluate_run
from vaekit.commands.sample import run_prior
from vaekit.config.settings import Config
from vaekit.config.variants import MODELS, folder_name, model_config
from vaekit.data.cache import prepare
from vaekit.data.labels import find_labels
from vaekit.data.loader import HeldOut, evenly
from vaekit.data.sources.folder import resolve_source
from vaekit.measures.features import load_extractor
from vaekit.models.vae import VAE
from vaekit.priors.mixture import Prior, StandardNormal
from vaekit.reports import charts, figures
from vaekit.reports.comparison import Entries, Entry, write_report
from vaekit.reports.mosaic import save
from vaekit.runs import checkpoint
from vaekit.runs.folder import (
    FIGURE_IMAGES,
    FIGURES_FOLDER,
    PICTURES_FILE,
    check_same_pictures,
    default_run,
    finished,
    held_out_of,
)
from vaekit.runs.log import read_records
from vaekit.system.devices import available
from vaekit.training.loop import train

COLUMNS = 8
CAPTIONS = {
    "reconstructions": "Test pictures, reconstructed from sampled z",
    "transitions": "Transitions between test pictures (fig. 5)",
    "samples-normal": "Samples, z ~ N(0, I)",
    "samples-gaussian-mixture": "Samples, z ~ a mixture of Gaussians fitted to the latents of train pictures",
    "joint_histograms": "Two entries of the latents of test pictures (fig. 6)",
    "power_spectra": "Power spectra of the reconstructions",
    "curves": "Test measures over the run (of 400 test pictures, at its end of all; solid: with discriminator)",
}
CURVES = {"psnr": "PSNR, dB", "laplacian_ratio": "Laplacian ratio", "kl_standard": "KL (eq. 11), nats"}


def compare(
    config: Config,
    images: str | Path,
    out: str | Path | None = None,
    models: Sequence[str] = MODELS,
    seeds: int = 1,
    *,
    features: str = "efficientnet-lite0",
    weights: Path | None = None,
    labels: Path | None = None,
    normal: Iterable[str] = (),
    say: Say = lambda line: None,
) -> Path | None:
    """Train and measure each of `models` on the pictures `images`, everything but the model alike, and report.

    A model is an objective, "samples", "means", "total" (the proposed one with that estimator of the variance),
    "standard" or "beta"; with "+gan" against a discriminator; and with settings of its own after a colon, for
    instance "means+gan:weights.kl_individual=0.1,lr=0.001". `seeds` counts up from `config.seed`; all models of a seed
    start from the same weights. The other arguments are those of `evaluate_run`.

    Each model has a run folder in `out` (default: runs/compare-<pictures>-<preset>-<size>). Called again, it goes
    on where it stopped: a finished run is not trained again, nor measured again. Returns the path of report.html,
    beside report.md, report.json and figures/; None if somebody asked to stop.

    Raises `ValueError` for an unknown model or setting, features without weights, labels that miss files, and a folder
    with a comparison on other pictures, all before anything is trained; and what `train` and `evaluate_run` raise.
    """
    if config.devices > 1:
        raise ValueError("compare trains on one device; leave out --devices, or train the models one by one")
    if seeds < 1:
        raise ValueError(f"{seeds} seeds; ask for one or more")
    config = config.resolved()
    folder = Path(out) if out is not None else default_run(config, images, prefix="compare-")
    planned = {
        (model, seed): model_config(dataclasses.replace(config, seed=config.seed + seed), model)
        for seed in range(seeds)
        for model in models
    }
    runs = {key: folder / folder_name(key[0]) / f"seed-{settings.seed}" for key, settings in planned.items()}
    if features != "none":
        load_extractor(features, weights, available("auto"))
    pictures = prepare(resolve_source(str(images)), *config.image_size, config.channels)
    find_labels(pictures.folder, pictures.names, labels)
    for run in runs.values():
        if (run / PICTURES_FILE).is_file():
            check_same_pictures(run, pictures)
    for i, (key, settings) in enumerate(planned.items(), start=1):
        if not finished(runs[key], settings):
            say(f"{i} of {len(planned)}: training {key[0]}, seed {settings.seed}")
            train(settings, images, runs[key], resume=bool(checkpoint.all_checkpoints(runs[key])))
        if not finished(runs[key], settings):
            say("stopped; the same command goes on")
            return None
    entries: dict[str, list[Entry]] = {}
    for i, ((model, _), run) in enumerate(runs.items(), start=1):
        say(f"{i} of {len(runs)}: measuring {model}")
        measured = evaluate_run(
            run, features=features, weights=weights, labels=labels, normal=normal, reuse=True, say=say
        )
        entries.setdefault(model, []).append(Entry(run, measured))
    say("drawing")
    return write_report(folder, config, entries, draw_figures(folder, entries))


def draw_figures(folder: Path, entries: Entries) -> dict[str, Path]:
    """Figures of the first seed of each model, by caption; rows are models."""
    runs = {model: first.run for model, (first, *_) in entries.items()}
    vaes = {model: VAE.from_pretrained(run) for model, run in runs.items()}
    config = next(iter(vaes.values())).config
    prepared, test = held_out_of(next(iter(runs.values())), config)
    x = HeldOut(prepared.images, test).some(FIGURE_IMAGES)
    few = x[evenly(len(x), COLUMNS)]
    normal = {model: StandardNormal(vae.latent_dim) for model, vae in vaes.items()}
    mixture = {model: run_prior(run, vaes[model]) for model, run in runs.items()}
    spectra = {model: first.measured["spectra"] for model, (first, *_) in entries.items()}
    original = next(iter(spectra.values()))["original"]

    def drawn(priors: Mapping[str, Prior]) -> figures.Pixels:
        z = {
            model: prior.sample(COLUMNS, torch.Generator().manual_seed(config.seed)) for model, prior in priors.items()
        }
        return figures.latent_rows(vaes, z)

    pixels = {
        "reconstructions": figures.side_by_side(vaes, few),
        "transitions": figures.transitions(vaes, few[: max(2, len(few) // 4 * 2)].unflatten(0, (-1, 2))),
        "samples-normal": drawn(normal),
        "samples-gaussian-mixture": drawn(mixture),
        "joint_histograms": figures.joint_histograms({model: figures.sampled(vae, x) for model, vae in vaes.items()}),
        "power_spectra": charts.power_spectra(
            {"original": original} | {model: s["sampled"] for model, s in spectra.items()}, models=True
        ),
        "curves": charts.model_curves({model: read_records(run) for model, run in runs.items()}, CURVES),
    }
    return {CAPTIONS[name]: save(drawing, folder / FIGURES_FOLDER / f"{name}.png") for name, drawing in pixels.items()}
