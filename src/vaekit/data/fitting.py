"""From the shape of a picture to the shape asked for: cropped to the middle, with black bars, or stretched."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from vaekit.data.view import OWN, View

TORCH_HAS_LANCZOS = hasattr(torch.ops.aten, "_upsample_lanczos2d_aa")  # from 2.12 on
TORCH_FILTER = "lanczos" if TORCH_HAS_LANCZOS else "bicubic"  # for numbers that Pillow does not resize


def box_of(picture_width: int, picture_height: int, view: View) -> tuple[int, int, int, int]:
    """The edges left, top, right and bottom of the part of a picture that is shown."""
    if view.fit != "crop":
        return 0, 0, picture_width, picture_height
    return middle(picture_width, picture_height, view.height, view.width)


def middle(picture_width: int, picture_height: int, height: int, width: int) -> tuple[int, int, int, int]:
    """The edges left, top, right and bottom of the largest centred crop of the shape height : width."""
    crop_width = max(1, min(picture_width, round(picture_height * width / height)))
    crop_height = max(1, min(picture_height, round(picture_width * height / width)))
    left, top = (picture_width - crop_width) // 2, (picture_height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def inner_size(picture_width: int, picture_height: int, view: View) -> tuple[int, int]:
    """Height and width of a picture without its bars."""
    if view.fit == OWN:
        scale = max(1.0, view.height / picture_height, view.width / picture_width)
        return round(scale * picture_height), round(scale * picture_width)
    if view.fit != "pad":
        return view.height, view.width
    scale = min(view.height / picture_height, view.width / picture_width)
    return max(1, round(picture_height * scale)), max(1, round(picture_width * scale))


def framed(pixels: np.ndarray, view: View) -> np.ndarray:
    """Pixels (C, h, w) in the middle of a black picture (C, height, width); as they are where they fill it."""
    h, w = pixels.shape[1:]
    if view.fit == OWN or (h, w) == (view.height, view.width):
        return np.ascontiguousarray(pixels)
    canvas = np.zeros((len(pixels), view.height, view.width), pixels.dtype)
    top, left = (view.height - h) // 2, (view.width - w) // 2
    canvas[:, top : top + h, left : left + w] = pixels
    return canvas


def cut_and_resize(picture: Image.Image, box: list[float], height: int, width: int) -> Image.Image:
    """The part of a picture within a box, resized with Lanczos' filter."""
    # The crop is a step of its own: with `resize(box=...)` on the whole picture, the filter would read beyond the box.
    # Within the crop the box cuts off fractions of pixels, which occur where a JPEG was decoded at a reduced size.
    left, top = math.floor(box[0]), math.floor(box[1])
    outer = (left, top, math.ceil(box[2]), math.ceil(box[3]))
    crop = picture if outer == (0, 0, *picture.size) else picture.crop(outer)
    inner = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    if TORCH_HAS_LANCZOS and all(edge % 1 == 0 for edge in box):
        return lanczos(crop, height, width)
    return crop.resize((width, height), Image.Resampling.LANCZOS, box=inner)


def lanczos(picture: Image.Image, height: int, width: int) -> Image.Image:
    """What Pillow's `resize` gives, but for the rounding, 4 to 8 times as fast."""
    pixels = torch.from_numpy(np.array(picture).reshape(picture.height, picture.width, -1))
    resized = functional.interpolate(pixels.permute(2, 0, 1)[None], (height, width), mode="lanczos", antialias=True)
    bands = resized[0].permute(1, 2, 0).contiguous().numpy()
    return Image.frombytes(picture.mode, (width, height), bands.tobytes())  # `fromarray` takes four bands for RGBA
