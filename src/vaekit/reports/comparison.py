"""The report of a comparison: tables and figures of several models as Markdown, as one HTML file, and as JSON."""

from __future__ import annotations

import base64
import html
import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vaekit.config.priors import COPIES, PRIORS
from vaekit.config.settings import Config
from vaekit.data.loader import evenly
from vaekit.models.vae import VAE
from vaekit.reports.charts import Records, model_curves, power_spectra
from vaekit.reports.evaluation import Evaluation
from vaekit.reports.figures import joint_histograms, latent_rows, sampled, side_by_side, transitions
from vaekit.reports.mosaic import Pixels, save_png
from vaekit.reports.tables import ABSENT, GENERATIONS, MEASURES, Table, caveats, is_known, number
from vaekit.system.files import json_text, write_text

FD = ("fd_effnet", "fid", "fd_dinov2_s")
KD = ("kd_effnet", "kid", "kd_dinov2_s")
SD = ("sd_effnet", "mind", "sd_dinov2_s")
RECONSTRUCTION = ("l1", "psnr", "ssim", "ms_ssim", "lpips", "laplacian_ratio", "spectrum_db", *FD, *KD)
GENERATION = (*FD, *KD, *SD, "precision", "recall", "density", "coverage", "sliced_wasserstein", "copied_pixels")
LATENTS = (
    "entries",
    "kl_standard",
    "rate",
    "joint_rate",
    "kl_global",
    "kl_full_gaussian",
    "active_units",
    "mean_std",
    "aggregate_variance",
    "bimodal",
    "codes_nats",
)
NEAREST_BY = (*FD, "sliced_wasserstein")  # which prior's pictures are the best, by the first of these that is there
BEST = "New pictures, each model from the prior whose pictures are nearest to the test pictures"
FACTORS = ("mig", "sap", "factorvae", "dci_disentanglement", "dci_completeness", "dci_informativeness")
USEFULNESS = ("linear_accuracy", "linear_auroc", "knn_accuracy", "knn_auroc", "anomaly_auroc")
BUDGET = ("images_seen", "train_sec")
CURVES = {"psnr": "PSNR, dB", "laplacian_ratio": "Laplacian ratio", "kl_standard": "KL (eq. 11), nats"}
CURVES_CAPTION = (
    "Test measures over the run (of at most 400 test pictures, at its end of at most 10,000; solid: with discriminator)"
)
COLUMNS = 8
STYLE = """body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1.2rem 0; font-variant-numeric: tabular-nums; font-size: 13px }
caption { text-align: left; font-weight: 600; padding: .3rem 0 } td, th { padding: .2rem .6rem; text-align: right }
td:first-child, th:first-child { text-align: left } th { vertical-align: bottom } td { border-top: 1px solid #ddd }
img { max-width: 100%; margin: .3rem 0 1.5rem }"""


@dataclass(frozen=True)
class Entry:
    """One finished run of a model, with what `evaluate_run` measured."""

    run: Path
    measured: Evaluation


EntriesByModel = Mapping[str, Sequence[Entry]]  # model -> one run for each seed


@dataclass(frozen=True)
class Subjects:
    """What figures of a comparison are drawn from: models by name, and test pictures x (N, C, H, W) in [-1, 1].

    `latents` holds draws z (n, d) of each prior for each model that has it; `records` the logs.
    """

    vaes: Mapping[str, VAE]
    x: Tensor
    latents: Mapping[str, Mapping[str, Tensor]]
    records: Mapping[str, Records]


