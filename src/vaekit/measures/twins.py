"""Where numbers on test pictures mislead: nearly the same pictures were trained on, or quite other ones.

Letters: N and M small pictures of F numbers each, as `copying.small` gives them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vaekit.data.loader import evenly
from vaekit.measures.copying import small_of
from vaekit.measures.distances import squared_distances

NEAR = 0.08  # of a picture's own spread: a smaller difference at 16x16 makes two pictures nearly one
EMPTY = 2 / 127.5  # standard deviation below which a picture shows nothing
TEST_COMPARED, TRAIN_COMPARED = 2_000, 20_000  # pictures at most, at even distances
AT_ONCE = 512
SHIFTED = 0.02  # of the variance of the pictures, squared distance of the means of both parts: the files come sorted
BY_CHANCE = 20  # times what is expected of a random split, which even one direction of variance never reaches


def near(small: Tensor, others: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Which pictures of small (N, F) and others (M, F) in [-1, 1] are nearly the same: bool (n, M), from which i on.

    Pictures of one colour are like none: all of them would be the same.
    """
    small, others = small.double(), others.double()
    spread = (small - small.mean(1, keepdim=True)).square().sum(1)
    limits = torch.where(spread > EMPTY**2 * small.shape[1], NEAR**2 * spread, -1)
    for rows, distances in squared_distances(small, others, AT_ONCE):
        yield rows.start, distances <= limits[rows, None]


def across_split(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of places of a test picture and a train picture that is nearly the same, the first for each test picture.

    `images` are stored pictures (N, C, H, W). Of many pictures some are compared, at even distances; the flag says that
    these are all.
    """
    some_test, some_train = test[evenly(len(test), TEST_COMPARED)], train[evenly(len(train), TRAIN_COMPARED)]
    found = []
    for start, same in near(small_of(images, some_test), small_of(images, some_train)):
        first = same.byte().argmax(1)  # of each row, where there is one
        found += [(int(some_test[start + i]), int(some_train[first[i]])) for i in same.any(1).nonzero()[:, 0].tolist()]
    return found, len(some_test) == len(test) and len(some_train) == len(train)


def shift(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> float | None:
    """How far the mean test picture lies from the mean train picture, over the root of the variance of all.

    Of stored pictures (N, C, H, W) at 16x16, some of each at even distances. None where it is hardly any, or chance
    might explain it: of a random split 1 / N + 1 / M is expected of its square.
    """
    parts = [small_of(images, places[evenly(len(places), TEST_COMPARED)]).double() for places in (train, test)]
    squared = float((parts[0].mean(0) - parts[1].mean(0)).square().sum())
    variance = float(torch.cat(parts).var(0, correction=0).sum())
    expected = sum(1 / len(part) for part in parts)
    return math.sqrt(squared / variance) if squared > max(SHIFTED, BY_CHANCE * expected) * variance else None
