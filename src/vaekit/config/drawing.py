"""What new pictures are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from vaekit.config.priors import PriorName


@dataclass(frozen=True)
class Drawing:
    """What to draw from, and how."""

    prior: PriorName | None = None
    """By default the best that the run has: a transformer of codes, a flow, a mixture, a Gaussian, or else N(0, I)."""
    temperature: float = 1.0
    """Below 1: nearer to the middle, safer and less varied."""
    label: tuple[str, ...] = ()
    """Only pictures of this class, or with these attributes (smiling glasses=0), from a prior fitted with labels."""
    guidance: float | None = None
    """With a label: above 1, more typical of it."""
