"""One file to pixels: upright, cropped to the middle, resized, 8 bits."""

import io
import math
import struct
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag
from torch.nn import functional

from vaekit.data import tiff
from vaekit.data.budget import Budget
from vaekit.data.colour import Meaning, meaning_from, meaning_of
from vaekit.data.formats import readable_formats
from vaekit.data.magic import HEAD_BYTES, why_not_read
from vaekit.system.files import printable

# What Pillow lets out on broken data: 100,000 damaged files gave the first five, its source has the others.
DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    Image.DecompressionBombError,
    EOFError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    ImageCms.PyCMSError,
    struct.error,
)
MOST_PIXELS = 2 * 89_478_485  # twice a quarter of a gigabyte of RGB: what Pillow's own limit is by default
BYTES_A_PIXEL = 14  # that Pillow takes while it decodes, at most for most files: measured for RGBA
BYTES_A_SAMPLE = 20  # that a TIFF takes here: measured for float64
BUDGET = Budget()
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TORCH_HAS_LANCZOS = hasattr(torch.ops.aten, "_upsample_lanczos2d_aa")  # from 2.12 on
SIDEWAYS = [turn for orientation, turn in UPRIGHT.items() if orientation >= 5]


class UnreadablePicture(ValueError):
    """A file that holds no picture we can decode; `path` and `reason` say which and why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"cannot read the picture {printable(str(path))}: {printable(reason)}")
        self.path = path
        self.reason = reason


def decode_picture(path: Path, height: int, width: int, channels: int, colour_profiles: bool = True) -> np.ndarray:
    """Return one picture, upright, cropped to the middle and resized: uint8 (channels, height, width).

    The crop is the largest centred one of the shape height : width; the resize is Lanczos over its whole
    footprint, so shrinking does not alias. A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as long as that is
    twice the size asked for: faster, and pixels differ by less than one level on average, unless the picture is
    covered by white noise of more than 15 levels. One channel is luma (ITU-R 601), three are RGB. Of several frames
    or pages the first is read. Transparency shows white. 16-bit values are scaled by 1/257 from their full range,
    also when held in 32-bit integers; floats run from 0, black, to 1, white; values outside are refused. A colour
    profile, or the gamma of a PNG, is brought to sRGB unless `colour_profiles` is off.

    Raises UnreadablePicture if the file is no picture or a broken one, OSError if the system cannot read the file,
    in which case the picture may be intact.
    """
    assert channels in (1, 3), channels
    data = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about metadata and size, one a file
            pixels = np.asarray(upright(data, height, width, "L" if channels == 1 else "RGB", colour_profiles))
    except UnidentifiedImageError as error:
        raise UnreadablePicture(path, why_not_read(data[:HEAD_BYTES])) from error
    except DECODER_ERRORS as error:
        raise UnreadablePicture(path, reason_of(error, data)) from error
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def reason_of(error: Exception, data: bytes) -> str:
    """Why a picture could not be decoded; of a TIFF also of what kind it is, where the error is a decoder's own."""
    reason = str(error) or type(error).__name__
    if data.startswith(tiff.STARTS) and not isinstance(error, tiff.NotRead):
        with suppress(*DECODER_ERRORS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f"{tiff.layout_of(data)}: {reason}"
    return reason


def upright(data: bytes, height: int, width: int, mode: str, colour_profiles: bool) -> Image.Image:
    layout = tiff.layout_of(data) if data.startswith(tiff.STARTS) else None
    if layout is not None and not tiff.pillow_is_right(layout):
        check_size(layout.width, layout.height)
        with BUDGET.holding(BYTES_A_SAMPLE * layout.samples * layout.width * layout.height):
            flat, turn = tiff.read(data, layout), UPRIGHT.get(layout.orientation)
        size, drafted, meaning = flat.size, None, meaning_from(layout.icc) if colour_profiles else Meaning()
    else:
        side = 2 * max(height, width)  # of either side, since EXIF may turn the picture
        with opened(data) as image:
            size, meaning = image.size, meaning_of(image) if colour_profiles else Meaning()
            # JPEG only; else None. Pixels with a profile stay as they are until they are in sRGB.
            drafted = image.draft(image.mode if meaning else mode, (side, side))
            check_size(*image.size)
            with BUDGET.holding(BYTES_A_PIXEL * image.width * image.height):
                image.load()
                turn = UPRIGHT.get(image.getexif().get(ExifTag.Orientation, 1))
                flat = eight_bit(image, layout.bits[0] if layout else png_depth(data))
    if not meaning:
        flat = flat if flat.mode == mode else flat.convert(mode)  # which would copy it
    elif flat.mode not in ("L", "RGB", "CMYK"):
        flat = flat.convert("L" if flat.mode == "1" else "RGB")
    if turn in SIDEWAYS:
        height, width = width, height
    size, shrunk = (size, size[0] / drafted[1][2]) if drafted else (flat.size, 1.0)
    box = middle(*size, height, width)
    small = cut_and_resize(flat, [edge / shrunk for edge in box], height, width)
    if meaning:
        small = meaning.to_srgb(small)
        small = small if small.mode == mode else small.convert(mode)
    return small if turn is None else small.transpose(turn)


def opened(data: bytes) -> Image.Image:
    """The file as Pillow opens it; a JPEG of any size, which is decoded at 1/8: the limit is on what is decoded."""
    try:
        return Image.open(io.BytesIO(data), formats=readable_formats())
    except Image.DecompressionBombError:
        if not data.startswith(b"\xff\xd8"):
            raise
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))


