"""Schedules, as functions of the fraction of the run that is over."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vaekit.config import Config


def fraction_done(config: Config, counters: Mapping[str, float]) -> float:
    """Share of the run that is over, by images or by the clock; schedules are functions of it."""
    if config.minutes is not None:
        return counters["elapsed_sec"] / (60 * config.minutes)
    return counters["images_seen"] / config.images


def left_sec(counters: Mapping[str, float], progress: float) -> float:
    """Seconds until the end at the pace so far."""
    return counters["elapsed_sec"] * max(0.0, 1 / progress - 1)


def learning_rate_factor(progress: float, warmup: float, decay: str) -> float:
    """Share of the peak learning rate: a linear rise over the first `warmup` of the run, then cosine or constant."""
    rise = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return rise * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)) if decay == "cosine" else 1.0)
