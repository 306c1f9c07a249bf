"""The report of a comparison: tables and figures of several models as Markdown, as one HTML file, and as JSON."""

from __future__ import annotations

import base64
import html
import json
import math
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaekit.config.settings import Config
from vaekit.reports.tables import ABSENT, GENERATIONS, MEASURES, Table, caveats, number
from vaekit.system.files import replacing

FD, KD = ("fd_effnet", "fid"), ("kd_effnet", "kid")
RECONSTRUCTION = ("l1", "psnr", "ssim", "ms_ssim", "lpips", "laplacian_ratio", "spectrum_db", *FD, *KD)
GENERATION = (*FD, *KD, "precision", "recall", "density", "coverage", "sliced_wasserstein")
LATENTS = (
    "kl_standard",
    "rate",
    "joint_rate",
    "kl_global",
    "kl_full_gaussian",
    "active_units",
    "mean_std",
    "aggregate_variance",
    "bimodal",
)
USEFULNESS = ("linear_accuracy", "linear_auroc", "knn_accuracy", "knn_auroc", "anomaly_auroc")
BUDGET = ("images_seen", "train_sec")
STYLE = """body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1.2rem 0; font-variant-numeric: tabular-nums; font-size: 13px }
caption { text-align: left; font-weight: 600; padding: .3rem 0 } td, th { padding: .2rem .6rem; text-align: right }
td:first-child, th:first-child { text-align: left } th { vertical-align: bottom } td { border-top: 1px solid #ddd }
img { max-width: 100%; margin: .3rem 0 1.5rem }"""


@dataclass(frozen=True)
class Entry:
    """One finished run of a model, with what `evaluate_run` measured."""

    run: Path
    measured: Mapping[str, Any]


Entries = Mapping[str, Sequence[Entry]]  # model -> one run for each seed


def write_report(folder: Path, config: Config, entries: Entries, figures: Mapping[str, Path]) -> Path:
    """Write report.md, report.html (in one piece) and report.json to `folder`; returns the path of report.html.

    `figures` maps captions to PNG files in `folder`.
    """
    tables = tables_of(entries)
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
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in head),
        *(table.html() for table in tables),
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in notes) + "</ul>",
        *(f"<h3>{html.escape(caption)}</h3>\n{inline(path)}" for caption, path in figures.items()),
    ]
    numbers = {model: [{"run": str(entry.run), **entry.measured} for entry in runs] for model, runs in entries.items()}
    contents = {"md": "\n\n".join(markdown), "html": "\n".join(page), "json": json.dumps(numbers, indent=1)}
    for suffix, text in contents.items():
        with replacing(folder / f"report.{suffix}") as unfinished:
            unfinished.write_text(text + "\n")
    return folder / "report.html"


def heading(config: Config, entries: Entries) -> list[str]:
    """What all models have in common."""
    first = next(iter(entries.values()))[0].measured["protocol"]
    height, width = config.image_size
    budget = f"{config.minutes:g} minutes" if config.minutes is not None else f"{config.images:,} images"
    seeds = len(next(iter(entries.values())))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    pictures = first["pictures"]
    features = first["features"]["network"] if first["features"] else "none"
    return [
        f"Every model: the same network (preset {config.preset}), pictures ({height}x{width}, "
        f"{pictures['num_images']:,} of {pictures['of']:,} held out), order, seed and first weights; "
        f"{budget} of training each, unless its name says otherwise. Numbers: {spread}.",
        f"Features of the distances: {features}. vaekit {first['versions']['vaekit']}, "
        f"torch {first['versions']['torch']}, "
        f"{platform.machine()}, {first['device']}, {first['precision']}.",
    ]


