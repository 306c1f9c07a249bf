"""What distances need to know of a set of pictures, collected batch by batch, and the distances of two sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vaekit.data.loader import evenly
from vaekit.data.pixels import to_float, to_uint8
from vaekit.measures.copying import small
from vaekit.measures.distances import (
    frechet_distance,
    kernel_distance,
    precision_recall_density_coverage,
    sliced_feature_distance,
    sliced_wasserstein,
)
from vaekit.measures.extractor import Extractor
from vaekit.measures.pictures import laplacian_energy, power_spectrum, spectrum_db

SLICED_PICTURES = 512  # kept as pixels for the sliced Wasserstein distance, whose sorting takes time
THOUSANDTHS = 1000.0  # kernel distances are small, so they are published times a thousand


@dataclass(frozen=True)
class PictureSet:
    """N pictures: `features` (N, F) or None, mean power spectrum (R,), mean Laplacian energy, some of the pixels.

    `small` (N, C 256) are all of them at 16x16.
    """

    features: Tensor | None
    small: Tensor
    spectrum: Tensor
    laplacian_energy: float
    pictures: Tensor  # uint8 (min(N, 512), C, H, W)


class Collector:
    """Collects batches of pictures (B, C, H, W) in [-1, 1], rounded to 8 bits as in a file, into a `PictureSet`."""

    def __init__(self, num_images: int, extractor: Extractor | None) -> None:
        self.kept = evenly(num_images, SLICED_PICTURES)  # not the first ones: folders are often sorted by kind
        self.extractor = extractor
        self.features: list[Tensor] = []
        self.small: list[Tensor] = []
        self.pictures: list[Tensor] = []
        self.spectrum = self.laplacian = torch.zeros((), dtype=torch.float64)
        self.num_images = 0

    def add(self, x: Tensor) -> None:
        """Take in one more batch. Raises `ValueError` for pixels that are not finite: 8 bits would hide them."""
        if not x.isfinite().all():
            raise ValueError("the pictures are not finite; the training diverged: go back to an earlier checkpoint")
        pixels = to_uint8(x.float().cpu())
        places = np.arange(self.num_images, self.num_images + len(x))
        x = to_float(pixels)
        if self.extractor is not None:
            self.features.append(self.extractor(x))
        self.small.append(small(x))
        self.spectrum = self.spectrum + len(x) * power_spectrum(x).double()
        self.laplacian = self.laplacian + laplacian_energy(x).double().sum()
        self.pictures.append(pixels[self.kept[np.isin(self.kept, places)] - self.num_images])
        self.num_images += len(x)

    def result(self) -> PictureSet:
        """What was collected."""
        features = torch.cat(self.features) if self.features else None
        energy = self.laplacian.item() / self.num_images
        spectrum = self.spectrum / self.num_images
        return PictureSet(features, torch.cat(self.small), spectrum, energy, torch.cat(self.pictures))


def collect(batches: Iterable[Tensor], num_images: int, extractor: Extractor | None) -> PictureSet:
    """The `PictureSet` of all the batches, which hold `num_images` pictures."""
    collector = Collector(num_images, extractor)
    for x in batches:
        collector.add(x)
    return collector.result()


def compare_sets(
    real: PictureSet, fake: PictureSet, extractor: Extractor | None, seed: int = 0
) -> tuple[dict[str, float], dict[str, str]]:
    """How far `fake` is from `real`: the measures by name, and why those that are missing are.

    - `laplacian_ratio`: mean Laplacian energy over that of the real pictures; `spectrum_db`: as in `pictures`;
    - `sliced_wasserstein`: mean over the levels, x 1000 (see `distances.sliced_wasserstein`), of at most 512 pictures;
    - in the features of the extractor: its Frechet distance (`fid`, or `fd_effnet`, which is no FID), its kernel
      distance x 1000 (`kid`, `kd_effnet`), its sliced one (`mind`, `sd_effnet`), `precision`, `recall`, `density`,
      `coverage`.
    """
    measured = {
        "laplacian_ratio": fake.laplacian_energy / real.laplacian_energy if real.laplacian_energy else math.nan,
        "spectrum_db": spectrum_db(real.spectrum, fake.spectrum),
    }
    measures: dict[str, Callable[[], dict[str, float]]] = {
        "sliced_wasserstein": lambda: {
            "sliced_wasserstein": sliced_wasserstein(to_float(real.pictures), to_float(fake.pictures), seed)["mean"]
        }
    }
    if extractor is not None and real.features is not None and fake.features is not None:
        x, y = real.features, fake.features
        frechet, kernel, sliced = measure_names(extractor)
        measures |= {
            frechet: lambda: {frechet: frechet_distance(x, y)},
            kernel: lambda: {kernel: THOUSANDTHS * kernel_distance(x, y, seed=seed)[0]},
            sliced: lambda: {sliced: sliced_feature_distance(x, y, seed=seed)},
            "precision, recall, density, coverage": lambda: precision_recall_density_coverage(x, y),
        }
    missing: dict[str, str] = {}
    for name, measure in measures.items():
        try:
            measured |= measure()
        except ValueError as error:  # too few pictures for this one
            missing[name] = str(error)
    return measured, missing


def measure_names(extractor: Extractor) -> tuple[str, str, str]:
    """Keys of the Frechet, kernel and sliced distances in these features: `fid`, `kid`, `mind`, or with its name."""
    names = extractor.distance_name, extractor.kernel_name, extractor.sliced_name
    frechet, kernel, sliced = (name.lower().replace("-", "_") for name in names)
    return frechet, kernel, sliced