def draw_comparison(folder: Path, entries: EntriesByModel, subjects: Subjects) -> dict[str, Path]:
    """Draw the figures of the first seed of each model into `folder`; rows are models. Returns the files by caption."""
    vaes, x = subjects.vaes, subjects.x
    few = x[evenly(len(x), COLUMNS)]
    spectra = {model: first.measured.spectra for model, (first, *_) in entries.items()}
    original = next(iter(spectra.values()))["original"]
    pairs = few[: max(2, len(few) // 4 * 2)].unflatten(0, (-1, 2))
    drawn: dict[str, tuple[str, Pixels]] = {
        "reconstructions": ("Test pictures, reconstructed from sampled z", side_by_side(vaes, few)),
        "transitions": ("Transitions between test pictures (fig. 5)", transitions(vaes, pairs)),
    }
    best = {model: best_prior(runs) for model, runs in entries.items()}
    by_row = {with_prior(model, prior): model for model, prior in best.items()}
    best_latents = {row: subjects.latents[best[model]][model] for row, model in by_row.items()}
    drawn["samples-best"] = (BEST, latent_rows({row: vaes[model] for row, model in by_row.items()}, best_latents))
    for prior, latents in subjects.latents.items():
        if latents:
            having = {model: vae for model, vae in vaes.items() if model in latents}
            drawn[f"samples-{prior}"] = (f"Samples, z ~ {PRIORS[prior].title}", latent_rows(having, latents))
    histograms = joint_histograms({model: sampled(vae, x) for model, vae in vaes.items()})
    of_models = {"original": original} | {model: spectrum["sampled"] for model, spectrum in spectra.items()}
    drawn |= {
        "joint_histograms": ("Two entries of the latents of test pictures (fig. 6)", histograms),
        "power_spectra": ("Power spectra of the reconstructions", power_spectra(of_models, models=True)),
        "curves": (CURVES_CAPTION, model_curves(subjects.records, CURVES)),
    }
    return {caption: save_png(pixels, folder / f"{name}.png") for name, (caption, pixels) in drawn.items()}


def write_report(folder: Path, config: Config, entries: EntriesByModel, figures: Mapping[str, Path]) -> Path:
    """Write report.md, report.html (in one piece) and report.json to `folder`; returns the path of report.html.

    `figures` maps captions to PNG files in `folder`.
    """
    tables = comparison_tables(entries)
    title, head = "Comparison of objectives", heading(config, entries)
    notes = notes_of(entries)
    markdown = [
        f"# {title}",
        *head,
        *(table.markdown() for table in tables),
        "\n".join(f"- {line}" for line in notes),
        *(f"**{caption}**\n\n![{caption}]({path.relative_to(folder).as_posix()})" for caption, path in figures.items()),
    ]
    page = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>",
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in head),
        *(table.html() for table in tables),
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in notes) + "</ul>",
        *(f"<h3>{html.escape(caption)}</h3>\n{inline(path)}" for caption, path in figures.items()),
    ]
    numbers = {model: [{"run": str(entry.run), **entry.measured} for entry in runs] for model, runs in entries.items()}
    contents = {"md": "\n\n".join(markdown), "html": "\n".join(page), "json": json_text(numbers, indent=1)}
    for suffix, text in contents.items():
        write_text(text + "\n", folder / f"report.{suffix}")
    return folder / "report.html"


def heading(config: Config, entries: EntriesByModel) -> list[str]:
    """What all models have in common."""
    first = next(iter(entries.values()))[0].measured.protocol
    height, width = config.image_size
    budget = f"{config.minutes:g} minutes" if config.minutes is not None else f"{config.images:,} images"
    seeds = len(next(iter(entries.values())))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    pictures = first["pictures"]
    features = first["features"]["network"] if first["features"] else "none"
    return [
        f"Every model: the same network (preset {config.preset}) but for what its objective adds to it, pictures "
        f"({height}x{width}, {pictures['of']:,}, measured on {pictures['num_images']:,} held out), order, seed and "
        "first weights; "
        f"{budget} of training each, unless its name says otherwise. Numbers: {spread}.",
        f"Features of the distances: {features}. vaekit {first['versions']['vaekit']}, "
        f"torch {first['versions']['torch']}, "
        f"{platform.machine()}, {first['device']}, {first['precision']}.",
    ]


def notes_of(entries: EntriesByModel) -> list[str]:
    """The verdict on every run, then what all numbers have in common: warnings, and what was not measured and why."""
    verdicts: list[str] = []
    common: dict[str, None] = {}
    for model, runs in entries.items():
        for entry in runs:
            verdict = entry.measured.verdict
            name = f"{model}, {entry.run.name}" if len(runs) > 1 else model
            verdicts.append(f"{name}: {' '.join([verdict['sentence'], *verdict['warnings']])}")
            warnings = [line for line in entry.measured.warnings if line not in verdict["warnings"]]
            common |= dict.fromkeys(caveats(warnings, entry.measured.not_measured))
    return [*verdicts, *common]


def best_prior(runs: Sequence[Entry]) -> str:
    """The prior whose new pictures are nearest to the test pictures, by `NEAREST_BY`, on average over the seeds.

    One whose pictures repeat train pictures would be, too; it is left out where there is another.
    """
    generations = [entry.measured.generation for entry in runs]
    common = [name for name in PRIORS if all(name in generation for generation in generations)]
    priors = [name for name in common if not any(of[name].get(COPIES) for of in generations)] or common
    known = (by for by in NEAREST_BY if any(is_known(generations[0][name].get(by)) for name in priors))
    measure = next(known, NEAREST_BY[-1])

    def distance(prior: str) -> float:
        values = [generation[prior].get(measure) for generation in generations]
        return statistics.fmean(value if is_known(value) else math.inf for value in values)

    return min(priors, key=distance)


