"""Whether memory or open files grow over a long run: thousands of steps of a tiny model, sampled by a thread."""

import json
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
TAIL_BYTES = 4096


@dataclass(frozen=True)
class Soak:
    """Memory and open files over a run with discriminator, checkpoints and logs."""

    steps: int = 20_000
    """Steps of the run."""
    warm_up: float = 0.25
    """Fraction of the run that is left out of the growth: libraries are loaded when first used."""
    draws: int = 1
    """How often figures are drawn; once is after the last step, and so no part of the growth."""
    json: Path | None = None
    """Write the table here too."""


class Watch(threading.Thread):
    """Samples (step, KiB resident, open files) until it is stopped."""

    def __init__(self, log: Path) -> None:
        super().__init__(daemon=True)
        self.log = log
        self.samples: list[tuple[int, float, int]] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(SAMPLE_EVERY_SEC):
            self.samples.append((self.logged_step(), 1024 * resident_mib(), open_files()))

    def logged_step(self) -> int:
        """The step of the last whole line of the log, 0 without one."""
        if not self.log.is_file():
            return 0
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if lines else 0


def train_tiny(folder: Path, steps: int, draws: int) -> None:
    """A run of `steps` steps on 64 pictures of 16x16, with everything that a run does on the way."""
    from vaekit import preset, train
    from vaekit.config.groups import Discriminator, Network

    config = preset(
        "fast",
        size=16,
        batch=4,
        images=4 * steps,
        draws=draws,
        save_every_minutes=0.2,
        device="cpu",
        precision="fp32",  # faster at this size
        network=Network(latent_dim=16, channels=8, max_channels=16),
        discriminator=Discriminator(channels=(8, 8, 8, 8, 8), start=0.0),
    )
    train(config, write_pictures(folder / "pictures", 64, 16), folder / "run")


def main(settings: Soak) -> None:
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VAEKIT_CACHE"] = f"{folder}/cache"
        watch = Watch(Path(folder, "run", "log.jsonl"))
        watch.start()
        train_tiny(Path(folder), settings.steps, settings.draws)
        watch.over.set()
        watch.join()
    minutes = (time.monotonic() - started_at) / 60

    step, resident, files = (np.array(column) for column in zip(*watch.samples, strict=True))
    steady = (step > settings.warm_up * settings.steps) & (step < step[-1])
    rows = [
        {
            "": name,
            "after the warm-up": values[steady][0],
            "near the last step": values[steady][-1],
            "at most": values[steady].max(),
            "growth over 1,000 steps": 1000 * np.polyfit(step[steady], values[steady], 1)[0],
            "after the last figures": values[-1],
        }
        for name, values in (("resident, KiB", resident), ("open files", files))
    ]
    digits = dict.fromkeys(rows[0], ",.0f") | {"": "", "growth over 1,000 steps": ",.1f"}
    show(f"{step[-1]:,} steps in {minutes:.1f} min", rows, digits, settings.json)


if __name__ == "__main__":
    main(tyro.cli(Soak))
