"""From what a user gives to a source of pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from vaekit.data.sources import arrays, datasets, listed, shards
from vaekit.data.sources.arrays import FROM_PYTHON
from vaekit.data.sources.base import Listing, Raw, Source
from vaekit.data.sources.folder import ELPV, Folder, solar_cells

Pictures: TypeAlias = Any  # a path or an address; or from Python an array, a tensor, a data set, or a `Source`


def source_of(pictures: Pictures) -> Source:
    """The source that is meant by a path, an address, or pictures from Python.

    - a folder; a list of files (.txt); an array (.npy, .npz); tar shards (photos-*.tar, photos-{000..012}.tar, a folder
      of them, s3://... or https://...); a data set of the Hub (hf://user/name#split) or one saved on this machine;
    - `elpv`, the solar cells of PyPI's elpv-dataset, where no folder of that name is in the current directory;
    - an array or a tensor of N pictures; a data set of torch or of Hugging Face; a pair of pictures and their classes.

    Raises `ValueError` for anything else; whether a folder is there is seen when it is listed.
    """
    if isinstance(pictures, str | os.PathLike):
        return named(os.fspath(pictures))
    if all(hasattr(pictures, name) for name in ("list_pictures", "read", "place")):
        return pictures
    images, labels = pictures if isinstance(pictures, tuple) and len(pictures) == 2 else (pictures, None)
    if hasattr(images, "detach"):  # a tensor, (N, C, H, W) as torch has them
        values = images.detach().cpu().numpy()
        return arrays.array_source(values, labels, bands_first=values.ndim == 4)
    if isinstance(images, np.ndarray):
        return arrays.array_source(images, labels)
    if hasattr(pictures, "__getitem__") and not isinstance(pictures, tuple | dict):
        return datasets.dataset_source(pictures)
    raise ValueError(f"pictures as {type(pictures).__name__}; give a path, an array, a tensor or a data set")


def named(place: str) -> Source:
    """The source that a path or an address names."""
    if place.startswith(FROM_PYTHON):
        return GivenBefore(place)
    if place == ELPV and not Path(ELPV).is_dir():
        return Folder(solar_cells().resolve())
    if place.startswith(datasets.HUB):
        return datasets.from_hub(place)
    if shards.names_shards(place):
        return shards.Shards(place if shards.is_address(place) else str(Path(place).expanduser().absolute()))
    if shards.is_address(place):
        raise ValueError(f"{place}: of other machines, tar shards are read (.tar), and data sets of the Hub (hf://)")
    path = Path(place.partition("#")[0] if "#" in place and not Path(place).exists() else place).expanduser()
    if path.is_file():
        return of_file(path)
    if shards.holds_shards(path):
        return shards.Shards(str(path.resolve()))
    if datasets.names_hub(str(path)):
        return datasets.from_hub(place)
    return Folder(path.resolve())


def of_file(path: Path) -> Source:
    """The source that a file is. Raises `ValueError` for a file that is none."""
    suffix = path.suffix.lower()
    if suffix in arrays.SUFFIXES:
        return arrays.array_file(path)
    if suffix in listed.SUFFIXES:
        return listed.ListFile(path.resolve())
    raise ValueError(
        f"{path} is a file; give the folder that holds the pictures, or a list (.txt), an array (.npy, .npz) or shards "
        "(.tar)"
    )


@dataclass(frozen=True)
class GivenBefore:
    """Pictures that were given from Python, by their digest: they are in the cache, or have to be given again."""

    place: str
    title: str = "pictures"
    folder: Path = Path(FROM_PYTHON)

    def list_pictures(self) -> Listing:
        """No names, but what they are known by, which is how their entry in the cache is found."""
        return Listing((), self.place.removeprefix(FROM_PYTHON))

    def read(self, name: str) -> Raw:
        """Raises `ValueError`: they are in the cache or nowhere."""
        raise ValueError("these pictures were given from Python; give them again")
