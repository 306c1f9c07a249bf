"""What a run is measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Features = Literal["efficientnet-lite0", "inception", "dinov2", "none"]


@dataclass(frozen=True)
class Measuring:
    """What to measure with."""

    features: Features = "efficientnet-lite0"
    """Feature space of Frechet and kernel distances; inception gives the true FID and KID, dinov2 a second opinion."""
    weights: Path | None = None
    """File of the weights of --features inception or dinov2, if it is not where they are looked for."""
    labels: Path | None = None
    """CSV of file,label, to probe what the latents are good for; class folders and labels.csv are found without."""
    label_column: str | None = None
    """Column of that table that holds the labels; by default label, class, category or the like, or the first."""
    normal: tuple[str, ...] = ()
    """Classes that are no anomaly; by default the lower of two numbers, else the most frequent one."""
    limit: int | None = None
    """Measure with this many of the pictures, at even distances; by default with all, and at most 10,000."""
