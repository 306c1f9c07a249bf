"""Tables of numbers for people: the same table as Markdown, HTML or plain text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from vaekit.config.priors import PRIORS

ABSENT = "-"


@dataclass(frozen=True)
class Measure:
    """How a number is shown: its name with the unit, its digits, and which way is better ("" where neither is)."""

    label: str
    digits: str
    better: str = ""

    @property
    def heading(self) -> str:
        """The label with an arrow towards the better side."""
        return f"{self.label} {self.better}".strip()


GENERATIONS = {name: f"z ~ {row.short}" for name, row in PRIORS.items()} | {
    "posteriors": "train pictures' latents: a perfect prior",
    "train": "train pictures, for reference",
}
UP, DOWN = "\u2191", "\u2193"
MEASURES = {
    "l1": Measure("L1", ".4f", DOWN),
    "psnr": Measure("PSNR, dB", ".2f", UP),
    "ssim": Measure("SSIM", ".3f", UP),
    "ms_ssim": Measure("MS-SSIM", ".3f", UP),
    "lpips": Measure("LPIPS", ".3f", DOWN),
    "laplacian_ratio": Measure("Laplacian ratio (1 = as sharp)", ".2f"),
    "spectrum_db": Measure("power spectrum off by, dB", ".1f", DOWN),
    "fd_effnet": Measure("FD-EffNet", ".2f", DOWN),
    "kd_effnet": Measure("KD-EffNet x 1000", ".2f", DOWN),
    "sd_effnet": Measure("SD-EffNet (sliced)", ".2f", DOWN),
    "fd_dinov2_s": Measure("FD-DINOv2-S", ".2f", DOWN),
    "kd_dinov2_s": Measure("KD-DINOv2-S x 1000", ".2f", DOWN),
    "sd_dinov2_s": Measure("SD-DINOv2-S (sliced)", ".2f", DOWN),
    "fid": Measure("FID", ".2f", DOWN),
    "kid": Measure("KID x 1000", ".2f", DOWN),
    "mind": Measure("MIND", ".2f", DOWN),
    "precision": Measure("precision", ".3f", UP),
    "recall": Measure("recall", ".3f", UP),
    "density": Measure("density", ".3f", UP),
    "coverage": Measure("coverage", ".3f", UP),
    "copied_pixels": Measure("as near to one train picture as 2 % of reconstructions, by pixels", ".1%"),
    "copied_features": Measure("the same, by features", ".1%"),
    "sliced_wasserstein": Measure("sliced Wasserstein x 1000", ".1f", DOWN),
    "kl_global": Measure("KL_G (eq. 20), nats", ".1f"),
    "kl_full_gaussian": Measure("with correlations", ".0f"),
    "kl_individual": Measure("KL_I (eq. 21), nats", ".1f"),
    "kl_standard": Measure("KL (eq. 11), nats", ".1f"),
    "rate": Measure("rate, nats", ".0f"),
    "joint_rate": Measure("jointly", ".0f"),
    "mean_std": Measure("mean posterior std", ".3f"),
    "aggregate_variance": Measure("aggregate variance, median", ".2f"),
    "bimodal": Measure("bimodal entries", ".0f"),
    "active_units": Measure("active entries", ".0f"),
    "entries": Measure("latent entries", ",.0f"),
    "codes_nats": Measure("codes of a picture, nats at most", ",.0f"),
    "images_seen": Measure("images seen", ",.0f"),
    "linear_accuracy": Measure("linear probe, accuracy", ".3f", UP),
    "linear_auroc": Measure("linear probe, AUROC", ".3f", UP),
    "knn_accuracy": Measure("k-NN, accuracy", ".3f", UP),
    "knn_auroc": Measure("k-NN, AUROC", ".3f", UP),
    "anomaly_auroc": Measure("error as anomaly score, AUROC", ".3f", UP),
    "mig": Measure("MIG", ".3f", UP),
    "sap": Measure("SAP", ".3f", UP),
    "factorvae": Measure("FactorVAE score", ".3f", UP),
    "dci_disentanglement": Measure("DCI, disentanglement", ".3f", UP),
    "dci_completeness": Measure("DCI, completeness", ".3f", UP),
    "dci_informativeness": Measure("DCI, informativeness", ".3f", UP),
    "train_sec": Measure("seconds of training", ",.0f"),
}


# The scores of `measures.anomalies.anomaly_scores`.
ANOMALIES: Mapping[str, str] = {
    "error": "reconstruction error",
    "local_error": "largest error of a window",
    "error_by_texture": "error over texture",
    "kl": "KL (eq. 11)",
    "kl_individual": "KL_I (eq. 21)",
    "nll": "-log p(mean), Gaussian",
    "likelihood_ratio": "likelihood ratio of two levels, LLR>1",
    "darkness": "darkness of the picture, without a model",
}


@dataclass(frozen=True)
class Table:
    """A title, column headings and rows of text; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """GitHub's table syntax below a bold title."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join([f"**{self.title}**", "", *("| " + " | ".join(line) + " |" for line in lines)])

    def html(self) -> str:
        """A <table> with its title as the caption."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in self.rows
        )
        return f"<table><caption>{html.escape(self.title)}</caption>\n<tr>{head}</tr>\n{body}</table>"

    def text(self) -> str:
        """Aligned columns for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        aligned = (
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
            for line in lines
        )
        return "\n".join([self.title, *("  " + "  ".join(cells).rstrip() for cells in aligned)])


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether a measure is a number: what is not finite is null in JSON, and None when it is read again."""
    return value is not None and math.isfinite(value)


def number(name: str, value: float | None, spread: float | None = None) -> str:
    """A value of the measure `name` with its digits, and ± its spread; a dash where there is none."""
    if not is_known(value):
        return ABSENT
    digits = MEASURES[name].digits
    return f"{value:{digits}}" + (f" ± {spread:{digits}}" if spread is not None else "")


def caveats(warnings: Iterable[str], not_measured: Mapping[str, str]) -> list[str]:
    """What a reader of numbers must know, a line each: warnings, and what was not measured and why."""
    missing = (f"not measured, {name}: {reason}" for name, reason in not_measured.items())
    return [*(f"warning: {line}" for line in warnings), *missing]


def by_measure(title: str, columns: Mapping[str, Mapping[str, float]]) -> Table:
    """A row a measure, a column a set of values: `columns` maps headings to {measure: value}."""
    names = [name for name in MEASURES if any(name in values for values in columns.values())]
    rows = [
        [MEASURES[name].heading, *(number(name, values.get(name)) for values in columns.values())] for name in names
    ]
    return Table(title, ["", *columns], rows)
