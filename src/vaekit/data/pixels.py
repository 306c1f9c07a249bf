"""Between stored pixels (uint8, 0 to 255) and what networks see (float32, -1 to 1)."""

import torch
from torch import Tensor

HALF_RANGE = 127.5


def to_float(images: Tensor) -> Tensor:
    """Return uint8 pixels as float32 in [-1, 1], on the same device.

    Shapes: (B, C, H, W) -> (B, C, H, W); any shape works. 0 is exactly -1 and 255 exactly 1.
    """
    assert images.dtype == torch.uint8, f"pixels are {images.dtype}, not uint8: converted twice?"
    return images.float() / HALF_RANGE - 1


def to_uint8(x: Tensor) -> Tensor:
    """Return pictures in [-1, 1] as uint8 pixels; what lies outside is clamped, what lies between is rounded.

    Shapes: (B, C, H, W) -> (B, C, H, W); any shape and floating type works. Undoes `to_float` exactly.
    """
    # float() first: bfloat16 has 8 bits of mantissa, too few to tell 254 from 255 after the scaling.
    return ((x.float().clamp(-1, 1) + 1) * HALF_RANGE).round().to(torch.uint8)
