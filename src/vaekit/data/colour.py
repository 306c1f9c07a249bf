"""What the numbers of a picture mean: its colour profile, or its gamma, to sRGB."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of a profile -> the mode of the pictures that it fits
NEAR_LEVELS = 3  # that a profile called sRGB may move a colour
MOST_KEPT = 16  # transforms of a thread
SRGB_GAMMA, NEAR = 1 / 2.2, 0.01  # of PNG's gAMA: what sRGB pictures say

kept = threading.local()  # a transform must not be used by two threads at once


@dataclass(frozen=True)
class Meaning:
    """What brings the pixels of a picture to sRGB: a profile, or the gamma of a PNG; without both they are sRGB."""

    icc: bytes = b""
    gamma: float | None = None

    def __bool__(self) -> bool:
        return bool(self.icc) or self.gamma is not None

    def to_srgb(self, picture: Image.Image) -> Image.Image:
        """The picture (L, RGB or CMYK) in sRGB; as it is, where the profile is damaged or one of another mode."""
        if self.gamma is not None:
            return picture.point(levels_of_gamma(self.gamma) * len(picture.getbands()))
        transform = transform_of(self.icc, picture.mode)
        return picture if transform is None else transform.apply(picture)


def meaning_of(image: Image.Image) -> Meaning:
    """What a file says of its pixels. A profile counts before a gamma, and sRGB is told as nothing."""
    icc, gamma = image.info.get("icc_profile") or b"", image.info.get("gamma")
    if icc:
        return meaning_from(icc)
    tells = isinstance(gamma, float) and gamma > 0 and abs(gamma - SRGB_GAMMA) > NEAR and "srgb" not in image.info
    return Meaning(gamma=gamma if tells else None)


def meaning_from(icc: bytes) -> Meaning:
    """What a profile says, if there is one; sRGB is told as nothing."""
    return Meaning() if not icc or is_srgb(icc) else Meaning(icc)


def levels_of_gamma(gamma: float) -> list[int]:
    """The 256 levels of sRGB for those of a PNG whose gAMA is `gamma`: level = light ^ gamma."""
    light = [(level / 255) ** (1 / gamma) for level in range(256)]
    return [round(255 * (12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055)) for x in light]


def transform_of(icc: bytes, mode: str) -> Any:
    """The transform of a profile to sRGB for pictures of a mode; None if it is damaged or does not fit."""
    if not hasattr(kept, "transforms"):
        kept.transforms = OrderedDict()
    transforms: OrderedDict[Any, Any] = kept.transforms
    key = hashlib.sha256(icc).digest(), mode
    if key not in transforms:
        if len(transforms) == MOST_KEPT:
            transforms.popitem(last=False)
        transforms[key] = built(icc, mode)
    return transforms[key]


def built(icc: bytes, mode: str) -> Any:
    """A new transform, or None."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if SPACES.get(profile.profile.xcolor_space.strip()) != mode:
            return None
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(64)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile calls itself sRGB and is: to convert would move pixels by a level for nothing."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if not (profile.profile.profile_description or "").startswith("sRGB"):
            return False
        ramp = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        moved = np.asarray(transform.apply(Image.fromarray(ramp)))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False
    return bool(np.abs(moved.astype(int) - ramp).max() <= NEAR_LEVELS)
