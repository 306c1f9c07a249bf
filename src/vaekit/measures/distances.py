"""Distances between two sets of pictures, as pure functions of their features or of their pixels.

Letters: N real and M fake pictures, F features; P patches of E entries. The numbers depend on the feature space: the
Frechet distance is the FID only in the features of the Inception network of 2015 (`features`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.data.loader import evenly
from vaekit.system.autocast import without_autocast

AT_MOST = 10_000  # pictures whose neighbours and kernels are looked at: half a minute on two cores
CHUNK = 1000  # rows of a matrix of distances at a time: 80 MB against 10,000 columns
PATCH, PATCHES_PER_PICTURE = 7, 128
REPEATS, DIRECTIONS = 4, 128
SMALLEST_LEVEL = 16  # pixels
BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of the Gaussians with the moments of two sets of features, (N, F) and (M, F) (Heusel, 2017).

    Covariances divide by N - 1. Few pictures bias it upwards: compare only distances with the same N and M.
    Raises `ValueError` for fewer than 2 pictures, features that are not finite or of different F.
    """
    check_features(real, fake, least=2)
    return frechet_distance_of_factors(*factored(real), *factored(fake))


def factored(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) of features (N, F), and A (F, R) with A A^T their covariance over N - 1; R is the smaller of N and F.

    Of few pictures A is what the pictures are off the mean, without an eigenvector.
    """
    if len(features) > features.shape[1]:
        mean, cov = moments(features)
        return mean, factor_of(cov)
    rows = features.cpu().double()
    mean = rows.mean(0)
    return mean, (rows - mean).T / math.sqrt(len(rows) - 1)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F) over N - 1 of features (N, F), float64 on the CPU, some rows at a time."""
    mean = sum(rows.double().sum(0) for rows in features.cpu().split(CHUNK)) / len(features)
    centred = (rows.double() - mean for rows in features.cpu().split(CHUNK))
    return mean, sum(rows.T @ rows for rows in centred) / (len(features) - 1)


def frechet_distance_of_factors(mean1: Tensor, a1: Tensor, mean2: Tensor, a2: Tensor) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), of means (F,) and factors (F, R) of cov = A A^T.

    The eigenvalues of cov1 cov2 are the squared singular values of A1^T A2, so the trace of the root is their sum:
    real, never negative, and accurate where covariances are singular, as with N < F.
    """
    trace = a1.square().sum() + a2.square().sum() - 2 * torch.linalg.svdvals(a1.T @ a2).sum()
    return max(0.0, ((mean1 - mean2).square().sum() + trace).item())


def factor_of(cov: Tensor) -> Tensor:
    """A (F, F) with A A^T = cov, by its eigenvectors; eigenvalues that are rounding errors count as 0."""
    values, vectors = torch.linalg.eigh(cov)
    noise = len(values) * torch.finfo(cov.dtype).eps * values[-1]
    return vectors * torch.where(values > noise, values, 0).sqrt()


def sliced_feature_distance(real: Tensor, fake: Tensor, directions: int = 1000, seed: int = 0) -> float:
    """Sliced Wasserstein distance of features, (N, F) and (M, F), squared and times F (as MIND; Berthet et al., 2026).

    The mean over random unit directions of the squared Wasserstein-2 distance of the projections. Times F, a shift of
    the mean counts as in the Frechet distance. No covariance is estimated, so 1,000 to 2,000 pictures are enough to
    tell models apart. Sets of different sizes are compared by their quantiles. Directions are drawn from `seed`.
    Raises `ValueError` as `frechet_distance` does.
    """
    check_features(real, fake, least=2)
    num_features = real.shape[1]
    axes = torch.randn(num_features, directions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    axes /= axes.norm(dim=0)
    ranks = torch.linspace(0, 1, max(len(real), len(fake)), dtype=torch.float64)
    total = 0.0
    for some in axes.split(64, dim=1):  # 102 MB a side for 200,000 pictures
        sides = [
            torch.cat([rows.double() @ some for rows in features.cpu().split(CHUNK)]).sort(0).values
            for features in (real, fake)
        ]
        if len(real) != len(fake):
            sides = [side.quantile(ranks, dim=0) for side in sides]
        total += (sides[0] - sides[1]).square().mean(0).sum().item()
    return num_features * total / directions


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and std over random subsets of the squared MMD of features, (N, F) and (M, F) (KID, Binkowski, 2018).

    Kernel (x.y / F + 1)^3, unbiased, so it may be negative. A subset has `subset_size` pictures, or as many as the
    smaller set has; the std is 0 where it is the whole of both sets. Drawn from `seed`, from 10,000 pictures at even
    distances where a set has more. Raises `ValueError` as `frechet_distance` does.
    """
    real, fake = some_features(real, fake, least=2)
    size = min(subset_size, len(real), len(fake))
    random = np.random.default_rng(seed)
    in_real, in_fake = (random_subsets(len(features), size, subsets, random) for features in (real, fake))
    within = kernel_sums(real, real, in_real, in_real) + kernel_sums(fake, fake, in_fake, in_fake)
    within = within - self_sums(real, in_real) - self_sums(fake, in_fake)  # a point and itself are not a pair
    across = kernel_sums(real, fake, in_real, in_fake)
    mmd2 = within / (size * (size - 1)) - 2 * across / size**2  # (subsets,)
    return mmd2.mean().item(), mmd2.std(correction=0).item()


