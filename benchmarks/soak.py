"""Does a long run keep more and more memory or files? Thousands of steps of a tiny one, watched from a thread."""

import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from common import open_files, resident_mib, show, write_pictures

SAMPLE_EVERY_SEC = 0.5


@dataclass(frozen=True)
class Soak:
    """Memory and open files over a run with discriminator, checkpoints, figures and logs."""

    steps: int = 20_000
    """Steps of the run."""
    warm_up: float = 0.25
    """Fraction of the run that is left out of the slope: libraries are loaded when first used."""
    draws: int = 5
    """How often figures are drawn on the way."""
    json: Path | None = None
    """Write the table here too."""


class Watch(threading.Thread):
    """Samples (seconds, MiB resident, open files) until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, int]] = []
        self.over = threading.Event()

    def run(self) -> None:
        started_at = time.monotonic()
        while not self.over.wait(SAMPLE_EVERY_SEC):
            self.samples.append((time.monotonic() - started_at, resident_mib(), open_files()))


def train_tiny(folder: Path, steps: int, draws: int) -> None:
    """A run of `steps` steps on 64 pictures of 16x16, with everything that a run does on the way."""
    from vaekit import preset, train
    from vaekit.config import Discriminator, Network

    config = preset(
        "fast",
        size=16,
        batch=4,
        images=4 * steps,
        draws=draws,
        save_every_minutes=0.2,
        device="cpu",
        precision="fp32",  # faster at this size
        network=Network(latent_dim=8, channels=8, max_channels=16),
        discriminator=Discriminator(channels=(8, 8, 8, 8, 8), start=0.0),
    )
    train(config, write_pictures(folder / "pictures", 64, 16), folder / "run")


def main(settings: Soak) -> None:
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VAEKIT_CACHE"] = f"{folder}/cache"
        watch.start()
        train_tiny(Path(folder), settings.steps, settings.draws)
        watch.over.set()
        watch.join()

    seconds, resident, files = (np.array(column) for column in zip(*watch.samples, strict=True))
    steady = seconds > settings.warm_up * seconds[-1]
    steps = settings.steps / seconds[-1] * seconds  # at an even pace
    rows = [
        {
            "": name,
            "after the warm-up": values[steady][0],
            "at the end": values[-1],
            "at most": values.max(),
            "growth over 1,000 steps": 1000 * np.polyfit(steps[steady], values[steady], 1)[0],
        }
        for name, values in (("resident, KiB", 1024 * resident), ("open files", files))
    ]
    digits = dict.fromkeys(rows[0], ",.0f") | {"": "", "growth over 1,000 steps": ",.1f"}
    show(f"{settings.steps:,} steps in {seconds[-1] / 60:.1f} min", rows, digits, settings.json)


if __name__ == "__main__":
    main(tyro.cli(Soak))
