"""Data sets as a source: any with a length and items from Python (torchvision's, your own), and Hugging Face's."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vaekit.data.sources.arrays import FROM_PYTHON, clean
from vaekit.data.sources.base import Listing, Raw, numbered
from vaekit.data.sources.folder import holds_picture

HUB = "hf://"  # hf://user/name, with @revision and #split where they are not the usual ones
TRAIN = "train"  # the split that is taken if there are several
PICTURES = ("image", "img", "picture", "pixel_values", "images", "x", "jpg", "png", "webp")  # columns, first one there
LABELS = ("label", "labels", "class", "target", "y", "cls", "fine_label")
SAVED = ("dataset_info.json", "dataset_dict.json")  # in folders of `Dataset.save_to_disk`
READ_TWICE = 3  # pictures, to see whether they are the same each time


@dataclass(frozen=True)
class DatasetSource:
    """N pictures from `read_item(i)`, one at a time, with a class of each where the data set has them."""

    place: str
    title: str
    folder: Path
    read_item: Callable[[int], Raw] = field(repr=False, compare=False)
    num_images: int
    identity: Any
    classes: Sequence[str] = ()

    def list_pictures(self) -> Listing:
        """Names are numbers in the order of the data set, in folders of their classes where there are some."""
        return Listing(numbered(self.num_images, self.classes), self.identity)

    def read(self, name: str) -> Raw:
        """One picture."""
        return self.read_item(int(name.rpartition("/")[2]))


def dataset_source(dataset: Any) -> DatasetSource:
    """A source of the pictures of a data set from Python: with `len`, and items that are pictures, or begin with one.

    Items are pictures of Pillow, arrays (H, W, C), tensors (C, H, W), or pairs and mappings of a picture and a class.
    They are read once to be known again, and once to be prepared. Raises `ValueError` for other items, and for a data
    set that gives another picture each time.
    """
    if is_hugging_face(dataset):
        return hugging_face(dataset, f"{FROM_PYTHON}{dataset._fingerprint}", "pictures", Path(FROM_PYTHON))
    try:
        num_images = len(dataset)
    except TypeError as error:
        raise ValueError(
            f"a {type(dataset).__name__} has no length; give pictures that can be counted and asked for one by one"
        ) from error
    if not num_images:
        raise ValueError(f"a {type(dataset).__name__} without pictures")
    lock = threading.Lock()  # data sets need not be made for threads

    def read(i: int) -> Raw:
        with lock:
            return raw_of(dataset[i])

    digest, labels = hashlib.blake2b(digest_size=16), []
    for i in range(num_images):
        item = dataset[i]
        raw = raw_of(item)
        if i < READ_TWICE and digest_of(raw) != digest_of(raw_of(dataset[i])):
            raise ValueError(
                f"the {type(dataset).__name__} gives another picture each time it is asked; leave out its random "
                "transforms (training mirrors by itself, see --flip)"
            )
        digest.update(digest_of(raw))
        labels.append(label_of(item))
    names = getattr(dataset, "classes", None)
    classes = classes_of(labels, names if isinstance(names, list | tuple) else None)
    identity = digest.hexdigest()
    return DatasetSource(f"{FROM_PYTHON}{identity}", "pictures", Path(FROM_PYTHON), read, num_images, identity, classes)


def raw_of(item: Any) -> Raw:
    """The picture of an item of a data set. Raises `ValueError` for what is none."""
    if isinstance(item, tuple | list) and len(item):
        item = item[0]
    if isinstance(item, Mapping):
        if isinstance(item.get("bytes"), bytes):
            return item["bytes"]
        column = next((name for name in PICTURES if name in item), None)
        if column is None:
            raise ValueError(f"an item of {', '.join(map(str, item))}; the picture is called image, img or x")
        return raw_of(item[column])
    if isinstance(item, Image.Image):
        return encoded(item)
    if isinstance(item, bytes | np.ndarray):
        return item
    if hasattr(item, "detach"):  # a tensor, (C, H, W) as torch has them
        values = plain(item)
        return np.moveaxis(values, 0, 2) if values.ndim == 3 else values
    raise ValueError(f"an item of type {type(item).__name__}; give pictures of Pillow, arrays or tensors")


def plain(tensor: Any) -> np.ndarray:
    """A tensor as an array; NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()