def random_subsets(count: int, size: int, subsets: int, random: np.random.Generator) -> Tensor:
    """Memberships (count, subsets), 1 where a point is in a subset: each has `size` points, none twice."""
    members = torch.zeros(count, subsets, dtype=torch.float64)
    for i in range(subsets):
        members[random.permutation(count)[:size], i] = 1
    return members


def kernel_sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """Sum of the kernel over all pairs of each subset of x (n, F) and of y (m, F): (subsets,).

    With memberships every pair is computed once, however many subsets it is in.
    """
    sums = torch.zeros(in_x.shape[1], dtype=x.dtype)
    for rows, in_rows in zip(x.split(CHUNK), in_x.split(CHUNK), strict=True):
        kernel = (rows @ y.T).div_(x.shape[1]).add_(1).pow_(3)
        sums += (in_rows * (kernel @ in_y)).sum(0)
    return sums


def self_sums(x: Tensor, in_x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1) ** 3 @ in_x


def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, float]:
    """Fidelity and variety apart, of features (N, F) and (M, F), by balls that reach to the k-th neighbour.

    - `precision`: share of the fake pictures in some ball about a real one; `recall`: of the real ones in some ball
      about a fake one (Kynkaanniemi et al., 2019);
    - `density`: real balls about a fake picture over k, in the mean: 1 for equal distributions, and it may exceed 1;
      `coverage`: share of the real balls that hold a fake picture (Naeem et al., 2020).

    A ball is open, as in Naeem's code; its radius comes from the neighbours in its own set. Of larger sets 10,000
    pictures at even distances count, as in the papers: the time grows with the square. Raises `ValueError` as
    `frechet_distance` does, but for fewer than k + 1 pictures.
    """
    real, fake = some_features(real, fake, least=k + 1)
    reach_of_real, reach_of_fake = reach(real, k), reach(fake, k)
    precise = torch.zeros(len(fake), dtype=torch.bool)
    recalled, balls = 0, torch.zeros(len(real), dtype=torch.int64)  # balls: how many fake pictures each real one holds
    for rows, distance in squared_distances(real, fake, CHUNK):
        in_real = distance < reach_of_real[rows, None]
        precise |= in_real.any(0)
        balls[rows] = in_real.sum(1)
        recalled += int((distance < reach_of_fake).any(1).sum())
    return {
        "precision": precise.double().mean().item(),
        "recall": recalled / len(real),
        "density": balls.sum().item() / (k * len(fake)),
        "coverage": (balls > 0).double().mean().item(),
    }


def reach(features: Tensor, k: int) -> Tensor:
    """Squared distance of each picture to its k-th neighbour in its set, (N, F) -> (N,)."""
    reached = features.new_empty(len(features))
    for rows, distance in squared_distances(features, features, CHUNK):
        reached[rows] = distance.topk(k + 1, largest=False).values[:, -1]  # the first is the picture itself
    return reached


def squared_distances(x: Tensor, y: Tensor, at_once: int) -> Iterator[tuple[slice, Tensor]]:
    """(N, F), (M, F) -> which rows of x, `at_once` at most, and theirs, (n, M), until the next part is asked for.

    In float64 the products lose nothing that matters and are 10 times as fast as differences. All parts are written to
    the same memory: a process that keeps what it frees (`system.memory`) would take new memory for most of them.
    """
    norms = torch.cat([rows.square().sum(1) for rows in y.split(CHUNK)])
    squared = y.new_empty(min(at_once, len(x)), len(y))
    for start in range(0, len(x), at_once):
        rows = slice(start, min(start + at_once, len(x)))
        part = torch.add(x[rows].square().sum(1)[:, None], norms, out=squared[: rows.stop - start])
        yield rows, part.addmm_(x[rows], y.T, alpha=-2)


