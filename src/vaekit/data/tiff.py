"""TIFFs that Pillow reads wrong or not at all: what a file says of its pixels decides who reads it.

Pillow guesses a mode from a few tags. For the layouts that it knows it is right, and reads every compression; for
others it gives scrambled planes, inverted or black pictures, or nothing. Those are read by tifffile, or refused with
what they are. Letters: a picture of H x W pixels with S samples each.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

STARTS = (b"II*\0", b"MM\0*", b"II+\0")  # the last one: BigTIFF, of which Pillow knows the little-endian kind
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # SampleFormat
KINDS = {UNSIGNED: "uint", SIGNED: "int", FLOAT: "float", 4: "undefined", 5: "complex int", 6: "complex"}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8  # PhotometricInterpretation
SPACES = {WHITE_IS_ZERO: "inverted grey", BLACK_IS_ZERO: "grey", RGB: "RGB", PALETTE: "palette", CMYK: "CMYK"}
SPACES |= {
    YCBCR: "YCbCr",
    LAB: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "colour filter",
    32844: "LogL",
    32845: "LogLuv",
}
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}  # samples without extra
UNSPECIFIED, PREMULTIPLIED, ALPHA = 0, 1, 2  # ExtraSamples
MOST_BITS = 16  # that white has: 16-bit values are often kept in 32-bit integers


class NotRead(ValueError):
    """A TIFF of a kind that is not read; the message says which."""


@dataclass(frozen=True)
class Layout:
    """What a TIFF says of the pixels of its first page."""

    width: int
    height: int
    space: int
    bits: tuple[int, ...]
    kinds: tuple[int, ...]
    planar: bool
    extra: tuple[int, ...]
    extra_is_told: bool  # by a tag: without it Pillow takes a fourth band for alpha
    has_colours: bool  # a ColorMap
    orientation: int  # as EXIF has it
    icc: bytes

    @property
    def samples(self) -> int:
        """Samples of a pixel, S."""
        return len(self.bits)

    @property
    def alpha(self) -> int | None:
        """What kind of alpha the first extra sample is, if it is one."""
        return self.extra[0] if self.extra and self.extra[0] in (PREMULTIPLIED, ALPHA) else None

    def __str__(self) -> str:
        kind = " and ".join(
            f"{KINDS.get(kind, 'unknown')}{bits}" for bits, kind in sorted({*zip(self.bits, self.kinds, strict=True)})
        )
        planes = " in planes" if self.planar and self.samples > 1 else ""
        return f"a TIFF of {self.samples} x {kind}{planes}, {SPACES.get(self.space, f'photometric {self.space}')}"


def layout_of(data: bytes) -> Layout:
    """What the first page of a TIFF says of its pixels."""
    tags = ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" else 8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    samples = int(tags.get(277, 1))
    bits, kinds = many(tags.get(258, 1), samples), many(tags.get(339, UNSIGNED), samples)
    space = int(tags.get(262, BLACK_IS_ZERO))
    extra = many(tags.get(338, ()), max(0, samples - COLOURS.get(space, samples)), UNSPECIFIED)
    return Layout(
        width=int(tags.get(256, 0)),
        height=int(tags.get(257, 0)),
        space=space,
        bits=bits,
        kinds=kinds,
        planar=int(tags.get(284, 1)) == 2,
        extra=extra,
        extra_is_told=338 in tags,
        has_colours=320 in tags,
        orientation=int(tags.get(274, 1)),
        icc=bytes(tags.get(34675, b"")),
    )


def many(values: Any, count: int, filler: int | None = None) -> tuple[int, ...]:
    """A tag's value for each of `count` samples: one that stands alone is that of all."""
    found = tuple(int(v) for v in values) if isinstance(values, Sequence) else (int(values),)
    last = filler if filler is not None else found[-1]
    return (*found, *[last] * count)[:count]


def pillow_is_right(layout: Layout) -> bool:
    """Whether Pillow reads the pixels of such a TIFF as they are meant; a test tries the product of all tags."""
    if len({*layout.bits}) > 1 or len({*layout.kinds}) > 1:
        return False
    bits, kind, own = layout.bits[0], layout.kinds[0], COLOURS.get(layout.space, 0)
    plain = layout.samples == own
    if layout.planar and layout.samples > 1:
        return kind == UNSIGNED and layout.space == RGB and plain and bits == 8
    if kind != UNSIGNED:
        return layout.space == BLACK_IS_ZERO and plain and bits == 32 and kind in (SIGNED, FLOAT)
    more = layout.samples - own if layout.extra_is_told else 0
    one_more = more == 1
    return {
        WHITE_IS_ZERO: plain and bits in (1, 2, 4, 8),
        BLACK_IS_ZERO: (plain and bits in (1, 2, 4, 8, 12, 16)) or (one_more and bits == 8),
        RGB: ((plain or one_more) and bits in (8, 16)) or (more in (2, 3) and bits == 8),
        PALETTE: plain and bits in (1, 2, 4, 8) and layout.has_colours,
        CMYK: (plain and bits in (8, 16)) or (more in (1, 2) and bits == 8),
        YCBCR: plain and bits == 8,
        LAB: plain and bits == 8,
    }.get(layout.space, False)


def read(data: bytes, layout: Layout) -> Image.Image:
    """The first page of a TIFF that Pillow does not read right, as 8-bit grey or RGB, upright or not as it is stored.

    Raises `NotRead` for a kind that is not read, or without tifffile.
    """
    if layout.space not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or len({*layout.bits}) > 1 or len({*layout.kinds}) > 1:
        raise NotRead(f"{layout}, which is not read")
    if layout.kinds[0] not in (UNSIGNED, FLOAT):
        raise NotRead(f"{layout}, which is not read: where white lies is not known; convert it to unsigned or float")
    if layout.samples < COLOURS[layout.space]:
        raise NotRead(f"{layout}, with too few samples")
    try:
        import tifffile
    except ImportError as error:
        raise NotRead(f'{layout}, which needs tifffile; run: pip install "vaekit[formats]"') from error
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            values = page.asarray()
            axes = page.axes
    except Exception as error:  # of any kind: what damaged files do to it is not written down
        raise NotRead(f"{layout}, which cannot be read: {error}") from error
    values = by_sample(np.asarray(values), axes, layout)
    levels = in_unit_range(values, layout)
    colours = levels[: COLOURS[layout.space]]
    if layout.space == WHITE_IS_ZERO:
        colours = 1 - colours
    if layout.alpha is not None:
        alpha = levels[len(colours)]
        colours = (colours if layout.alpha == PREMULTIPLIED else colours * alpha) + 1 - alpha  # upon white
    pixels = np.rint(255 * colours.clip(0, 1)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def by_sample(values: np.ndarray, axes: str, layout: Layout) -> np.ndarray:
    """The samples in front: (S, H, W). Raises `NotRead` for a page of other axes."""
    wanted = "SYX" if layout.samples > 1 else "YX"
    if sorted(axes) != sorted(wanted):
        raise NotRead(f"{layout}, with the axes {axes}, which is not read")
    values = values.transpose([axes.index(axis) for axis in wanted])
    return values if layout.samples > 1 else values[None]


def in_unit_range(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Samples from 0, black, to 1, white, float32. Raises `NotRead` for values beyond."""
    white = 1.0 if layout.kinds[0] == FLOAT else float(2 ** min(layout.bits[0], MOST_BITS) - 1)
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= white:  # also refuses NaN
        raise NotRead(f"its pixels run from {low} to {high}, and only 0 to {white:g} can be read")
    return values.astype(np.float32) / np.float32(white)
