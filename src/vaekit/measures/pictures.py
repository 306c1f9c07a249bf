"""Measures of pictures, pure functions of tensors in [-1, 1]; where torchmetrics has them, thin wrappers.

torchmetrics is imported where it is used, so that its import does not delay the start of a training.

Letters: B pictures of C channels, H x W pixels; R rings of a spectrum.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vaekit.data.view import USUAL_CHANNELS
from vaekit.system.autocast import without_autocast

# Wang et al. (2003): how much each scale counts, the finest first.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Shorter side from which so many scales fit: SSIM's window of 11 pixels must lie within the coarsest one. Four scales
# would fit from 88 pixels on, but torchmetrics asks for 99.
SCALES_FROM = ((176, 5), (99, 4), (44, 3), (22, 2))
# Variance of the rounding to 256 levels. Two spectra are compared down to here: no 8-bit picture holds less.
ROUNDING_POWER = (2 / 255) ** 2 / 12


def l1(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean absolute difference of each pair: (B, C, H, W) twice -> (B,)."""
    return (x - x_hat).abs().flatten(1).mean(1)


def psnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair in dB: (B, C, H, W) twice -> (B,); x_hat is clamped to [-1, 1].

    One number for each pair, since published values are averages of ratios. Errors below that of rounding to 8 bits
    count as that one, so equal pictures have 58.9 dB: with infinity, a single one would decide the mean.
    """
    squared_error = (x - x_hat.clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(2.0**2 / squared_error.clamp(min=ROUNDING_POWER))


def ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """Structural similarity of each pair (Wang et al., 2004), 1 if equal: (B, C, H, W) twice -> (B,), from 6 pixels on.

    x_hat is clamped to [-1, 1]. Gaussian window of 11 pixels, mean over channels and over all pixels with the edges
    mirrored, as torchmetrics does; the original leaves a margin of 5 pixels out.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    return in_pairs(structural_similarity_index_measure, x, x_hat)


def ms_ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """Multi-scale SSIM of each pair (Wang et al., 2003), 1 if equal: (B, C, H, W) twice -> (B,); see `ssim`.

    Pictures too small for the five scales use the finest that fit, their exponents scaled to sum to 1, so numbers
    of different sizes do not compare (`ms_ssim_scales`). A pair that is negatively correlated on some scale gets 0.
    Raises `ValueError` where not even two scales fit.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    height, width = x.shape[2:]
    scales = ms_ssim_scales(height, width)
    if scales is None:
        raise ValueError(f"pictures of {height}x{width} pixels; MS-SSIM needs sides of {SCALES_FROM[-1][0]} or more")
    weights = SCALE_WEIGHTS[:scales]
    betas = tuple(weight / sum(weights) for weight in weights)
    return in_pairs(partial(multiscale_structural_similarity_index_measure, betas=betas), x, x_hat)


def ms_ssim_scales(height: int, width: int) -> int | None:
    """How many scales `ms_ssim` uses for pictures of this size: 5, the standard, down to 2, or `None`."""
    return next((scales for side, scales in SCALES_FROM if min(height, width) >= side), None)


def in_pairs(similarity: Callable[..., Any], x: Tensor, x_hat: Tensor) -> Tensor:
    """`similarity` of each pair, (B,), of intensities in [0, 2]: it compares means as ratios, so black must be 0."""
    # One pair at a time: over hundreds of pictures the convolution leaves the cache and takes 2 to 6 times as long.
    pairs = zip((x_hat.float().clamp(-1, 1) + 1).split(1), (x.float() + 1).split(1), strict=True)
    with without_autocast(x.device):  # variances as differences of squares: not in bfloat16
        return torch.cat([similarity(fake, real, data_range=2.0, reduction="none") for fake, real in pairs])


def laplacian_energy(x: Tensor) -> Tensor:
    """Mean squared Laplacian of the grey picture, (B, C, H, W) -> (B,): a measure of sharpness without a network."""
    grey = planes(x)
    sides = grey[..., 1:-1, 2:] + grey[..., 1:-1, :-2] + grey[..., 2:, 1:-1] + grey[..., :-2, 1:-1]
    return (sides - 4 * grey[..., 1:-1, 1:-1]).square().flatten(1).mean(1)


def planes(x: Tensor) -> Tensor:
    """What sharpness and spectra are taken of, (B, C, H, W) -> (B, 1, H, W): the grey picture.

    Bands that are no colours may cancel each other in a sum: they are taken one by one, (B, C, H, W).
    """
    return x.mean(1, keepdim=True) if x.shape[1] in USUAL_CHANNELS else x


def power_spectrum(x: Tensor) -> Tensor:
    """Power of the grey pictures at R = min(H, W) // 2 frequencies: (B, C, H, W) -> (R,) float64, mean over images.

    Entry r - 1 is the mean over the ring of frequencies that round to r cycles along the shorter side, that is
    r / min(H, W) cycles per pixel, from 1 cycle to Nyquist. Mean subtracted, Hann window; scaled so that white noise
    of variance s^2 has the power s^2 in every ring (7 % less in the first, which the window mixes with the mean).
    Spectra of batches average, weighted by their sizes.
    """
    grey = planes(x.float()).flatten(0, 1)
    height, width = grey.shape[1:]
    hann = [torch.hann_window(side, dtype=grey.dtype, device=x.device) for side in (height, width)]
    window = torch.outer(*hann)
    grey = grey - grey.mean((1, 2), keepdim=True)
    spectrum = torch.fft.fft2(grey * window).abs().square().mean(0) / window.square().sum()
    down, across = torch.fft.fftfreq(height), torch.fft.fftfreq(width)  # cycles per pixel
    shorter = min(height, width)
    ring = (torch.hypot(down[:, None], across) * shorter).round().long().flatten()
    power = torch.bincount(ring, spectrum.cpu().double().flatten()) / torch.bincount(ring)
    return power[1 : shorter // 2 + 1]


def spectrum_db(spectrum: Tensor, other: Tensor) -> float:
    """Mean over the rings of |10 log10(other / spectrum)|, in dB, of two `power_spectrum`s (R,): 0 if equal.

    3 dB mean that powers typically differ by a factor of 2. Powers below that of rounding to 8 bits are raised to it.
    """
    ratio = other.clamp(min=ROUNDING_POWER) / spectrum.clamp(min=ROUNDING_POWER)
    return (10 * ratio.log10()).abs().mean().item()
