"""Pictures one by one, for a model that is there: from a file to what it takes, and back into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vaekit.data.building import decoding_threads, map_in_order
from vaekit.data.decoding import UnreadablePicture, decode
from vaekit.data.pixels import to_float, to_uint8
from vaekit.data.sources.folder import find_pictures
from vaekit.data.view import View
from vaekit.system.files import replacing
from vaekit.system.processors import processors

READ_AT_ONCE = 50  # pictures
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}

Refuse = Callable[[UnreadablePicture], object]


def picture_files(paths: Sequence[str | Path]) -> dict[str, Path]:
    """The pictures that are meant by files and folders, by name: in a folder relative to it, else as they are given.

    Raises `ValueError` for what is not there, a folder without pictures, and two pictures of one name.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        files = find_pictures(path).pictures if path.is_dir() or not path.exists() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else path.name
            if found.setdefault(name, file) != file:
                raise ValueError(
                    f"two pictures are called {name}: {found[name]} and {file}; give them one after another"
                )
    return found


def read_batches(files: dict[str, Path], view: View, refuse: Refuse) -> Iterator[tuple[list[str], Tensor]]:
    """Names and pictures (B, C, H, W) in [-1, 1] as in `view`, some at a time; those that cannot be read are told.

    Raises `ValueError` if none of them can be read.
    """

    def read(item: tuple[str, Path]) -> tuple[str, np.ndarray | UnreadablePicture]:
        try:
            return item[0], decode(item[1].read_bytes(), item[1], view)
        except UnreadablePicture as error:
            return item[0], error

    names: list[str] = []
    pixels: list[np.ndarray] = []
    num_read = 0
    workers = processors()
    with decoding_threads(workers) as pool:
        for name, picture in map_in_order(pool, read, files.items(), ahead=4 * workers):
            if isinstance(picture, UnreadablePicture):
                refuse(picture)
                continue
            names.append(name)
            pixels.append(picture)
            num_read += 1
            if len(names) == READ_AT_ONCE:
                yield names, as_tensor(pixels)
                names, pixels = [], []
    if names:
        yield names, as_tensor(pixels)
    if not num_read:
        raise ValueError(f"none of the {len(files):,} pictures can be read")


def as_tensor(pixels: Iterable[np.ndarray]) -> Tensor:
    """Stored pixels (C, H, W) each -> (B, C, H, W) in [-1, 1]."""
    return to_float(torch.from_numpy(np.stack([*pixels])))


def save_picture(x: Tensor, path: str | Path) -> Path:
    """Write a picture (C, H, W) or (1, C, H, W) in [-1, 1], rounded to 8 bits, in the format that its name says.

    Raises `ValueError` for another shape, pixels that are not finite, and a format that is not written.
    """
    path = Path(path)
    picture = x[0] if x.ndim == 4 and len(x) == 1 else x
    if picture.ndim != 3 or picture.shape[0] not in (1, 3):
        raise ValueError(f"a picture of shape {tuple(x.shape)}; give (C, H, W) or (1, C, H, W), C of 1 or 3")
    if not picture.isfinite().all():
        raise ValueError("the picture is not finite; look for NaN in the latents or the network that drew it")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    pixels = to_uint8(picture.detach().cpu()).permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image.save(unfinished, format=FORMATS[path.suffix.lower()])
    return path
