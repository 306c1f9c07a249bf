"""Pictures in one array, from a file of NumPy or from Python, as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vaekit.data.bands import MOST_BANDS
from vaekit.data.sources.base import Listing, numbered
from vaekit.system.files import in_one_line, printable

SUFFIXES = (".npy", ".npz")
PICTURES = ("images", "pictures", "x", "x_train", "data", "arr_0")  # names in a .npz, the first one there
LABELS = ("labels", "label", "y", "y_train", "targets", "arr_1")
MOST_COLOURS = 4  # with alpha
FROM_PYTHON = "python:"  # before the digest of pictures that were given from Python


@dataclass(frozen=True)
class ArraySource:
    """N pictures (N, H, W), (N, H, W, C) or (N, C, H, W), in memory or mapped, perhaps with a class of each.

    Of the axes the bands are the last one, or the second if `bands_first`; see `array_source`.
    """

    place: str
    title: str
    folder: Path
    images: np.ndarray = field(repr=False, compare=False)
    bands_first: bool
    identity: Any
    classes: tuple[str, ...] = ()

    def list_pictures(self) -> Listing:
        """Names are numbers in the order of the array, in folders of their classes where there are some."""
        return Listing(numbered(len(self.images), self.classes), self.identity)

    def read(self, name: str) -> np.ndarray:
        """One picture (H, W) or (H, W, C)."""
        image = np.asarray(self.images[int(name.rpartition("/")[2])])
        return np.moveaxis(image, 0, 2) if self.bands_first and image.ndim == 3 else image


def array_file(path: Path) -> ArraySource:
    """The pictures in a .npy, mapped and not read, or a .npz with an array of pictures and perhaps one of labels.

    Raises `ValueError` for a file that holds no such array.
    """
    labels = None
    if path.suffix.lower() == ".npz":
        loaded, labels = unpacked(path)
    else:
        with one_line(f"{path} holds no array of pictures"):
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if loaded.dtype.kind not in "uifb":
        raise ValueError(f"{path} holds an array of {loaded.dtype}; pictures are numbers")
    status = path.stat()
    identity = [path.name, status.st_size, status.st_mtime_ns]
    place = str(path.resolve())
    return array_source(loaded, labels, place, path.stem, path.resolve().parent, identity)


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Make a `ValueError` of one line of whatever NumPy raises: headers are Python's own syntax, and .npz archives."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {in_one_line(error)}") from error


def unpacked(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The pictures in a .npz, and their classes if they are there. Raises `ValueError` if there are none."""
    with one_line(f"{path} is damaged"), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        found = {name: archive[name] for name in (first(PICTURES, archive), first(LABELS, archive)) if name is not None}
        names = archive.files
    name = first(PICTURES, found)
    if name is None:
        there = printable(", ".join(names)) or "nothing"
        raise ValueError(f"{path} holds {there}; the array of pictures is called images or x")
    return found[name], next((found[by] for by in LABELS if by in found), None)


def first(names: Sequence[str], there: Iterable[str]) -> str | None:
    """The first of some names that is there."""
    present = set(there)
    return next((name for name in names if name in present), None)


def array_source(
    images: np.ndarray,
    labels: Any = None,
    place: str | None = None,
    title: str = "pictures",
    folder: Path | None = None,
    identity: Any = None,
    bands_first: bool | None = None,
) -> ArraySource:
    """A source of the pictures in an array; from Python, they are known by a digest of their bytes.

    The bands are the second axis if that is short, and shorter than the last; else the last. `bands_first` says it.
    Raises `ValueError` for an array of another shape, and for labels of another number.
    """
    if images.ndim not in (3, 4) or not images.size:
        raise ValueError(f"pictures of shape {images.shape}; give (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if images.ndim == 3 and images.shape[2] <= MOST_COLOURS < images.shape[1]:
        raise ValueError(f"an array of shape {images.shape} looks like one picture; give (N, H, W, C)")
    if bands_first is None:
        bands_first = images.ndim == 4 and images.shape[1] <= MOST_BANDS and images.shape[1] < images.shape[3]
    classes: tuple[str, ...] = ()
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(images),):
            raise ValueError(f"labels of shape {labels.shape} for {len(images):,} pictures; give one for each")
        classes = tuple(clean(each) for each in labels.tolist())
    if identity is None:
        digest = hashlib.blake2b(repr((images.shape, str(images.dtype), bands_first, classes)).encode(), digest_size=16)
        for part in images:
            digest.update(np.ascontiguousarray(part).data)
        identity = digest.hexdigest()
    return ArraySource(
        place=place or f"{FROM_PYTHON}{identity}",
        title=title,
        folder=folder or Path(FROM_PYTHON),
        images=images,
        bands_first=bands_first,
        identity=identity,
        classes=classes,
    )


def clean(label: Any) -> str:
    """The name of a class as that of a folder."""
    text = str(label).strip()
    name = "".join("_" if each in "/\\" or not each.isprintable() else each for each in text)
    return "_" if name in ("", ".", "..") else name
