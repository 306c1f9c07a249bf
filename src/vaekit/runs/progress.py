"""Schedules, as functions of the fraction of the run that is over."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vaekit.config.settings import Config


def fraction_done(config: Config, counters: Mapping[str, float]) -> float:
    """Share of the run that is over, by images or by the clock; schedules are functions of it."""
    if config.minutes is not None:
        return counters["elapsed_sec"] / (60 * config.minutes)
    return counters["images_seen"] / config.images


def left_sec(config: Config, counters: Mapping[str, float], images_per_sec: float, price: float) -> float:
    """Seconds until the end at the present speed; a step with the discriminator takes `price` times one without."""
    if config.minutes is not None:
        return max(0.0, 60 * config.minutes - counters["elapsed_sec"])
    left = max(0.0, config.images - counters["images_seen"])
    alone = max(0.0, config.discriminator.start * config.images - counters["images_seen"]) if config.gan else 0.0
    return (alone + (left - alone) * (price if alone > 0 else 1.0)) / images_per_sec


def learning_rate_factor(progress: float, warmup: float, decay: str) -> float:
    """Share of the peak learning rate: a linear rise over the first `warmup` of the run, then cosine or constant."""
    rise = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return rise * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)) if decay == "cosine" else 1.0)
