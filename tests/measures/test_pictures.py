"""Measures of pictures against closed forms, torchmetrics and scipy."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
)

from vaekit.measures import pictures as metrics


def pictures(generator, count=3, channels=3, height=32, width=32, noise=0.3):
    """Pictures, and reconstructions such as a network gives, with some values outside of [-1, 1]."""
    x = torch.rand(count, channels, height, width, generator=generator) * 2 - 1
    return x, x + noise * torch.randn(x.shape, generator=generator)


def wave(cycles_down, cycles_across, height=32, width=32):
    """A grey picture (1, 1, H, W) of so many cycles from edge to edge."""
    down, across = torch.arange(height) / height, torch.arange(width) / width
    return torch.sin(2 * math.pi * (cycles_down * down[:, None] + cycles_across * across))[None, None]


def test_psnr_is_ten_log_ten_of_four_over_the_squared_error():
    x = torch.zeros(2, 3, 16, 16)
    shifts = torch.tensor([0.1, 0.5])
    expected = 10 * torch.log10(4 / shifts.square())
    torch.testing.assert_close(metrics.psnr(x, x + shifts[:, None, None, None]), expected)


def test_psnr_clamps_what_a_picture_cannot_show_and_equal_pictures_have_that_of_rounding_to_8_bits():
    """With infinity, one saturated picture would decide the mean of all, and JSON has no infinity."""
    black = -torch.ones(1, 1, 8, 8)
    rounding = 10 * math.log10(12 * 255**2)
    assert metrics.psnr(black, black - 5.0).item() == pytest.approx(rounding)
    assert metrics.psnr(black, black).item() == pytest.approx(rounding)
    x = torch.cat([black, torch.zeros(1, 1, 8, 8)])
    x_hat = torch.cat([black, torch.full((1, 1, 8, 8), 0.2)])
    assert metrics.psnr(x, x_hat).mean().item() == pytest.approx((rounding + 20) / 2)


def test_psnr_is_that_of_torchmetrics_for_each_pair(generator):
    x, x_hat = pictures(generator)
    expected = [peak_signal_noise_ratio(b.clamp(-1, 1), a, data_range=2.0) for a, b in zip(x, x_hat, strict=True)]
    torch.testing.assert_close(metrics.psnr(x, x_hat), torch.stack(expected))


def test_ssim_of_flat_pictures_is_their_luminance_term():
    """Wang et al. (2004), eq. 6, for grey levels 0 to 255: without contrast nothing else is left."""
    x, x_hat = torch.full((1, 1, 16, 16), -0.5), torch.full((1, 1, 16, 16), 0.25)
    a, b, c1 = 0.25 * 255, 0.625 * 255, (0.01 * 255) ** 2
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert metrics.ssim(x, x_hat).item() == pytest.approx(expected, rel=1e-3)


def test_ssim_is_that_of_windows_drawn_by_scipy(generator):
    x, x_hat = pictures(generator, count=1, channels=1)
    a, b = (127.5 * (picture[0, 0].clamp(-1, 1).double().numpy() + 1) for picture in (x, x_hat))

    def mean(values):
        return gaussian_filter(values, sigma=1.5, mode="mirror", truncate=3.5)

    covariance, c1, c2 = mean(a * b) - mean(a) * mean(b), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
    luminance = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
    expected = (luminance * (2 * covariance + c2) / (variances + c2)).mean()
    assert metrics.ssim(x, x_hat).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("measure", [metrics.ssim, metrics.ms_ssim])
def test_a_similarity_is_one_for_equal_pictures_and_each_pair_counts_alone(measure, generator):
    x, x_hat = pictures(generator)
    torch.testing.assert_close(measure(x, x), torch.ones(3))
    torch.testing.assert_close(measure(x, x_hat)[1:2], measure(x[1:2], x_hat[1:2]))


def test_similarities_do_not_fall_to_bfloat16_inside_autocast(generator):
    x, x_hat = pictures(generator)
    expected = metrics.ms_ssim(x, x_hat)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(metrics.ms_ssim(x, x_hat), expected)


def test_ms_ssim_of_large_pictures_is_the_standard_one(generator):
    x, x_hat = pictures(generator, count=2, channels=1, height=176, width=180)
    levels = 127.5 * (x_hat.clamp(-1, 1) + 1), 127.5 * (x + 1)
    expected = multiscale_structural_similarity_index_measure(*levels, data_range=255.0, reduction="none")
    torch.testing.assert_close(metrics.ms_ssim(x, x_hat), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("side", "scales"), [(22, 2), (44, 3), (99, 4), (176, 5)])
def test_smaller_pictures_use_as_many_scales_as_fit(side, scales):
    """Of flat pictures only the luminance of the coarsest scale differs from 1, so the value tells its exponent."""
    assert metrics.ms_ssim_scales(side, side + 10) == scales
    assert (metrics.ms_ssim_scales(side - 1, 2 * side) or 1) == scales - 1
    x, x_hat = torch.full((1, 1, side, side), -0.5), torch.full((1, 1, side, side), 0.25)
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:scales]
    expected = metrics.ssim(x, x_hat).item() ** (weights[-1] / sum(weights))
    assert metrics.ms_ssim(x, x_hat).item() == pytest.approx(expected, rel=1e-3)


def test_ms_ssim_refuses_pictures_without_room_for_two_scales():
    assert metrics.ms_ssim_scales(21, 64) is None
    with pytest.raises(ValueError, match=r"pictures of 21x64 pixels; MS-SSIM needs sides of 22 or more"):
        metrics.ms_ssim(torch.zeros(1, 3, 21, 64), torch.zeros(1, 3, 21, 64))


def test_laplacian_energy_knows_flat_from_sharp():
    flat = torch.full((1, 3, 8, 8), 0.7)
    assert metrics.laplacian_energy(flat).item() == pytest.approx(0, abs=1e-10)
    i, j = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    checkerboard = (((i + j) % 2) * 2.0 - 1)[None, None]  # the Laplacian is 8 everywhere
    assert metrics.laplacian_energy(checkerboard).item() == pytest.approx(64)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (21, 30)])
def test_the_power_of_white_noise_is_its_variance_at_every_frequency(size, generator):
    noise = 0.5 * torch.randn(2000, 1, *size, generator=generator)
    spectrum = metrics.power_spectrum(noise)
    assert len(spectrum) == min(size) // 2
    torch.testing.assert_close(spectrum[1:], torch.full_like(spectrum[1:], 0.25), rtol=0.05, atol=0)
    assert spectrum[0].item() == pytest.approx(0.25 * (1 - (1 / 9 + 1 / 36) / 2), rel=0.05)  # the mean's share is gone


@pytest.mark.parametrize(
    ("cycles", "size", "ring"),
    [
        ((0, 5), (32, 32), 5),
        ((5, 0), (32, 32), 5),
        ((3, 4), (32, 32), 5),
        ((5, 0), (32, 64), 5),
        ((0, 10), (32, 64), 5),
    ],
)
def test_a_wave_is_in_the_ring_of_its_cycles_along_the_shorter_side(cycles, size, ring):
    spectrum = metrics.power_spectrum(wave(*cycles, *size))
    assert spectrum.argmax().item() + 1 == ring
    assert spectrum[[ring - 2, ring - 1, ring]].sum() > 0.999 * spectrum.sum()  # Hann reaches one neighbour


def test_the_power_spectrum_ignores_brightness_and_averages_over_pictures(generator):
    x, _ = pictures(generator, count=4)
    spectrum = metrics.power_spectrum(x)
    torch.testing.assert_close(metrics.power_spectrum(x + 0.7), spectrum, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(sum(metrics.power_spectrum(picture[None]) for picture in x) / 4, spectrum)


def test_half_the_contrast_is_six_decibels_from_the_original(generator):
    x, _ = pictures(generator)
    whole, half = metrics.power_spectrum(x), metrics.power_spectrum(x / 2)
    assert metrics.spectrum_db(whole, half) == pytest.approx(20 * math.log10(2), rel=1e-4)
    assert metrics.spectrum_db(half, whole) == pytest.approx(20 * math.log10(2), rel=1e-4)
    assert metrics.spectrum_db(whole, whole) == 0


def test_flat_pictures_are_a_finite_distance_from_any_other(generator):
    flat = metrics.power_spectrum(torch.full((2, 3, 32, 32), 0.3))
    x, _ = pictures(generator)
    assert metrics.spectrum_db(flat, flat) == 0
    assert 10 < metrics.spectrum_db(metrics.power_spectrum(x), flat) < 100
