"""Between stored pixels (uint8, 0 to 255, or uint16, 0 to 65,535) and what networks see (float32, -1 to 1)."""

import torch
from torch import Tensor

HALF_RANGE = 127.5
HALF_RANGES = {torch.uint8: HALF_RANGE, torch.uint16: 32767.5}


def to_float(images: Tensor) -> Tensor:
    """Return stored pixels as float32 in [-1, 1], on the same device.

    Shapes: (B, C, H, W) -> (B, C, H, W); any shape works. 0 is exactly -1, and 255 or 65,535 exactly 1.
    """
    assert images.dtype in HALF_RANGES, f"pixels are {images.dtype}, not stored ones: converted twice?"
    return images.float() / HALF_RANGES[images.dtype] - 1


def to_uint8(x: Tensor) -> Tensor:
    """Return pictures in [-1, 1] as uint8 pixels; what lies outside is clamped, what lies between is rounded.

    Shapes: (B, C, H, W) -> (B, C, H, W); any shape and floating type works. Undoes `to_float` of 8 bits exactly.
    """
    # float() first: bfloat16 has 8 bits of mantissa, too few to tell 254 from 255 after the scaling.
    return ((x.float().clamp(-1, 1) + 1) * HALF_RANGE).round().to(torch.uint8)
