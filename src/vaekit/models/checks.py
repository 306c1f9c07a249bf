"""What a model says of pictures and latents that it cannot take, or that look wrong."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

FAR_OUT = 1.5  # pixels beyond this are not in [-1, 1], even after some sharpening


def check_pictures(x: Tensor, image_shape: tuple[int, ...]) -> None:
    """Raise `ValueError` for what are no pictures (B, C, H, W) of this shape as floats."""
    expected = ", ".join(map(str, image_shape))
    if not isinstance(x, Tensor):
        raise ValueError(f"pictures as {type(x).__name__}; this model takes a torch.Tensor (B, {expected})")
    if not x.numel():
        raise ValueError(f"no picture: a tensor of shape {tuple(x.shape)}; this model takes (B, {expected})")
    if x.ndim != 4 or x.shape[1:] != image_shape:
        raise ValueError(f"pictures of shape {tuple(x.shape)}; this model takes (B, {expected}) in [-1, 1]")
    if not x.is_floating_point():
        raise ValueError(f"pictures of {x.dtype}; this model takes floats in [-1, 1]: give x / 127.5 - 1 for bytes")


def check_latents(z: Tensor, latent_dim: int) -> None:
    """Raise `ValueError` for what are no latents (B, d) as floats."""
    if not isinstance(z, Tensor):
        raise ValueError(f"latents as {type(z).__name__}; this model takes a torch.Tensor (B, {latent_dim})")
    if not z.numel():
        raise ValueError(f"no latents: a tensor of shape {tuple(z.shape)}; give one or more")
    if z.ndim != 2 or z.shape[1] != latent_dim:
        raise ValueError(f"latents of shape {tuple(z.shape)}; this model takes (B, {latent_dim})")
    if not z.is_floating_point():
        raise ValueError(f"latents of {z.dtype}; this model takes floats")


def warn_of_range(x: Tensor) -> None:
    """Warn if pictures look as if they were in [0, 1] or [0, 255], which gives pictures too, and wrong ones."""
    try:
        lowest, highest = torch.stack(x.detach().aminmax()).tolist()
    except RuntimeError:  # tensors without values: of torch.vmap, of the device meta
        return
    if lowest >= 0 and highest > lowest:
        cure = "2 * x - 1" if highest <= 1 else "x / 127.5 - 1"
    elif max(-lowest, highest) > FAR_OUT:
        cure = "x / 127.5 - 1 for bytes, or another scale"
    else:
        return
    text = f"pixels from {lowest:.3g} to {highest:.3g}; this model takes pictures in [-1, 1]: give {cure}"
    warnings.warn(text, stacklevel=3)  # of whoever called `encode`