def check_size(width: int, height: int) -> None:
    """Raise `ValueError` for what is larger than Pillow takes for an attack, once it would be decoded."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than the {MOST_PIXELS:,} that are read; make it smaller")


def png_depth(data: bytes) -> int:
    """Bits of a sample of a PNG, 8 for other files."""
    return data[24] if data.startswith(b"\x89PNG") and len(data) > 24 else 8


def eight_bit(image: Image.Image, depth: int = 8) -> Image.Image:
    """Bring the modes that Pillow's `convert` clips, refuses or makes black to 8 bits without alpha.

    `depth`: bits of a sample in the file, of a PNG or a TIFF.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        grey = eight_bit_grey(values, 4095 if depth == 12 else 65535)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return Image.fromarray(grey)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        scale_transparency(image, depth)
        with_alpha = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")  # grey stays what its profile is of
        white = Image.new(with_alpha.mode.removesuffix("A"), image.size, "white")
        white.paste(with_alpha.convert(white.mode), mask=with_alpha.getchannel("A"))
        return white
    return image


def scale_transparency(image: Image.Image, depth: int) -> None:
    """Bring PNG's transparent colour to the 8 bits of the pixels: Pillow leaves it in the depth of the file."""
    transparent = image.info.get("transparency")
    if image.mode == "L" and isinstance(transparent, int) and depth < 8:
        image.info["transparency"] = transparent * 255 // (2**depth - 1)
    elif image.mode == "RGB" and isinstance(transparent, tuple) and depth > 8:
        image.info["transparency"] = tuple(value >> (depth - 8) for value in transparent)


def eight_bit_grey(values: np.ndarray, white: float) -> np.ndarray:
    white = 1.0 if values.dtype.kind == "f" else white
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= white:  # also refuses NaN
        raise ValueError(f"its pixels run from {low} to {high}, and only 0 to {white} can be read")
    return np.rint(values * np.float32(255 / white)).astype(np.uint8)


def middle(picture_width: int, picture_height: int, height: int, width: int) -> tuple[int, int, int, int]:
    """The edges left, top, right and bottom of the largest centred crop of the shape height : width."""
    crop_width = max(1, min(picture_width, round(picture_height * width / height)))
    crop_height = max(1, min(picture_height, round(picture_width * height / width)))
    left, top = (picture_width - crop_width) // 2, (picture_height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def cut_and_resize(picture: Image.Image, box: list[float], height: int, width: int) -> Image.Image:
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