def sliced_wasserstein(x: Tensor, y: Tensor, seed: int = 0) -> dict[str, float]:
    """Sliced Wasserstein distance of patches at each scale, x 10^3, of pictures (N, C, H, W) and (M, C, H, W).

    As in Karras et al. (2018): Laplacian pyramids, from full size by halves down to 16 pixels; 128 patches of 7 x 7
    pixels from each picture, each set normalised by channel (so brightness and contrast do not count); mean absolute
    difference of the sorted projections on 4 x 128 random directions. Keys are the shorter side of the level in
    pixels ("64", "32", "16") and "mean". Only the first min(N, M) pictures count, at the same places on both sides,
    so the distance of a set to itself is 0; the paper draws the places independently. Pixels may be uint8 or floating,
    as long as both sides are alike. All random draws follow from `seed`; memory is 75 kB for each RGB picture.

    Raises `ValueError` for no pictures, pixels that are not finite, other shapes or sides below 16 pixels.
    """
    check_pictures(x, y)
    count, sides = min(len(x), len(y)), [min(x.shape[2:])]
    while (sides[-1] + 1) // 2 >= SMALLEST_LEVEL:
        sides.append((sides[-1] + 1) // 2)
    generator = torch.Generator().manual_seed(seed)
    distances = {}
    for level, side in enumerate(sides):
        places = torch.rand(2, count, PATCHES_PER_PICTURE, generator=generator)
        a, b = (patches_of(pictures[:count], places, level, level == len(sides) - 1) for pictures in (x, y))
        directions = torch.randn(a.shape[1], REPEATS * DIRECTIONS, generator=generator)
        distances[str(side)] = 1000 * sliced_distance(a, b, directions / directions.norm(dim=0))
    return distances | {"mean": sum(distances.values()) / len(distances)}


@torch.autocast("cpu", enabled=False)
def sliced_distance(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Mean Wasserstein-1 distance of two sets of points (P, E) projected on each of the unit directions (E, K)."""
    total = 0.0
    for some in directions.T.split(16):  # 16 x P projections at a time
        projected_a, projected_b = ((some @ points.T).numpy() for points in (a, b))
        projected_a.sort(axis=1)  # by numpy, which sorts floats three times as fast as torch does
        projected_b.sort(axis=1)
        total += float(np.abs(projected_a - projected_b).mean(1, dtype=np.float64).sum())
    return total / directions.shape[1]


def patches_of(pictures: Tensor, places: Tensor, level: int, last: bool) -> Tensor:
    """Normalised patches (P, E) of one level, at `places` (2, N, patches) in [0, 1) from top and left; on the CPU."""
    patches = torch.empty(*places.shape[1:], pictures.shape[1], PATCH, PATCH)
    for start in range(0, len(pictures), 64):
        some = slice(start, start + 64)
        windows = laplacian_level(pictures[some].float(), level, last).cpu().unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        top, left = (places[0, some] * windows.shape[2]).long(), (places[1, some] * windows.shape[3]).long()
        patches[some] = windows[torch.arange(len(windows))[:, None], :, top, left]
    patches = patches.flatten(0, 1)  # (P, C, 7, 7)
    patches -= patches.mean((0, 2, 3), keepdim=True)
    patches /= patches.std((0, 2, 3), correction=0, keepdim=True).clamp(min=1e-6)  # flat pictures stay 0
    return patches.flatten(1)


def laplacian_level(x: Tensor, level: int, last: bool) -> Tensor:
    """Level `level` of the Laplacian pyramid of x (B, C, H, W), halved so many times; the last one keeps the mean."""
    for _ in range(level):
        x = halve(x)
    return x if last else x - double(halve(x), x.shape)


def halve(x: Tensor) -> Tensor:
    return blur(x)[..., ::2, ::2]


def double(x: Tensor, shape: torch.Size) -> Tensor:
    sparse = x.new_zeros(shape)
    sparse[..., ::2, ::2] = 4 * x
    return blur(sparse)


def blur(x: Tensor) -> Tensor:
    """Binomial filter of 5 x 5, mirrored at the edges."""
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect").flatten(0, 1)[:, None]
    with without_autocast(x.device):
        return F.conv2d(padded, torch.outer(BINOMIAL, BINOMIAL)[None, None].to(x)).view(x.shape)


def some_features(real: Tensor, fake: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """At most `AT_MOST` of each as float64 on the CPU, or `ValueError`."""
    check_features(real, fake, least)
    real, fake = (features[evenly(len(features), AT_MOST)] for features in (real, fake))
    return real.detach().cpu().double(), fake.detach().cpu().double()


def check_features(real: Tensor, fake: Tensor, least: int) -> None:
    """Raise `ValueError` for features that no distance can be computed of."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        shapes = f"{tuple(real.shape)} and {tuple(fake.shape)}"
        raise ValueError(f"features of shapes {shapes}; give (N, F) and (M, F) from the same network")
    if min(len(real), len(fake)) < least:
        raise ValueError(f"{len(real)} real and {len(fake)} fake pictures; this distance needs {least} or more of each")
    for name, features in (("real", real), ("fake", fake)):
        if not features.isfinite().all():
            raise ValueError(f"the {name} features are not finite; look for NaN in the {name} pictures")


def check_pictures(x: Tensor, y: Tensor) -> None:
    if x.ndim != 4 or x.shape[1:] != y.shape[1:]:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"pictures of shapes {shapes}; give both as (N, C, H, W) of one size")
    if not len(x) or not len(y):
        raise ValueError(f"{len(x)} and {len(y)} pictures; this distance needs 1 or more of each")
    if min(x.shape[2:]) < SMALLEST_LEVEL:
        size = f"{x.shape[2]}x{x.shape[3]}"
        raise ValueError(f"pictures of {size} pixels; this distance needs sides of {SMALLEST_LEVEL} or more")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ValueError("the pictures are not finite; look for NaN in the network that drew them")
