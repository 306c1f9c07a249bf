"""How far a run is, how fast it goes, and what is due."""

from __future__ import annotations

import time
from collections.abc import Mapping

from vaekit.config.settings import Config

SOON_SEC, TENTH = 60.0, 0.1

Counters = Mapping[str, float]  # step, images_seen and elapsed_sec of a run


def fraction_done(config: Config, counters: Counters) -> float:
    """Share of the run that is over, by images or by the clock; schedules are functions of it."""
    if config.minutes is not None:
        return min(1.0, counters["elapsed_sec"] / (60 * config.minutes))
    return min(1.0, counters["images_seen"] / config.images)


class Pace:
    """The clocks of a training loop, all in seconds of training, earlier processes of the run included.

    `price` is how many times as long a step with the discriminator takes.
    """

    def __init__(self, config: Config, counters: Counters, price: float) -> None:
        self.config = config
        self.price = price
        self.started_at = time.monotonic() - counters["elapsed_sec"]
        self.saved_at = self.logged_at = counters["elapsed_sec"]
        self.saved_fraction = fraction_done(config, counters) if counters["step"] else -1.0  # the first is soon due
        self.logged_images = counters["images_seen"]

    def clock(self) -> float:
        """Seconds of training up to now."""
        return time.monotonic() - self.started_at

    def save_due(self, now: float, fraction: float) -> bool:
        """Whether the last checkpoint is older than it may be: in time, or for more than a minute a tenth of the run.

        The first comes after a minute: a run of minutes has something to go on from too.
        """
        longest = 60 * self.config.save_every_minutes
        waited = now - self.saved_at
        return waited > longest or (waited > min(SOON_SEC, longest) and fraction - self.saved_fraction > TENTH)

    def saved(self, now: float, fraction: float) -> None:
        """Count from here to the next checkpoint, whether or not the disk took this one."""
        self.saved_at, self.saved_fraction = now, fraction

    def images_per_sec(self, counters: Counters) -> float:
        """Speed since the last call, or since the loop began."""
        images, sec = counters["images_seen"] - self.logged_images, counters["elapsed_sec"] - self.logged_at
        self.logged_at, self.logged_images = counters["elapsed_sec"], counters["images_seen"]
        return images / max(sec, 1e-6)  # a coarse clock may not have moved

    def left_sec(self, counters: Counters, images_per_sec: float) -> float:
        """Seconds until the end of the run at this speed; with the discriminator still to come, at its price."""
        config = self.config
        if config.minutes is not None:
            return max(0.0, 60 * config.minutes - counters["elapsed_sec"])
        left = max(0.0, config.images - counters["images_seen"])
        alone = max(0.0, config.discriminator_start * config.images - counters["images_seen"]) if config.gan else 0.0
        return (alone + (left - alone) * (self.price if alone > 0 else 1.0)) / images_per_sec
