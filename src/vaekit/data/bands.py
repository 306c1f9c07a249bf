"""Pictures as numbers: any number of bands, more than 8 bits, floats. Letters: H x W pixels of S bands."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from vaekit.data import tiff
from vaekit.data.budget import BUDGET, BYTES_A_SAMPLE, check_size
from vaekit.data.fitting import TORCH_FILTER, box_of, framed, inner_size
from vaekit.data.formats import readable_formats
from vaekit.data.view import View
from vaekit.system.files import in_one_line

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
NUMPY, DICOM = "a NumPy array", "a DICOM file"  # as `magic.kind_of` calls them
MOST_BANDS = 16  # where it is not said which of the axes are the bands
MAYBE_DEEP = ("PPM", "JPEG2000", "AVIF", "HEIF", "JXL")  # whose colours Pillow gives in 8 bits, whatever they have
TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {  # by EXIF's number of what is done to bring it upright
    2: np.fliplr,
    3: lambda values: np.rot90(values, 2),
    4: np.flipud,
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values, 2).swapaxes(0, 1),
    8: np.rot90,
}
FEWEST_SIDE = 8  # pixels: a smaller array is no picture
CONVERTED = (tiff.PALETTE, tiff.CMYK, tiff.YCBCR, tiff.LAB)  # TIFFs whose numbers are no brightness of a colour


class NoPicture(ValueError):
    """Numbers that cannot be brought to what is asked for; the message says why."""


def brought(values: np.ndarray, view: View) -> np.ndarray:
    """Pixels (H, W) or (H, W, S) as a view wants them: (channels, height, width), uint8 or uint16.

    Bands are resized one by one, in float32, with the same Lanczos filter as pictures. Grey becomes RGB and RGB grey;
    a fourth band beside RGB is taken for alpha, and shows white. Raises `NoPicture` for other numbers of bands, and for
    values whose range is not known.
    """
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        raise NoPicture(f"an array of shape {values.shape}; a picture has (height, width) or (height, width, bands)")
    unit = of_channels(in_unit_range(values, view.levels), view.channels)
    size = unit.shape[1], unit.shape[0]
    height, width = inner_size(*size, view)
    left, top, right, bottom = box_of(*size, view)
    bands = torch.from_numpy(np.ascontiguousarray(unit[top:bottom, left:right])).permute(2, 0, 1)
    if bands.shape[1:] != (height, width):
        bands = functional.interpolate(bands[None], (height, width), mode=TORCH_FILTER, antialias=True)[0]
    white, kind = (255, np.uint8) if view.depth == 8 else (65535, np.uint16)
    pixels = (bands.clamp(0, 1).double() * white).round().numpy().astype(kind)
    return framed(pixels, view)


def in_unit_range(values: np.ndarray, levels: tuple[float, float] | None) -> np.ndarray:
    """Values from 0, black, to 1, white, float32. Raises `NoPicture` for those whose range is not known."""
    if values.dtype.kind not in "uifb":
        raise NoPicture(f"an array of {values.dtype}; a picture has numbers")
    if levels is not None:
        low, high = levels
        if not np.isfinite(values).all():
            raise NoPicture("some of its pixels are not finite")
        return ((values.astype(np.float64) - low) / (high - low)).clip(0, 1).astype(np.float32)
    if values.dtype.kind == "b":
        return values.astype(np.float32)
    kind: Any = values.dtype
    white = 1.0 if kind.kind == "f" else float(min(np.iinfo(kind).max, 65535) if kind.kind == "u" else 0)
    lowest, highest = values.min(), values.max()
    if not 0 <= lowest <= highest <= white:  # also refuses NaN
        known = f"only 0 to {white:g} can be read" if white else f"{kind} does not say which is white"
        raise NoPicture(f"its pixels run from {lowest} to {highest}, and {known}; give --levels BLACK WHITE")
    if not white:
        raise NoPicture(f"its pixels are {kind}, which does not say which is white; give --levels BLACK WHITE")
    return (values / white).astype(np.float32)


def of_channels(unit: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, S) in [0, 1] -> (H, W, channels). Raises `NoPicture` where that is not known."""
    bands = unit.shape[2]
    if bands == channels:
        return unit
    if channels in (1, 3) and bands in (2, 4):  # with alpha, upon white
        unit = unit[..., :-1] * unit[..., -1:] + 1 - unit[..., -1:]
        bands -= 1
    if (bands, channels) == (1, 3):
        return unit.repeat(3, axis=2)
    if (bands, channels) == (3, 1):
        return (unit @ np.array(LUMA, np.float32))[..., None]
    if bands == channels:
        return unit
    raise NoPicture(f"{bands} bands, where {channels} are asked for; give --channels {bands}")


