"""One file to pixels: upright, cropped to the middle, resized, 8 bits."""

import io
import math
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag
from torch.nn import functional

# Only these decoders run, whatever the name of a file: Pillow would pass PostScript under any name to Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


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
    struct.error,
)
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
        super().__init__(f"cannot read the picture {path}: {reason}")
        self.path = path
        self.reason = reason


def read_picture(path: Path, height: int, width: int, channels: int) -> np.ndarray:
    """Return one picture, upright, cropped to the middle and resized: uint8 (channels, height, width).

    The crop is the largest centred one of the shape height : width; the resize is Lanczos over its whole
    footprint, so shrinking does not alias. A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as long as that is
    twice the size asked for: faster, and pixels differ by less than one level on average, unless the picture is
    covered by white noise of more than 15 levels. One channel is luma (ITU-R 601), three are RGB. Of several frames
    or pages the first is read. Transparency shows white. 16-bit grey is scaled by 1/257 from its full range,
    also when held in 32-bit integers; float grey runs from 0, black, to 1, white; values outside are refused.
    Colour profiles are ignored.

    Raises UnreadablePicture if the file is no picture or a broken one, OSError if the system cannot read the file,
    in which case the picture may be intact.
    """
    assert channels in (1, 3), channels
    data = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about metadata and size, one a file
            pixels = np.asarray(upright(data, height, width, "L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise UnreadablePicture(path, "not a picture" if data else "the file is empty") from error
    except DECODER_ERRORS as error:
        raise UnreadablePicture(path, str(error) or type(error).__name__) from error
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def upright(data: bytes, height: int, width: int, mode: str) -> Image.Image:
    side = 2 * max(height, width)  # of either side, since EXIF may turn the picture
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        size = image.size
        drafted = image.draft(mode, (side, side))  # JPEG only; else None
        image.load()
        turn = UPRIGHT.get(image.getexif().get(ExifTag.Orientation, 1))
        flat = eight_bit(image)
        flat = flat if flat.mode == mode else flat.convert(mode)  # which would copy it
    if turn in SIDEWAYS:
        height, width = width, height
    size, shrunk = (size, size[0] / drafted[1][2]) if drafted else (flat.size, 1.0)
    box = middle(*size, height, width)
    small = cut_and_resize(flat, [edge / shrunk for edge in box], height, width)
    return small if turn is None else small.transpose(turn)


def eight_bit(image: Image.Image) -> Image.Image:
    """Bring the modes that Pillow's `convert` clips, refuses or makes black to 8 bits without alpha."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(eight_bit_grey(np.asarray(image)))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image


def eight_bit_grey(values: np.ndarray) -> np.ndarray:
    white = 1.0 if values.dtype.kind == "f" else 65535
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= white:  # also refuses NaN
        raise ValueError(f"its pixels run from {low} to {high}, and only 0 to {white} can be read")
    return np.rint(values * (255 / white)).astype(np.uint8)


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
    return Image.fromarray(resized[0].permute(1, 2, 0).squeeze(-1).numpy())