def notes_of(entries: Entries) -> list[str]:
    """The verdict on every run, then what all numbers have in common: warnings, and what was not measured and why."""
    verdicts: list[str] = []
    common: dict[str, None] = {}
    for model, runs in entries.items():
        for entry in runs:
            verdict = entry.measured["latents"]["verdict"]
            name = f"{model}, {entry.run.name}" if len(runs) > 1 else model
            verdicts.append(f"{name}: {' '.join([verdict['sentence'], *verdict['warnings']])}")
            warnings = [line for line in entry.measured["warnings"] if line not in verdict["warnings"]]
            common |= dict.fromkeys(caveats(warnings, entry.measured["not_measured"]))
    return [*verdicts, *common]


def inline(path: Path) -> str:
    """A PNG as an <img> that needs no other file."""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def tables_of(entries: Entries) -> list[Table]:
    """Reconstruction, samples from both priors, latents and usefulness: a row a model."""
    generation = dict.fromkeys(prior for runs in entries.values() for e in runs for prior in e.measured["generation"])
    titles = {"normal": "Samples, z ~ N(0, I)", "gaussian-mixture": "Samples, z ~ a mixture fitted to the latents"}
    tables = [
        by_model(
            "Reconstruction of test pictures from sampled z", rows(entries, reconstruction), RECONSTRUCTION + BUDGET
        )
    ]
    for prior, title in titles.items():
        if prior in generation:
            measured = {
                model: [e.measured["generation"].get(prior, {}) for e in runs] for model, runs in entries.items()
            }
            measured[GENERATIONS["train"]] = [m["generation"].get("train", {}) for m in measurements(entries)[:1]]
            tables.append(by_model(title, measured, GENERATION))
    tables.append(by_model("Latents of test pictures", rows(entries, latents), LATENTS))
    if any(m["usefulness"] for m in measurements(entries)):
        tables.append(by_model("Usefulness of the means", rows(entries, useful), USEFULNESS))
    return tables


def measurements(entries: Entries) -> list[Mapping[str, Any]]:
    return [entry.measured for runs in entries.values() for entry in runs]


def rows(
    entries: Entries, pick: Callable[[Mapping[str, Any]], Mapping[str, float]]
) -> dict[str, list[Mapping[str, float]]]:
    """What `pick` takes of each measurement, by model."""
    return {model: [pick(entry.measured) for entry in runs] for model, runs in entries.items()}


def reconstruction(measured: Mapping[str, Any]) -> dict[str, float]:
    model = measured["protocol"]["model"]
    return measured["reconstruction"]["sampled"] | {name: model[name] for name in BUDGET}


def latents(measured: Mapping[str, Any]) -> dict[str, float]:
    diagnosed, by_entry = measured["latents"], measured["latents"]["entries"]
    return {
        "kl_standard": diagnosed["elbo_split"]["kl"],
        "rate": diagnosed["rate"],
        "joint_rate": diagnosed["joint_rate"],
        "kl_global": diagnosed["kl_global"],
        "kl_full_gaussian": diagnosed["kl_full_gaussian"],
        "active_units": diagnosed["active"],
        "mean_std": statistics.fmean(by_entry["mean_std"]),
        "aggregate_variance": statistics.median(by_entry["aggregate_variance"]),
        "bimodal": diagnosed["bimodality"]["count"] if diagnosed["bimodality"] else math.nan,
    }


def useful(measured: Mapping[str, Any]) -> Mapping[str, float]:
    return measured["usefulness"] or {}


def by_model(title: str, measured: Mapping[str, Sequence[Mapping[str, float]]], names: Sequence[str]) -> Table:
    """A row a model, a column a measure that any of them has: the mean over the seeds, ± the standard deviation."""
    present = [name for name in names if any(name in values for runs in measured.values() for values in runs)]

    def cell(name: str, runs: Sequence[Mapping[str, float]]) -> str:
        values = [value for run in runs if (value := run.get(name)) is not None and math.isfinite(value)]
        if not values:
            return ABSENT
        return number(name, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    body = [[model, *(cell(name, runs) for name in present)] for model, runs in measured.items()]
    return Table(title, ["", *(MEASURES[name].heading for name in present)], body)
