"""Which images train and which test, and the order in which they come. N, C, H, W as in `Prepared.images`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.data.ahead import ReadAhead
from vaekit.data.pixels import to_float
from vaekit.system.files import bytes_of


def split(
    names: Sequence[str], train_fraction: float, by: Literal["name", "hash"] = "name"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the images to train on, the first ones of each folder, and of those to test on, the rest.

    First in the order of `names`, or, by "hash", in that of the SHA-256 of their last parts without suffix and dots,
    which shards keep: as if drawn, and the same for everyone. `names` are paths with slashes. In one folder the train
    part is train_fraction * len(names), rounded down: 0.8 of CelebA-HQ's 30,000 gives the paper's first 24,000 and last
    6,000. Class folders are split one by one, so that both parts hold every class. Rounding is carried over from one
    folder to the next, so that the sizes of the parts are those of a single folder with all images. Raises ValueError
    if either part would be empty.
    """
    num_images = len(names)
    if not 0 < train_fraction < 1:
        raise ValueError(f"split is {train_fraction}; choose a number between 0 and 1, such as 0.8")
    folders: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        folders.setdefault(name.rpartition("/")[0], []).append(i)
    train = np.zeros(num_images, dtype=bool)
    seen = num_train = 0
    for indices in folders.values():
        seen += len(indices)
        target = math.floor(round(train_fraction * seen, 6))  # 0.29 * 100 is 28.999999999999996
        if by == "hash":
            indices.sort(key=lambda i: hash_of(names[i]))
        train[indices[: target - num_train]] = True
        num_train = target
    if not 0 < num_train < num_images:
        raise ValueError(
            f"split {train_fraction} of {num_images} pictures leaves {num_train} to train on and "
            f"{num_images - num_train} to test on; add pictures or choose another split"
        )
    return np.flatnonzero(train), np.flatnonzero(~train)


class Stream:
    """The endless order of the training images: a function of the position alone, so nothing has to be saved.

    Positions count images seen since the start, over all ranks. Epoch e is a permutation drawn from (seed, e)
    and positions run on across its end: every batch is full, every epoch shows each image once. With `flip`,
    about half of the images are mirrored left to right, drawn anew each epoch.
    """

    def __init__(self, images: np.ndarray, indices: np.ndarray, seed: int, flip: bool):
        assert len(indices) > 0
        self.images = np.asarray(images)  # a plain view: indexing np.memmap itself costs more
        self.indices = indices
        self.seed = seed
        self.flip = flip
        self.epoch = lru_cache(maxsize=2)(self.draw_epoch)
        self.ahead = ReadAhead(self.images)

    def batch(self, images_seen: int, size: int, rank: int = 0, world: int = 1) -> Tensor:
        """Return this rank's part of the batch at global positions images_seen to images_seen + size.

        uint8 (size / world, C, H, W); rank r takes the r-th contiguous part, so the parts of all ranks, put
        together, are the same batch for every world. Its part of the batch after this one is asked for: `ReadAhead`.
        """
        assert size % world == 0, f"a batch of {size} does not divide over {world} ranks"
        share = size // world
        start = images_seen + rank * share
        chosen, mirrored = self.at(start, start + share)
        batch = self.images[chosen]
        if self.flip:
            batch[mirrored] = batch[mirrored][..., ::-1]
        self.ahead.will_need(self.at(start + size, start + size + share)[0])
        return torch.from_numpy(batch)

    def at(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which images stand at the positions from start to stop, and whether each is mirrored."""
        parts = []
        while start < stop:
            epoch, place = divmod(start, len(self.indices))
            order, mirrored = self.epoch(epoch)
            here = slice(place, place + stop - start)
            parts.append((order[here], mirrored[here]))
            start += len(order[here])
        chosen, mirrors = zip(*parts, strict=True)
        return np.concatenate(chosen), np.concatenate(mirrors)

    def draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        order = generator.permutation(self.indices)  # first, so that `flip` does not change the order
        return order, generator.integers(2, size=len(order), dtype=bool)


class Batches(Sequence[Tensor]):
    """Images by the batch, each read when it is asked for: (size, C, H, W), float32 in [-1, 1]."""

    def __init__(self, images: np.ndarray, indices: np.ndarray, size: int):
        self.images, self.indices, self.at_once = images, indices, size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.at_once)

    def size(self, i: int) -> int:
        """Images in batch i, without reading them."""
        return min(self.at_once, len(self.indices) - i * self.at_once)

    def __getitem__(self, i: int) -> Tensor:  # type: ignore[override]  # one batch, no slices
        if not 0 <= i < len(self):
            raise IndexError(i)
        chosen = self.indices[i * self.at_once : (i + 1) * self.at_once]
        return to_float(torch.from_numpy(self.images[chosen]))


def hash_of(name: str) -> bytes:
    """SHA-256 of the part of a name that `packing.names_within` keeps."""
    return hashlib.sha256(bytes_of(PurePosixPath(name).stem.replace(".", "_"))).digest()


class HeldOut:
    """The images kept from training: in order, never mirrored, float32 in [-1, 1].

    Folders are often sorted by kind. So where only some are wanted, they come at even distances, not from the front.
    """

    def __init__(self, images: np.ndarray, indices: np.ndarray):
        self.images = np.asarray(images)
        self.indices = indices

    def batches(self, size: int, limit: int | None = None) -> Batches:
        """`limit` images, or all: (size, C, H, W) each, the last batch holds what is left."""
        chosen = self.indices if limit is None else self.indices[evenly(len(self.indices), limit)]
        return Batches(self.images, chosen, size)

    def some(self, limit: int) -> Tensor:
        """Return `limit` images, or all if they are fewer: (N, C, H, W)."""
        return torch.cat(list(self.batches(limit, limit)))


def evenly(total: int, limit: int) -> np.ndarray:
    """Return at most `limit` of the places 0 to total - 1, the first and the last among them, at even distances."""
    return np.linspace(0, total - 1, min(limit, total)).round().astype(int)