def with_prior(model: str, prior: str) -> str:
    """A model with the prior that its pictures are drawn from, as a row is named."""
    return f"{model}, {PRIORS[prior].short}"


def inline(path: Path) -> str:
    """A PNG as an <img> that needs no other file."""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def comparison_tables(entries: EntriesByModel) -> list[Table]:
    """Reconstruction, samples from each prior, latents and usefulness: a row a model."""
    tables = [
        by_model(
            "Reconstruction of test pictures from sampled z", rows(entries, reconstruction), RECONSTRUCTION + BUDGET
        )
    ]
    tables += generation_tables(entries)
    tables.append(by_model("Latents of test pictures", rows(entries, latents), LATENTS))
    if any(m.usefulness for m in measurements(entries)):
        tables.append(by_model("Usefulness of the means", rows(entries, useful), USEFULNESS))
    if any(m.disentanglement for m in measurements(entries)):
        followed = rows(entries, lambda measured: measured.disentanglement)
        tables.append(by_model("How the means follow the factors", followed, FACTORS))
    return tables


def generation_tables(entries: EntriesByModel) -> list[Table]:
    """New pictures beside train pictures: those from the best prior of each model, then a table for each prior."""
    found = {model: [entry.measured.generation for entry in runs] for model, runs in entries.items()}
    train = {GENERATIONS["train"]: [next(iter(found.values()))[0].get("train", {})]}
    best = {model: best_prior(runs) for model, runs in entries.items()}
    drawn = {with_prior(model, prior): [each[prior] for each in found[model]] for model, prior in best.items()}
    tables = [by_model(BEST, {**drawn, **train}, GENERATION)]
    for prior, row in PRIORS.items():
        measured = {model: [each.get(prior, {}) for each in runs] for model, runs in found.items()}
        if any(each for runs in measured.values() for each in runs):
            tables.append(by_model(f"Samples, z ~ {row.title}", {**measured, **train}, GENERATION))
    return tables


def measurements(entries: EntriesByModel) -> list[Evaluation]:
    return [entry.measured for runs in entries.values() for entry in runs]


def rows(
    entries: EntriesByModel, pick: Callable[[Evaluation], Mapping[str, float]]
) -> dict[str, list[Mapping[str, float]]]:
    """What `pick` takes of each measurement, by model."""
    return {model: [pick(entry.measured) for entry in runs] for model, runs in entries.items()}


def reconstruction(measured: Evaluation) -> dict[str, float]:
    model = measured.protocol["model"]
    return measured.reconstruction["sampled"] | {name: model[name] for name in BUDGET}


def latents(measured: Evaluation) -> dict[str, float]:
    diagnosed = measured.latents
    by_entry = diagnosed["entries"]
    return {
        "kl_standard": diagnosed["elbo_split"]["kl"] if diagnosed["elbo_split"] else math.nan,
        **{name: diagnosed[name] for name in ("rate", "joint_rate", "kl_global", "kl_full_gaussian")},
        "entries": len(by_entry["mean_std"]),
        "active_units": diagnosed["active"],
        "mean_std": statistics.fmean(by_entry["mean_std"]) if diagnosed["elbo_split"] else math.nan,
        "aggregate_variance": statistics.median(by_entry["aggregate_variance"]),
        "bimodal": diagnosed["bimodality"]["count"] if diagnosed["bimodality"] else math.nan,
        "codes_nats": diagnosed.get("codes", {}).get("nats", math.nan),
    }


def useful(measured: Evaluation) -> Mapping[str, float]:
    return measured.usefulness or {}


def by_model(title: str, measured: Mapping[str, Sequence[Mapping[str, float]]], names: Sequence[str]) -> Table:
    """A row a model, a column a measure that any of them has: the mean over the seeds, ± the standard deviation."""
    present = [name for name in names if any(name in values for runs in measured.values() for values in runs)]

    def cell(name: str, runs: Sequence[Mapping[str, float]]) -> str:
        values = [value for run in runs if is_known(value := run.get(name))]
        if not values:
            return ABSENT
        return number(name, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    body = [[model, *(cell(name, runs) for name in present)] for model, runs in measured.items()]
    return Table(title, ["", *(MEASURES[name].heading for name in present)], body)
