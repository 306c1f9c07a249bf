"""Distances of distributions against closed forms, plain loops, scipy and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.linalg import sqrtm
from scipy.ndimage import convolve
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from vaekit.data.loader import evenly
from vaekit.measures import distances
from vaekit.measures.distances import (
    frechet_distance,
    frechet_distance_of_factors,
    kernel_distance,
    laplacian_level,
    precision_recall_density_coverage,
    sliced_distance,
    sliced_feature_distance,
    sliced_wasserstein,
)


def two_sets(generator, n=60, m=50, features=7):
    """Correlated features, the second set moved and stretched."""
    mix = torch.randn(features, features, generator=generator)
    real = torch.randn(n, features, generator=generator) @ mix
    return real, torch.randn(m, features, generator=generator) @ mix * 1.3 + 0.5


class Given(torch.nn.Module):
    """Features that pass through torchmetrics as they are."""

    num_features = 7

    def forward(self, features):
        return features


def measured_by_torchmetrics(metric, real, fake):
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return metric.compute()


@pytest.mark.parametrize(
    ("n", "m", "rel"),  # pictures of 7 features; scipy's root of a singular matrix is good to half the digits
    [(60, 50, 1e-9), (7, 7, 1e-6), (8, 7, 1e-6), (6, 50, 1e-6), (50, 6, 1e-6)],
)
def test_frechet_distance_is_the_one_with_scipys_matrix_root(generator, n, m, rel):
    real, fake = (x.double().numpy() for x in two_sets(generator, n, m))
    cov1, cov2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(cov1 + cov2 - 2 * sqrtm(cov1 @ cov2).real)
    assert frechet_distance(torch.tensor(real), torch.tensor(fake)) == pytest.approx(expected, rel=rel)


def test_frechet_distance_is_that_of_torchmetrics(generator):
    real, fake = two_sets(generator)
    expected = measured_by_torchmetrics(FrechetInceptionDistance(Given()), real, fake)
    assert frechet_distance(real, fake) == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_distance_of_independent_entries_adds_the_differences_of_means_and_stds(generator):
    mean1, mean2, std1, std2 = torch.rand(4, 5, generator=generator, dtype=torch.float64)
    expected = ((mean1 - mean2) ** 2 + (std1 - std2) ** 2).sum().item()
    value = frechet_distance_of_factors(mean1, torch.diag(std1), mean2, torch.diag(std2))
    assert value == pytest.approx(expected, rel=1e-9)


def test_fewer_pictures_than_features_still_give_the_exact_distance(generator):
    """Covariances of rank 4 in 30 dimensions: a moved set is at its squared shift, a set is at 0 from itself."""
    real = torch.randn(5, 30, generator=generator, dtype=torch.float64)
    shift = torch.randn(30, generator=generator, dtype=torch.float64)
    assert frechet_distance(real, real + shift) == pytest.approx(shift.square().sum().item(), rel=1e-9)
    assert 0 <= frechet_distance(real, real) < 1e-10
    doubled = ((real - real.mean(0)) ** 2).sum().item() / 4  # the std doubles: (2 - 1)^2 times the variance
    assert frechet_distance(real, 2 * real - real.mean(0)) == pytest.approx(doubled, rel=1e-9)


def test_sets_without_any_variance_are_as_far_apart_as_their_means():
    assert frechet_distance(torch.zeros(3, 4), torch.ones(2, 4)) == 4.0


def mmd2_by_loops(real, fake):
    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(points):
        pairs = [kernel(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(a, b) for a in real for b in fake]
    return within(real) + within(fake) - 2 * sum(across) / len(across)


def test_kernel_distance_of_whole_sets_is_the_mmd_by_loops(generator):
    real, fake = two_sets(generator, n=9, m=9)
    mean, std = kernel_distance(real, fake, subsets=3)
    assert mean == pytest.approx(mmd2_by_loops(real.double().tolist(), fake.double().tolist()), rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all")
def test_kernel_distance_is_that_of_torchmetrics(generator):
    real, fake = two_sets(generator, n=40, m=40)
    expected, _ = measured_by_torchmetrics(KernelInceptionDistance(Given(), subsets=2, subset_size=40), real, fake)
    assert kernel_distance(real, fake)[0] == pytest.approx(expected.item(), rel=1e-6)


def test_subsets_of_the_kernel_distance_scatter_about_that_of_the_whole_sets(generator, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 16)  # the sets span several
    real, fake = two_sets(generator, n=60, m=60)
    mean, std = kernel_distance(real, fake, subsets=400, subset_size=20)
    assert mean == pytest.approx(kernel_distance(real, fake)[0], abs=4 * std / math.sqrt(400))
    assert std > 0
    assert kernel_distance(real, fake, 5, 20, seed=1) == kernel_distance(real, fake, 5, 20, seed=1)
    assert kernel_distance(real, fake, 5, 20, seed=1) != kernel_distance(real, fake, 5, 20, seed=2)


def neighbours_by_loops(real, fake, k):
    def reach(points):
        return [sorted(torch.dist(a, b).item() for b in points)[k] for a in points]

    reach_real, reach_fake = reach(real), reach(fake)
    inside = [[torch.dist(a, b).item() < reach_real[i] for b in fake] for i, a in enumerate(real)]
    recalled = [any(torch.dist(a, b).item() < reach_fake[j] for j, b in enumerate(fake)) for a in real]
    return {
        "precision": sum(any(row[j] for row in inside) for j in range(len(fake))) / len(fake),
        "recall": sum(recalled) / len(real),
        "density": sum(map(sum, inside)) / (k * len(fake)),
        "coverage": sum(map(any, inside)) / len(real),
    }


def test_the_sliced_distance_of_one_feature_is_scipys_squared_wasserstein_2_distance(generator):
    x, y = torch.randn(40, 1, generator=generator), 1 + 2 * torch.rand(40, 1, generator=generator)
    pairs = linear_sum_assignment(torch.cdist(x, y).square())
    expected = torch.cdist(x, y).square()[pairs].mean().item()
    assert sliced_feature_distance(x, y) == pytest.approx(expected)
    assert sliced_feature_distance(x, y.repeat(3, 1)) == pytest.approx(expected, rel=0.05)  # by quantiles


def test_the_sliced_distance_of_a_shift_is_its_squared_length(generator):
    x, shift = torch.randn(50, 30, generator=generator), torch.randn(30, generator=generator)
    assert sliced_feature_distance(x, x + shift) == pytest.approx(shift.square().sum().item(), rel=0.1)
    assert sliced_feature_distance(x, x) == 0


def test_the_sliced_distance_sees_what_two_moments_do_not(generator):
    x = torch.randn(2000, 4, generator=generator)
    y = torch.randn(2000, 4, generator=generator).sign()
    assert frechet_distance(x, y) < 0.1
    assert sliced_feature_distance(x, y) > 10 * sliced_feature_distance(x, torch.randn(2000, 4, generator=generator))


def test_precision_recall_density_coverage_are_those_of_loops(generator, monkeypatch):
    monkeypatch.setattr(distances, "CHUNK", 8)
    real, fake = two_sets(generator, n=30, m=21, features=2)
    for k in (1, 3):
        expected = neighbours_by_loops(real.double(), fake.double(), k)
        assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected)
        assert 0 < expected["precision"] < 1


@pytest.mark.parametrize("distance", [kernel_distance, precision_recall_density_coverage])
def test_of_large_sets_some_pictures_at_even_distances_count(generator, monkeypatch, distance):
    """The time grows with the square of their number: 40,000 would take hours."""
    monkeypatch.setattr(distances, "AT_MOST", 30)
    real, fake = torch.randn(300, 4, generator=generator), torch.randn(100, 4, generator=generator)
    some = distance(real[evenly(300, 30)], fake[evenly(100, 30)])
    assert distance(real, fake) == some


def test_equal_sets_have_all_of_precision_recall_density_and_coverage(generator):
    real, _ = two_sets(generator)
    assert set(precision_recall_density_coverage(real, real).values()) == {1.0}


def test_sets_far_apart_have_none(generator):
    real, _ = two_sets(generator)
    assert set(precision_recall_density_coverage(real, real + 1000).values()) == {0.0}


def test_a_set_that_shows_one_of_two_kinds_is_precise_but_recalls_half(generator):
    kinds = torch.randn(2, 100, 3, generator=generator) + torch.tensor([0.0, 100.0])[:, None, None]
    measured = precision_recall_density_coverage(kinds.flatten(0, 1), torch.cat([kinds[0], kinds[0] + 0.01]))
    assert measured["precision"] == 1
    assert measured["recall"] == measured["coverage"] == 0.5


def test_sliced_distance_is_the_mean_of_scipys_wasserstein_distances(generator):
    a, b = (torch.randn(50, 4, generator=generator) * scale for scale in (1, 2))
    directions = torch.randn(4, 37, generator=generator)
    projected = (a @ directions).T, (b @ directions).T
    expected = np.mean([wasserstein_distance(p, q) for p, q in zip(*projected, strict=True)])
    assert sliced_distance(a, b, directions) == pytest.approx(expected, rel=1e-5)


def test_points_that_all_move_are_their_projected_shift_away(generator):
    a, shift = torch.randn(50, 4, generator=generator), torch.tensor([0.3, 0.0, 0.0, -0.4])
    assert sliced_distance(a, a + shift, torch.eye(4)) == pytest.approx(0.7 / 4, rel=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (20, 34), (19, 33)])
def test_levels_of_the_pyramid_are_those_filtered_by_scipy(size, generator):
    x = torch.rand(1, 1, *size, generator=generator, dtype=torch.float64)
    row = np.array([1, 4, 6, 4, 1]) / 16
    binomial = np.outer(row, row)
    small = convolve(x[0, 0].numpy(), binomial, mode="mirror")[::2, ::2]
    spread = np.zeros(size)
    spread[::2, ::2] = small
    fine = x[0, 0].numpy() - convolve(spread, 4 * binomial, mode="mirror")
    torch.testing.assert_close(laplacian_level(x, 0, last=False)[0, 0], torch.tensor(fine))
    torch.testing.assert_close(laplacian_level(x, 1, last=True)[0, 0], torch.tensor(small))


def test_sliced_wasserstein_nears_that_of_all_patches(generator):
    """Pictures of 16 pixels have one level; its 100 places for a patch, all taken, against 128 drawn at random."""
    x = torch.rand(60, 2, 16, 16, generator=generator)
    y = torch.nn.functional.avg_pool2d(torch.rand(60, 2, 20, 20, generator=generator), 5, 1)

    def all_patches(pictures):
        windows = sliding_window_view(pictures.numpy(), (7, 7), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
        windows = windows - windows.mean((0, 1, 2, 4, 5), keepdims=True)
        windows = windows / windows.std((0, 1, 2, 4, 5), keepdims=True)
        return windows.reshape(-1, 2 * 49)

    directions = np.random.default_rng(0).normal(size=(2 * 49, 200))
    directions /= np.linalg.norm(directions, axis=0)
    projected = (all_patches(x) @ directions).T, (all_patches(y) @ directions).T
    expected = 1000 * np.mean([wasserstein_distance(p, q) for p, q in zip(*projected, strict=True)])
    assert sliced_wasserstein(x, y)["16"] == pytest.approx(expected, rel=0.1)


def test_sliced_wasserstein_has_a_number_for_each_level_and_their_mean(generator):
    x, y = torch.rand(2, 6, 3, 64, 80, generator=generator)
    measured = sliced_wasserstein(x, y)
    assert list(measured) == ["64", "32", "16", "mean"]
    assert measured["mean"] == pytest.approx((measured["64"] + measured["32"] + measured["16"]) / 3)
    assert sliced_wasserstein(x, y) == measured
    assert sliced_wasserstein(x, y, seed=1) != measured


def test_a_set_is_at_no_sliced_distance_from_itself_nor_from_itself_in_other_light(generator):
    x = torch.rand(6, 3, 32, 32, generator=generator)
    assert set(sliced_wasserstein(x, x).values()) == {0.0}
    assert sliced_wasserstein(x, 0.5 * x + 0.2)["mean"] == pytest.approx(0, abs=1e-2)


def test_noise_on_single_pixels_moves_the_finest_level_most():
    generator = torch.Generator().manual_seed(1)
    x = torch.nn.functional.interpolate(torch.rand(20, 1, 8, 8, generator=generator), 64, mode="bicubic")
    measured = sliced_wasserstein(x, x + 0.02 * torch.randn(x.shape, generator=generator))
    assert measured["64"] > 1.5 * measured["32"] > 1.5**2 * measured["16"]


def test_only_as_many_pictures_count_as_the_smaller_set_has(generator):
    x, y = torch.rand(2, 6, 1, 16, 16, generator=generator)
    assert sliced_wasserstein(x, y[:4]) == sliced_wasserstein(x[:4], y[:4])


def test_flat_pictures_have_a_finite_sliced_distance():
    assert set(sliced_wasserstein(torch.full((3, 1, 16, 16), 0.3), torch.zeros(3, 1, 16, 16)).values()) == {0.0}


def test_sliced_wasserstein_does_not_fall_to_bfloat16_inside_autocast(generator):
    x, y = torch.rand(2, 4, 3, 32, 32, generator=generator)
    expected = sliced_wasserstein(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert sliced_wasserstein(x, y) == expected


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, precision_recall_density_coverage])
def test_features_that_cannot_be_compared_are_refused_in_one_line(distance):
    real = torch.rand(20, 3)
    with pytest.raises(ValueError, match=r"features of shapes \(20, 3\) and \(20, 4\); give .* the same network"):
        distance(real, torch.rand(20, 4))
    least = 6 if distance is precision_recall_density_coverage else 2
    with pytest.raises(ValueError, match=f"20 real and 1 fake pictures; this distance needs {least} or more of each"):
        distance(real, real[:1])
    broken = real.clone()
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match="the fake features are not finite"):
        distance(real, broken)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 16, 16), "pictures of shapes .*; give both as"),
        (torch.zeros(2, 3, 16, 16), torch.zeros(0, 3, 16, 16), "2 and 0 pictures; this distance needs 1 or more"),
        (torch.zeros(2, 3, 12, 16), torch.zeros(2, 3, 12, 16), "12x16 pixels; this distance needs sides of 16 or more"),
        (torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), math.nan), "the pictures are not finite"),
    ],
)
def test_pictures_that_cannot_be_compared_are_refused_in_one_line(x, y, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(x, y)
