"""Several objectives on the same network, pictures, seed and budget: train, measure, put side by side in a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from vaekit.commands.evaluate import check_normal, labels_for, measure_run
from vaekit.commands.train import train
from vaekit.config.measuring import Features, Measuring
from vaekit.config.presets import folder_name, model_config
from vaekit.config.priors import PRIORS
from vaekit.config.settings import Config
from vaekit.config.variants import COMPARED, GAN, MODELS, OBJECTIVES
from vaekit.data.loader import HeldOut
from vaekit.data.sources.base import Source
from vaekit.data.sources.naming import Pictures, source_of
from vaekit.measures.features import load_extractor
from vaekit.measures.full import KnownSets, Say
from vaekit.models.vae import VAE
from vaekit.reports.comparison import COLUMNS, EntriesByModel, Entry, Subjects, draw_comparison, write_report
from vaekit.runs.folder import (
    FIGURE_IMAGES,
    FIGURES_FOLDER,
    PICTURES_FILE,
    check_apart,
    config_of,
    default_run,
    held_out_of,
    is_run,
    mark_as_output,
    prepared_for,
)
from vaekit.runs.log import read_records
from vaekit.runs.prior import prior_of
from vaekit.runs.resume import check_same_pictures, finished
from vaekit.system.devices import available, float32_products
from vaekit.system.ranks import check_one_process


def compare(
    config: Config,
    images: Pictures,
    out: str | Path | None = None,
    models: Sequence[str] = MODELS,
    seeds: int = 1,
    both: bool = False,
    *,
    features: Features = "efficientnet-lite0",
    weights: Path | None = None,
    labels: Path | None = None,
    label_column: str | None = None,
    normal: Iterable[str] = (),
    limit: int | None = None,
    say: Say = lambda line: None,
) -> Path:
    """Train and measure each of `models` on the pictures `images`, everything but the model alike, and report.

    A model is an objective, "samples", "means", "total" (the proposed one with that estimator of the variance),
    "standard" or "beta" and so on, or "paper" (the proposed one with the estimator of `config`); with "+gan" against a
    discriminator, and with `both` each model without and with it; and with settings of its own after a colon, for
    instance "means+gan:weights.kl_individual=0.1,lr=0.001". `seeds` counts up from `config.seed`; all models of a seed
    start from the same weights. The other arguments are those of `evaluate_run`.

    Each model has a run folder in `out` (default: `runs/compare-<pictures>-<preset>-<size>`). Called again, it goes
    on where it stopped: a finished run is not trained again, nor measured again. Returns the path of report.html,
    beside report.md, report.json and figures/.

    Raises `ValueError` for an unknown model or setting, features without weights, labels that miss files, and a folder
    with a comparison on other pictures, all before anything is trained; and what `train` and `evaluate_run` raise.
    """
    check_one_process("compare")
    if config.devices > 1:
        raise ValueError("compare trains on one device; leave out --devices, or train the models one by one")
    if seeds < 1:
        raise ValueError(f"{seeds} seeds; ask for one or more")
    source = source_of(images)
    folder = Path(out) if out is not None else default_run(config, source, prefix="compare-")
    check_apart(folder, source.folder)
    if is_run(folder):
        raise ValueError(f"{folder} holds a run; give the comparison another --out")
    plan = planned(config, folder, with_and_without(models) if both else models, seeds)
    measuring = Measuring(features, weights, labels, label_column, tuple(normal), limit)
    check_measurable(config, source, plan, measuring)
    mark_as_output(folder)
    for i, one in enumerate(plan, start=1):
        if not finished(one.run, one.config):
            say(f"{i} of {len(plan)}: training {one.model}, seed {one.config.seed}")
            train(one.config, source, one.run, resume=True)
    entries: dict[str, list[Entry]] = {}
    known: KnownSets = {}
    for i, one in enumerate(plan, start=1):
        say(f"{i} of {len(plan)}: measuring {one.model}")
        measured = measure_run(one.run, None, measuring, known, reuse=True, say=say)
        entries.setdefault(one.model, []).append(Entry(one.run, measured))
    say("drawing")
    with float32_products():
        figures = draw_comparison(folder / FIGURES_FOLDER, entries, subjects_of(entries))
    return write_report(folder, config.resolved(), entries, figures)


def with_and_without(models: Sequence[str]) -> list[str]:
    """Models without and with the discriminator; one that cannot be without it once, as it was named."""
    expanded = []
    for model in models:
        name, colon, settings = model.partition(":")
        objective = name.removesuffix(GAN)
        alone = objective in COMPARED and OBJECTIVES[COMPARED[objective]["objective"]].needs_gan
        names = [name] if alone else [objective, objective + GAN]
        expanded += [f"{each}{colon}{settings}" for each in names]
    return expanded


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    model: str
    config: Config
    run: Path


def planned(config: Config, folder: Path, models: Sequence[str], seeds: int) -> list[Planned]:
    """Every run of a comparison, all models of a seed together. Raises `ValueError` for an unknown model or setting."""
    plan = []
    for seed in range(config.seed, config.seed + seeds):
        for model in dict.fromkeys(models):  # one that is named twice is trained once
            own = model_config(dataclasses.replace(config, seed=seed), model)
            plan.append(Planned(model, own, folder / folder_name(model) / f"seed-{seed}"))
    return plan


def check_measurable(config: Config, source: Source, plan: Sequence[Planned], measuring: Measuring) -> None:
    """Raise `ValueError` for what would stop the comparison after its training: features, labels, other pictures."""
    if measuring.limit is not None and measuring.limit < 2:
        raise ValueError(f"--limit {measuring.limit}: two or more pictures are needed to measure a model")
    if measuring.features != "none":
        load_extractor(measuring.features, measuring.weights, available("auto"))
    pictures = prepared_for(config, source)
    check_normal(labels_for(pictures, measuring)[0], measuring.normal)
    for one in plan:
        if (one.run / PICTURES_FILE).is_file():
            check_same_pictures(one.run, pictures)


def subjects_of(entries: EntriesByModel) -> Subjects:
    """What the figures are drawn from: the first seed of each model."""
    runs = {model: first.run for model, (first, *_) in entries.items()}
    vaes = {model: VAE.from_pretrained(run) for model, run in runs.items()}
    first = next(iter(runs))
    config = config_of(runs[first], vaes[first])
    prepared, test = held_out_of(runs[first], config)

    def draws(prior: str) -> Mapping[str, torch.Tensor]:
        found = {}
        for model, run in runs.items():
            if PRIORS[prior].of_every_model or prior in vaes[model].priors:
                with suppress(ValueError):  # latents that are too long for it: the table lacks it too
                    density = prior_of(run, vaes[model], prior, at_hand=prepared)
                    found[model] = density.sample(COLUMNS, torch.Generator().manual_seed(config.seed))
        return found

    return Subjects(
        vaes,
        HeldOut(prepared.images, test).some(FIGURE_IMAGES),
        {prior: draws(prior) for prior in PRIORS},
        {model: read_records(run) for model, run in runs.items()},
    )
