"""Whether input keeps up: batches from the prepared cache, and the decoding that fills it beside torchvision's."""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from common import in_fresh_process, show


@dataclass(frozen=True)
class Input:
    """Pictures a second into a training step and into the cache."""

    sizes: tuple[int, ...] = (64, 256)
    """Sides of the pictures in the cache, in pixels, for the batches."""
    batch: int = 32
    """Images of a batch."""
    seconds: float = 2.0
    """How long batches are drawn for each line."""
    jpegs: int = 200
    """JPEGs to decode."""
    side: int = 1024
    """Their side in pixels."""
    size: int = 256
    """What they are decoded to."""
    workers: tuple[int, ...] = (1, 2)
    """Decoding threads of vaekit, and worker processes of the DataLoader."""
    repeats: int = 5
    """How often everything is decoded; the table has medians."""
    json: Path | None = None
    """Write the tables here too."""


def batch_rate(size: int, batch: int, seconds: float, step: str) -> float:
    """Pictures a second that `Stream.batch` gives on one thread, mirrored, and as x where `step` asks for that."""
    import torch

    from vaekit.data.loader import Stream
    from vaekit.data.pixels import to_float

    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(0, 256, (150_000_000 // (3 * size**2), 3, size, size), dtype=np.uint8)
    stream = Stream(images, np.arange(len(images)), seed=0, flip=True)
    stream.batch(0, batch)
    seen, started_at = 0, time.perf_counter()
    while time.perf_counter() - started_at < seconds:
        pictures = stream.batch(seen, batch)
        if step == "x":
            to_float(pictures).contiguous(memory_format=torch.channels_last)
        seen += batch
    return seen / (time.perf_counter() - started_at)


def photograph(random: np.random.Generator, side: int) -> np.ndarray:
    """Something like a photograph, uint8 (side, side, 3): a falling spectrum, colours that go together, grain."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf  # no mean

    def field() -> np.ndarray:
        values = np.fft.irfft2(np.fft.rfft2(random.standard_normal((side, side))) / frequency**1.4, (side, side))
        return values / values.std()

    grey = field()
    colours = np.stack([grey + 0.3 * field() for _ in range(3)], axis=-1)
    grain = random.standard_normal((side, side, 1))
    return np.clip(128 + 50 * colours + grain, 0, 255).astype(np.uint8)


def write_jpegs(folder: Path, count: int, side: int) -> None:
    """`count` JPEGs in one class folder, as ImageFolder wants it; twenty different ones."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(photograph(random, side)) for _ in range(min(count, 20))]
    for i in range(count):
        pictures[i % len(pictures)].save(folder / f"{i:05d}.jpg", quality=90)


def prepare_all(folder: Path, size: int, workers: int) -> int:
    """Put all pictures into vaekit's cache, whole on the disk, and count them."""
    from vaekit.data.cache import prepare

    with tempfile.TemporaryDirectory() as cache:
        return len(prepare(folder, size, size, 3, Path(cache), workers))


def load_all(folder: Path, size: int, workers: int, on: str) -> int:
    """Count uint8 pictures out of ImageFolder, transforms v2 (bilinear, their default) and a DataLoader.

    `on` says what is resized: the PIL picture as it is loaded, or a tensor made of it first.
    """
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    resize = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    steps = [*resize, v2.PILToTensor()] if on == "PIL" else [v2.PILToTensor(), *resize]
    fork = "fork" if workers else None  # spawn, which a fresh process inherits, would import torch again
    pictures = ImageFolder(folder, v2.Compose(steps))
    loader = DataLoader(pictures, batch_size=32, num_workers=workers, multiprocessing_context=fork)
    return sum(len(batch) for batch, _ in loader)


RUNNERS: dict[str, Callable[[Path, int, int], int]] = {
    "vaekit prepare": prepare_all,
    "torchvision v2 on PIL": partial(load_all, on="PIL"),
    "torchvision v2 on tensors": partial(load_all, on="tensors"),
}


def speed(name: str, folder: Path, size: int, workers: int) -> tuple[float, float]:
    """Pictures a second, and milliseconds of all processors together for a picture; imports not counted."""
    warm_up = folder / "warm-up"
    RUNNERS[name](warm_up, size, 0 if "torch" in name else 1)  # imports
    cpu, started_at = cpu_sec(), time.perf_counter()
    count = RUNNERS[name](folder / "photographs", size, workers)
    return count / (time.perf_counter() - started_at), 1000 * (cpu_sec() - cpu) / count


def cpu_sec() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def decoding(settings: Input, folder: Path, workers: int) -> list[dict[str, Any]]:
    """One row a runner, medians over repeats in which each takes its turn."""
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNNERS}
    for _ in range(settings.repeats):
        for name, seen in speeds.items():
            seen.append(in_fresh_process(speed, name, folder, settings.size, workers))
    medians = {name: [statistics.median(values) for values in zip(*seen, strict=True)] for name, seen in speeds.items()}
    ours = medians["vaekit prepare"][0]
    return [
        {"workers": workers, "": name, "img/s": rate, "CPU ms an image": cpu, "vaekit is faster": ours / rate}
        for name, (rate, cpu) in medians.items()
    ]


def main(settings: Input) -> None:
    rows = [
        {"size": size}
        | {
            name: in_fresh_process(batch_rate, size, settings.batch, settings.seconds, step)
            for name, step in (("uint8, img/s", "uint8"), ("x in channels_last, img/s", "x"))
        }
        for size in settings.sizes
    ]
    digits = {"uint8, img/s": ",.0f", "x in channels_last, img/s": ",.0f"}
    show(f"Batches of {settings.batch} from the cache, mirrored, one thread", rows, digits, settings.json)

    with tempfile.TemporaryDirectory() as temporary:
        for name, count in (("warm-up", 2), ("photographs", settings.jpegs)):
            write_jpegs(Path(temporary, name, "class"), count, settings.side)
        rows = [row for workers in settings.workers for row in decoding(settings, Path(temporary), workers)]
    digits = {"img/s": ".1f", "CPU ms an image": ".1f", "vaekit is faster": ".2f"}
    title = f"JPEGs of {settings.side} pixels to {settings.size}, img/s, medians of {settings.repeats}"
    show(title, rows, digits, settings.json)


if __name__ == "__main__":
    main(tyro.cli(Input))