def numbers_of(
    data: bytes, kind: str | None, as_stored: bool = False, deep: bool = False, colours: bool = False
) -> np.ndarray:
    """The numbers in a file (H, W) or (H, W, S), upright. Raises `NoPicture` for one that holds none.

    Those of a DICOM file from 0 to 1 as it says they are to be shown, unless `as_stored`. With `deep`, files whose
    values may have more than 8 bits that Pillow does not give are refused. With `colours`, numbers that stand for
    colours in another way than grey and RGB do (a palette, inks) are brought to RGB.
    """
    if data.startswith(tiff.STARTS):
        layout = tiff.layout_of(data)
        if not (colours and layout.space in CONVERTED):
            return tiff_numbers(data, layout)
        if not tiff.pillow_is_right(layout) or (deep and max(layout.bits) > 8):
            raise NoPicture(f"{layout}, whose numbers are no grey or RGB; convert it")
    if kind == NUMPY:
        return array_in(data)
    if kind == DICOM:
        return dicom_numbers(data, as_stored)
    with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
        check_size(*image.size)
        if deep and not image.mode.startswith(("I", "F")) and (png_depth(data) > 8 or kind in MAYBE_DEEP):
            raise NoPicture(
                f"a {kind} of colours that may have more than 8 bits, which are not read; convert it to TIFF"
            )
        with BUDGET.holding(BYTES_A_SAMPLE * image.width * image.height):
            turned = ImageOps.exif_transpose(image)
            if turned.mode in ("1", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa"):
                turned = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
            return np.asarray(turned)


def png_depth(data: bytes) -> int:
    """Bits of a sample of a PNG, 8 for other files."""
    return data[24] if data.startswith(b"\x89PNG") and len(data) > 24 else 8


def tiff_numbers(data: bytes, layout: tiff.Layout) -> np.ndarray:
    """The first series of a TIFF: its bands, or its pages of one size, as (H, W, S)."""
    try:
        import tifffile
    except ImportError as error:
        raise NoPicture('a TIFF of many bands or bits needs tifffile; run: pip install "vaekit[formats]"') from error
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series: Any = file.series[0]
            axes, shape = series.axes, tuple(series.shape)
            if "Y" not in axes or "X" not in axes or len(shape) > 3:
                raise NoPicture(f"a TIFF with the axes {axes} of shape {shape}; pictures have height, width and bands")
            height, width = shape[axes.index("Y")], shape[axes.index("X")]
            check_size(width, height, math.prod(shape) // max(1, width * height))
            with BUDGET.holding(BYTES_A_SAMPLE * math.prod(shape)):
                values = np.asarray(series.asarray())
    except ValueError:
        raise
    except Exception as error:  # of any kind: what damaged files do to it is not written down
        raise NoPicture(f"a TIFF that cannot be read: {error}") from error
    values = np.moveaxis(values, (axes.index("Y"), axes.index("X")), (0, 1))
    if layout.space == tiff.WHITE_IS_ZERO and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    return TURNS.get(layout.orientation, np.asarray)(values)


def dicom_numbers(data: bytes, as_stored: bool = False) -> np.ndarray:
    """The first frame of a DICOM file: (H, W) from 0 to 1 as its window shows it, or its whole range without one.

    `as_stored`: the numbers in their own units, Hounsfield's for CT.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, pixel_array
    except ImportError as error:
        raise NoPicture('a DICOM file, which needs pydicom; run: pip install "vaekit[formats]"') from error
    try:
        file: Any = pydicom.dcmread(io.BytesIO(data))
        check_size(int(file.Columns), int(file.Rows))
        with BUDGET.holding(BYTES_A_SAMPLE * int(file.Columns) * int(file.Rows) * int(file.SamplesPerPixel)):
            values = np.asarray(pixel_array(file, index=0))
        if int(file.SamplesPerPixel) > 1:
            return values
        bits, signed = int(file.BitsStored), int(file.PixelRepresentation) == 1
        stored = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], np.float64)
        values = np.asarray(apply_modality_lut(values, file), np.float32)
        if as_stored:
            return values
        if "WindowCenter" in file and "WindowWidth" in file:  # the first of them; DICOM PS3.3, C.11.2.1.2
            center, width = (float(np.ravel(file[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
            low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        elif "ModalityLUTSequence" in file:
            low, high = float(values.min()), float(values.max())
        else:
            slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
            low, high = sorted((stored * slope + intercept).tolist())
        unit = ((values - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)
        return 1 - unit if file.PhotometricInterpretation == "MONOCHROME1" else unit
    except NoPicture:
        raise
    except Exception as error:  # of any kind: what damaged files do to it is not written down
        raise NoPicture(f"a DICOM file that cannot be read: {error}") from error


def header_of(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type that the header of a .npy file says. Raises `NoPicture` for what is none."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, kind = read(file)
    except Exception as error:  # the header is Python's own syntax
        raise NoPicture(f"a damaged NumPy array: {in_one_line(error)}") from error
    if kind.kind not in "uifb" or not all(isinstance(side, int) and side > 0 for side in shape):
        raise NoPicture(f"a NumPy array of {kind} and shape {shape}, which is no picture")
    return shape, by_columns, kind


def array_in(data: bytes) -> np.ndarray:
    """The array of a .npy file; nothing in it is run, and its header is not trusted with the memory it asks for."""
    file = io.BytesIO(data)
    shape, by_columns, kind = header_of(file)
    start = file.tell()
    if math.prod(shape) * kind.itemsize > len(data) - start:
        raise NoPicture(f"a NumPy array of shape {shape} that is cut short")
    values = np.frombuffer(data, kind, math.prod(shape), start)
    return values.reshape(shape, order="F" if by_columns else "C")


def is_picture(head: bytes) -> bool:
    """Whether a .npy file that begins so holds an array of the shape of a picture."""
    try:
        shape, _, _ = header_of(io.BytesIO(head))
    except NoPicture:
        return False
    if len(shape) not in (2, 3) or min(shape[:2]) < FEWEST_SIDE:
        return False
    return len(shape) == 2 or (shape[2] <= MOST_BANDS and shape[2] < min(shape[:2]))  # else a stack of pictures
