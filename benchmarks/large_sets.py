"""Hundreds of thousands of pictures: what each command takes in time and memory, and what reading ahead saves.

    python benchmarks/large_sets.py [--counts 200000 1000000] [--side 32] [--cold 256] [--json large.json]

The pictures are smooth noise in one .npy. Each command runs in a process of its own, with a small network whose latents
are as long as the default's. Then random batches are read from a file that the system has been told to forget.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from common import in_fresh_process, own_memory, show

BATCH = 16
COLD_BATCHES = 200
STEP_SEC = 0.05  # of work between two batches


@dataclass(frozen=True)
class LargeSets:
    """Time and memory over the number of pictures."""

    counts: tuple[int, ...] = (50_000, 200_000, 1_000_000)
    """Numbers of pictures."""
    side: int = 32
    """Of the pictures, in pixels."""
    cold: int = 256
    """Side of the pictures that are read from the disk."""
    json: Path | None = None
    """Write the table here too."""


def write_array(path: Path, count: int, side: int) -> None:
    """`count` pictures of smooth noise, uint8 (N, H, W, 3)."""
    random = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, side, side, 3))
    for start in range(0, count, 10_000):
        coarse = random.integers(256, size=(min(10_000, count - start), side // 8, side // 8, 3), dtype=np.uint8)
        images[start : start + len(coarse)] = coarse.repeat(8, 1).repeat(8, 2)
    images.flush()


def timed(command: str, folder: Path, side: int) -> tuple[float, float]:
    """Seconds of a command, and the most memory of its own, MiB, mapped files left out."""
    from vaekit import evaluate_run, preset, train
    from vaekit.commands.fit_prior import fit_prior_run
    from vaekit.config.groups import Discriminator, Network
    from vaekit.data.cache import prepare
    from vaekit.data.sources.naming import source_of

    def trained() -> Any:
        config = preset(
            "fast",
            size=side,
            images=50 * BATCH,
            batch=BATCH,
            draws=1,
            network=Network(channels=8, max_channels=16),
            discriminator=Discriminator(channels=(8, 8, 8, 8, 8)),
        )
        return train(config, folder / "pictures.npy", folder / "run")

    commands = {
        "prepare": lambda: prepare(source_of(folder / "pictures.npy"), side, side, 3),
        "train": trained,
        "evaluate": lambda: evaluate_run(folder / "run", features="none"),
        "fit-prior": lambda: fit_prior_run(folder / "run", "gaussian-mixture"),
    }
    with own_memory() as most_mib:
        started_at = time.perf_counter()
        commands[command]()
        return time.perf_counter() - started_at, most_mib()


def cold_reads(path: Path, ahead: bool) -> float:
    """Milliseconds that a step waits for a random batch of a file that is not in memory."""
    from vaekit.data.loader import Stream

    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    images = np.lib.format.open_memmap(path, mode="r")
    stream = Stream(images, np.arange(len(images)), seed=0, flip=False)
    if not ahead:
        stream.ahead.file = None
    waited = 0.0
    for step in range(COLD_BATCHES):
        started_at = time.perf_counter()
        stream.batch(step * BATCH, BATCH)
        waited += time.perf_counter() - started_at
        time.sleep(STEP_SEC)
    return 1e3 * waited / COLD_BATCHES


def main(settings: LargeSets) -> None:
    rows = []
    for count in settings.counts:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            os.environ["VAEKIT_CACHE"] = f"{folder}/cache"
            write_array(Path(folder, "pictures.npy"), count, settings.side)
            row: dict[str, float] = {"pictures": count}
            for command in ("prepare", "train", "fit-prior", "evaluate"):
                seconds, mib = in_fresh_process(timed, command, Path(folder), settings.side, ours=True)
                row |= {f"{command}, s": seconds, f"{command}, MiB": mib}
            rows.append(row)
    digits = dict.fromkeys(rows[0], ",.0f") | {"pictures": ","}
    show("Many pictures", rows, digits, settings.json)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "pictures.npy")
        write_array(path, 20_000, settings.cold)
        os.sync()
        waits = [in_fresh_process(cold_reads, path, ahead) for ahead in (False, True, False, True)]
        for ahead, wait in zip((False, True, False, True), waits, strict=True):
            print(f"{'with' if ahead else 'without'} reading ahead a step waits {wait:.1f} ms for {BATCH} pictures")


if __name__ == "__main__":
    main(tyro.cli(LargeSets))
