"""From what a user gives to a source of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
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
    if all(hasattr(type(pictures), name) for name in ("list_pictures", "read")):
        return pictures
    images, labels = pictures if isinstance(pictures, tuple) and len(pictures) == 2 else (pictures, None)
    if hasattr(images, "detach"):  # a tensor, (N, C, H, W) as torch has them
        return from_python(lambda: arrays.array_source(datasets.plain(images), labels, bands_first=images.ndim == 4))
    if isinstance(images, np.ndarray):
        return from_python(lambda: arrays.array_source(images, labels))
    if hasattr(pictures, "__getitem__") and not isinstance(pictures, tuple | dict):
        return from_python(lambda: datasets.dataset_source(pictures))
    raise ValueError(f"pictures as {type(pictures).__name__}; give a path, an array, a tensor or a data set")


def named(place: str) -> Source:
    """The source that a path or an address names."""
    if place.startswith(FROM_PYTHON):
        return GivenBefore(place)
    if place == ELPV and not Path(ELPV).is_dir():
        return Folder(solar_cells().resolve(), called=ELPV)
    if place.startswith(datasets.HUB):
        return data_set(place)
    if shards.names_shards(place):
        return shards.Shards(place if shards.is_address(place) else str(Path(place).expanduser().absolute()))
    if shards.is_address(place):
        raise ValueError(f"{place}: of other machines, tar shards are read (.tar), and data sets of the Hub (hf://)")
    path = Path(place).expanduser()
    if path.is_file():
        return of_file(path)
    before, split = datasets.parted(str(path))
    if split and datasets.names_hub(before):
        return data_set(f"{Path(before).resolve()}#{split}")
    if shards.holds_shards(path):
        return shards.Shards(str(path.resolve()))
    if datasets.names_hub(str(path)):
        return data_set(str(path.resolve()))
    return Folder(path.resolve())


def from_python(make: Callable[[], Source]) -> Later:
    """A source of pictures that were given from Python."""
    return Later("pictures", Path(FROM_PYTHON), make)


def data_set(place: str) -> Later:
    """A source of a data set, by its place."""
    return Later(datasets.title_of(place), Path(datasets.parted(place)[0]), lambda: datasets.from_hub(place))


def of_file(path: Path) -> Source:
    """The source that a file is. Raises `ValueError` for a file that is none."""
    suffix = path.suffix.lower()
    if suffix in arrays.SUFFIXES:
        return Later(path.stem, path.resolve().parent, lambda: arrays.array_file(path))
    if suffix in listed.SUFFIXES:
        return listed.ListFile(path.resolve())
    raise ValueError(
        f"{path} is a file; give the folder that holds the pictures, or a list (.txt), an array (.npy, .npz) or shards "
        "(.tar)"
    )


@dataclass(frozen=True, eq=False)
class Later:
    """A source that is made when it is listed: to fetch or to read it all takes a while, and one process is enough."""

    title: str
    folder: Path
    make: Callable[[], Source] = field(repr=False)

    @cached_property
    def made(self) -> Source:
        """The source itself."""
        return self.make()

    @property
    def place(self) -> str:
        """That of the source itself."""
        return self.made.place

    def list_pictures(self) -> Listing:
        """What is there now."""
        return self.made.list_pictures()

    def read(self, name: str) -> Raw:
        """One picture by its name."""
        return self.made.read(name)


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
