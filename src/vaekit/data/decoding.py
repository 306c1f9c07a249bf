"""One picture to pixels: upright, of the size and channels that are asked for."""

import io
import struct
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

from vaekit.data import tiff
from vaekit.data.bands import DICOM, NUMPY, NoPicture, brought, numbers_of, png_depth
from vaekit.data.budget import BUDGET, BYTES_A_SAMPLE, check_size
from vaekit.data.colour import Meaning, meaning_from, meaning_of
from vaekit.data.fitting import box_of, cut_and_resize, framed, inner_size
from vaekit.data.formats import readable_formats
from vaekit.data.magic import HEAD_BYTES, kind_of, why_not_read
from vaekit.data.sources.base import Raw
from vaekit.data.view import OWN, USUAL_CHANNELS, View
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
BYTES_A_PIXEL = 14  # that Pillow takes while it decodes, at most for most files: measured for RGBA
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [turn for orientation, turn in UPRIGHT.items() if orientation >= 5]


class UnreadablePicture(ValueError):
    """A file that holds no picture we can decode; `path` and `reason` say which and why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"cannot read the picture {printable(str(path))}: {printable(reason)}")
        self.path = path
        self.reason = reason


def decode_picture(path: Path, height: int, width: int, channels: int, colour_profiles: bool = True) -> np.ndarray:
    """Return one picture, upright, cropped to the middle and resized: uint8 (channels, height, width); see `decode`.

    Raises UnreadablePicture if the file is no picture or a broken one, OSError if the system cannot read the file,
    in which case the picture may be intact.
    """
    return decode(path.read_bytes(), path, View(height, width, channels, colour_profiles))


def decode(raw: Raw, name: Path, view: View) -> np.ndarray:
    """Return one picture, upright and as `view` wants it: (channels, height, width), uint8 or uint16.

    The crop is the largest centred one of the shape height : width; the resize is Lanczos over its whole
    footprint, so shrinking does not alias. A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as long as that is
    twice the size asked for: faster, and pixels differ by less than one level on average, unless the picture is
    covered by white noise of more than 15 levels. One channel is luma (ITU-R 601), three are RGB. Of several frames
    or pages the first is read. Transparency shows white. 16-bit values are scaled by 1/257 from their full range,
    also when held in 32-bit integers; floats run from 0, black, to 1, white; values outside are refused, unless
    `view.levels` says what they are. A colour profile, or the gamma of a PNG, is brought to sRGB unless
    `view.colour_profiles` is off. Other numbers of channels, 16 bits and `levels` take the numbers of a file as they
    are, see `bands`.

    Raises UnreadablePicture, with the `name`, for what is no picture or a broken one.
    """
    head = raw[:HEAD_BYTES] if isinstance(raw, bytes) else b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about metadata and size, one a file
            return pixels_of(raw, head, view)
    except UnidentifiedImageError as error:
        raise UnreadablePicture(name, why_not_read(head)) from error
    except DECODER_ERRORS as error:
        raise UnreadablePicture(name, reason_of(error, raw)) from error


def pixels_of(raw: Raw, head: bytes, view: View) -> np.ndarray:
    """The pixels of a picture by the way that suits it: as Pillow or `tiff` see it, or as numbers."""
    kind = kind_of(head)
    if isinstance(raw, bytes):
        if kind not in (NUMPY, DICOM) and not view.of_numbers:
            return upright(raw, view)
        colours = view.channels in USUAL_CHANNELS
        raw = numbers_of(raw, kind, as_stored=view.levels is not None, deep=view.takes_range, colours=colours)
    if raw.ndim not in (2, 3):
        raise NoPicture(f"an array of shape {raw.shape}; a picture has (height, width) or (height, width, bands)")
    check_size(raw.shape[1], raw.shape[0])
    if raw.dtype != np.uint8 or view.of_numbers or not (raw.ndim == 2 or raw.shape[2:] == (3,)):
        return brought(raw, view)
    flat = Image.fromarray(np.ascontiguousarray(raw))
    return shown(flat, flat.size, 1.0, None, Meaning(), view)


def reason_of(error: Exception, raw: Raw) -> str:
    """Why a picture could not be decoded; of a TIFF also of what kind it is, where the error is a decoder's own."""
    reason = str(error) or type(error).__name__
    if isinstance(raw, bytes) and raw.startswith(tiff.STARTS) and not isinstance(error, tiff.NotRead | NoPicture):
        with suppress(*DECODER_ERRORS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return f"{tiff.layout_of(raw)}: {reason}"
    return reason


def upright(data: bytes, view: View) -> np.ndarray:
    """The pixels of a file, upright; grey or RGB of 8 bits."""
    layout = tiff.layout_of(data) if data.startswith(tiff.STARTS) else None
    if layout is not None and not tiff.pillow_is_right(layout):
        check_size(layout.width, layout.height)
        with BUDGET.holding(BYTES_A_SAMPLE * layout.samples * layout.width * layout.height):
            flat, turn = tiff.read(data, layout), UPRIGHT.get(layout.orientation)
        return shown(flat, flat.size, 1.0, turn, meaning_from(layout.icc) if view.colour_profiles else Meaning(), view)
    side = 2 * max(view.height, view.width)  # of either side, since EXIF may turn the picture
    with opened(data) as image:
        size, meaning = image.size, meaning_of(image) if view.colour_profiles else Meaning()
        # JPEG only; else None. Pixels with a profile stay as they are until they are in sRGB.
        draft = None if view.fit == OWN else (side, side)
        drafted = image.draft(image.mode if meaning else mode_of(view), draft)
        check_size(*image.size)
        with BUDGET.holding(BYTES_A_PIXEL * image.width * image.height):
            image.load()
            turn = UPRIGHT.get(image.getexif().get(ExifTag.Orientation, 1))
            flat = eight_bit(image, layout.bits[0] if layout else png_depth(data))
    size, shrunk = (size, size[0] / drafted[1][2]) if drafted else (flat.size, 1.0)
    return shown(flat, size, shrunk, turn, meaning, view)


def mode_of(view: View) -> str:
    """Pillow's name of the colours of a view."""
    return "L" if view.channels == 1 else "RGB"


def shown(
    flat: Image.Image,
    size: tuple[int, int],
    shrunk: float,
    turn: Image.Transpose | None,
    meaning: Meaning,
    view: View,
) -> np.ndarray:
    """A picture of `size`, decoded `shrunk` times smaller, cut, resized, brought to sRGB, turned and framed."""
    mode = mode_of(view)
    if not meaning:
        flat = flat if flat.mode == mode else flat.convert(mode)  # which would copy it
    elif flat.mode not in ("L", "RGB", "CMYK"):
        flat = flat.convert("L" if flat.mode == "1" else "RGB")
    lying = replace(view, height=view.width, width=view.height) if turn in SIDEWAYS else view
    box = [edge / shrunk for edge in box_of(*size, lying)]
    small = cut_and_resize(flat, box, *inner_size(*size, lying))
    if meaning:
        small = meaning.to_srgb(small)
        small = small if small.mode == mode else small.convert(mode)
    small = small if turn is None else small.transpose(turn)
    return framed(np.asarray(small).reshape(small.height, small.width, view.channels).transpose(2, 0, 1), view)


def opened(data: bytes) -> Image.Image:
    """The file as Pillow opens it; a JPEG of any size, which is decoded at 1/8: the limit is on what is decoded."""
    try:
        return Image.open(io.BytesIO(data), formats=readable_formats())
    except Image.DecompressionBombError:
        if not data.startswith(b"\xff\xd8"):
            raise
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))


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
