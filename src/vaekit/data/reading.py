"""Pictures one by one, for a model that is there: from a file to what it takes, and back into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vaekit.data.bands import is_picture
from vaekit.data.building import decoding_threads, map_in_order
from vaekit.data.decoding import UnreadablePicture, decode
from vaekit.data.magic import HEAD_BYTES
from vaekit.data.pixels import to_float, to_uint8
from vaekit.data.sources.base import Source
from vaekit.data.sources.folder import Folder
from vaekit.data.sources.listed import SUFFIXES as LISTS
from vaekit.data.sources.naming import source_of
from vaekit.data.view import USUAL_CHANNELS, View
from vaekit.system.files import replacing
from vaekit.system.processors import processors

READ_AT_ONCE = 50  # pictures
ARRAY = ".npy"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}

Refuse = Callable[[UnreadablePicture], object]


Known = tuple[Source, str]  # a source, and the name of one of its pictures


def known_pictures(given: Sequence[str | Path]) -> dict[str, Known]:
    """The pictures that are meant by files and sources, by name: in a source its own, else that of the file.

    Raises `ValueError` for what is not there, a source without pictures, and two pictures of one name.
    """
    found: dict[str, Known] = {}
    for one in given:
        path = Path(one)
        if path.is_file() and not names_many(path):
            source: Source = Folder(path.parent)
            names: Sequence[str] = [path.name]
        else:
            source = source_of(one)
            names = source.list_pictures().names
        for name in names:
            before, _ = found.setdefault(name, (source, name))
            if before.folder != source.folder or before.place != source.place:
                raise ValueError(
                    f"two pictures are called {name}: in {before.place} and in {source.place}; give them one after "
                    "another"
                )
    return found


def names_many(path: Path) -> bool:
    """Whether a file is a source of several pictures, and not one of them."""
    if path.suffix.lower() != ".npy":
        return path.suffix.lower() in (".npz", ".tar", *LISTS)
    with path.open("rb") as file:
        return not is_picture(file.read(HEAD_BYTES))


def read_batches(
    pictures: Mapping[str, Known], view: View, refuse: Refuse, at_once: int = READ_AT_ONCE
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and pictures (B, C, H, W) in [-1, 1] as in `view`, some at a time; those that cannot be read are told.

    Raises `ValueError` if none of them can be read.
    """

    def read(item: tuple[str, Known]) -> tuple[str, np.ndarray | UnreadablePicture]:
        name, (source, own) = item
        path = source.folder / own
        try:
            return name, decode(source.read(own), path, view)
        except UnreadablePicture as error:
            return name, error
        except ValueError as error:  # of a source whose file is damaged
            return name, UnreadablePicture(path, str(error))

    names: list[str] = []
    pixels: list[np.ndarray] = []
    num_read = 0
    workers = processors()
    with decoding_threads(workers) as pool:
        for name, picture in map_in_order(pool, read, pictures.items(), ahead=4 * workers):
            if isinstance(picture, UnreadablePicture):
                refuse(picture)
                continue
            names.append(name)
            pixels.append(picture)
            num_read += 1
            if len(names) == at_once:
                yield names, as_tensor(pixels)
                names, pixels = [], []
    if names:
        yield names, as_tensor(pixels)
    if not num_read:
        raise ValueError(f"none of the {len(pictures):,} pictures can be read")


def as_tensor(pixels: Iterable[np.ndarray]) -> Tensor:
    """Stored pixels (C, H, W) each -> (B, C, H, W) in [-1, 1]."""
    return to_float(torch.from_numpy(np.stack([*pixels])))


def suffix_for(channels: int) -> str:
    """The suffix of files for pictures of so many channels: PNG for grey and colour, arrays for others."""
    return ".png" if channels in USUAL_CHANNELS else ARRAY


def save_picture(x: Tensor, path: str | Path) -> Path:
    """Write a picture (C, H, W) or (1, C, H, W) in [-1, 1], in the format that its name says.

    Grey and colour are rounded to 8 bits; a .npy takes any C, as float32 (H, W, C) from 0 to 1. Raises `ValueError` for
    another shape, pixels that are not finite, and a format that is not written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    picture = x[0] if x.ndim == 4 and len(x) == 1 else x
    if picture.ndim != 3 or (picture.shape[0] not in USUAL_CHANNELS and suffix != ARRAY):
        raise ValueError(
            f"a picture of shape {tuple(x.shape)}; give (C, H, W) or (1, C, H, W), C of 1 or 3, or a .npy for any C"
        )
    if not picture.isfinite().all():
        raise ValueError("the picture is not finite; look for NaN in the latents or the network that drew it")
    if suffix not in (*FORMATS, ARRAY):
        raise ValueError(f"{path}: pictures are written as {', '.join((*FORMATS, ARRAY))}")
    values = picture.detach().float().cpu()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as unfinished, unfinished.open("wb") as file:
        if suffix == ARRAY:
            np.save(file, ((values.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy())
        else:
            pixels = to_uint8(values).permute(1, 2, 0).numpy()
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, format=FORMATS[suffix])
    return path