def encoded(image: Image.Image) -> Raw:
    """A picture of Pillow as what `decode` takes: its pixels, or for its own colours and alpha a file in memory."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "HSV":
        image = image.convert("RGB")
    if image.mode in ("L", "RGB") and not image.info.get("icc_profile") and not image.has_transparency_data:
        return np.asarray(image)
    file = io.BytesIO()
    image.save(file, "TIFF" if image.mode in ("CMYK", "LAB", "F", "I", "YCbCr") else "PNG")
    return file.getvalue()


def label_of(item: Any) -> Any:
    """The class that an item names, a number or a word; None if it names none."""
    if isinstance(item, Mapping):
        item = next((item[name] for name in LABELS if name in item), None)
    elif isinstance(item, tuple | list):
        item = item[1] if len(item) == 2 else None
    else:
        return None
    value = item.item() if hasattr(item, "item") and math.prod(getattr(item, "shape", ())) == 1 else item
    return value if isinstance(value, int | str) else None


def classes_of(labels: Sequence[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    """The class of each picture by its name; nothing if some have none, or nearly each has its own."""
    if any(label is None for label in labels) or not 2 <= len(set(labels)) <= len(labels) / 2:
        return ()
    if names is not None and all(isinstance(label, int) and 0 <= label < len(names) for label in labels):
        return tuple(clean(names[label]) for label in labels)
    return tuple(map(clean, labels))


def digest_of(raw: Raw) -> bytes:
    """What a picture is known by."""
    if isinstance(raw, bytes):
        return hashlib.blake2b(raw, digest_size=16).digest()
    about = hashlib.blake2b(repr((raw.shape, str(raw.dtype))).encode(), digest_size=16)
    about.update(np.ascontiguousarray(raw).data)
    return about.digest()


def is_hugging_face(dataset: Any) -> bool:
    """Whether this is a data set of the library `datasets`, with columns."""
    return hasattr(dataset, "_fingerprint") and hasattr(dataset, "features") and hasattr(dataset, "cast_column")


def names_hub(place: str) -> bool:
    """Whether a place names a data set of the Hub, or one on this machine in its formats."""
    folder = Path(place)
    if place.startswith(HUB):
        return True
    tables = folder.is_dir() and (any((folder / name).is_file() for name in SAVED) or any(parquet_in(folder)))
    return tables and not holds_picture(folder)


def parquet_in(folder: Path) -> list[Path]:
    """Tables of Parquet in a folder or its `data`."""
    return [*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]


def from_hub(place: str) -> DatasetSource:
    """The pictures of a data set by its name, `hf://user/name@revision#split`, or in a folder of this machine.

    Raises `ValueError` if it is not there, cannot be reached, or has no column of pictures.
    """
    try:
        with without_telemetry():
            import datasets
    except ImportError as error:
        raise ValueError(f'{place} needs the package datasets; run: pip install "vaekit[hub]"') from error
    name, split = parted(place)
    name, _, revision = name.removeprefix(HUB).partition("@") if place.startswith(HUB) else (name, "", "")
    try:
        if not place.startswith(HUB) and any((Path(name) / saved).is_file() for saved in SAVED):
            loaded: Any = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, revision=revision or None)
    except Exception as error:  # of many kinds, from the network, the disk and the formats
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read the data set {place}: {reason}") from error
    if isinstance(loaded, Mapping):
        wanted = split or (TRAIN if TRAIN in loaded else next(iter(loaded), ""))
        if wanted not in loaded:
            raise ValueError(f"{place}: no split {wanted!r}; it has {', '.join(loaded)}")
        loaded = loaded[wanted]
    elif split:
        raise ValueError(f"{place}: no split {split!r}; it has none")
    return hugging_face(loaded, place, title_of(place), Path(name))


def parted(place: str) -> tuple[str, str]:
    """A place and the split that is named after it, if any; a folder whose name has the mark has none."""
    if Path(place).exists():
        return place, ""
    name, _, split = place.partition("#")
    return name, split


def title_of(place: str) -> str:
    """The last part of the name of a data set."""
    return re.sub(r".*/|@.*", "", parted(place)[0].rstrip("/"))


def hugging_face(dataset: Any, place: str, title: str, folder: Path) -> DatasetSource:
    """A source of a data set with columns: the files of its pictures as they are, and its classes.

    Raises `ValueError` without a column of pictures.
    """
    import datasets

    known_by = dataset._fingerprint  # that of its pictures, before it is looked at in another way
    dataset = dataset.with_format(None)  # which gives plain values, whatever its user works with
    kinds = dict(dataset.features)
    column = next((name for name, kind in kinds.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise ValueError(f"{place} has no column of pictures; its columns are {', '.join(kinds)}")
    label = next((name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)), None)
    classes: tuple[str, ...] = ()
    if label is not None:
        numbers = dataset[label][:]
        classes = classes_of(numbers, kinds[label].names)
    files = dataset.cast_column(column, datasets.Image(decode=False)).select_columns([column])

    def read(i: int) -> Raw:
        cell = files[i][column]
        if cell is None:
            raise ValueError("no picture in this row")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    return DatasetSource(place, title, folder, read, len(dataset), known_by, classes)


@contextmanager
def without_telemetry() -> Any:
    """The library counts its uses over the network, unless it is told not to when it is loaded."""
    before = os.environ.get("HF_HUB_DISABLE_TELEMETRY")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_DISABLE_TELEMETRY"]
