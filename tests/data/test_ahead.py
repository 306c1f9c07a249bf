"""Reading ahead: what is asked for is the pages of just those images, and where nothing is mapped nothing is asked."""

import mmap

import numpy as np
import pytest

from vaekit.data.ahead import ReadAhead
from vaekit.data.loader import Stream


class Asked:
    """A map that notes what it is asked for."""

    def __init__(self):
        self.ranges = []

    def madvise(self, option, start, length):
        assert option == mmap.MADV_WILLNEED
        assert start % mmap.PAGESIZE == 0
        self.ranges.append((start, start + length))


@pytest.fixture
def mapped(tmp_path):
    def of(shape):
        images = np.lib.format.open_memmap(tmp_path / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
        images[:] = np.arange(len(images), dtype=np.uint8)[:, None, None, None]
        images.flush()
        return np.lib.format.open_memmap(tmp_path / "pixels.npy", mode="r")

    return of


@pytest.mark.parametrize("shape", [(20, 3, 64, 64), (20, 1, 5, 7), (3, 3, 33, 31)])
def test_the_bytes_of_the_images_are_asked_for_and_few_others(mapped, shape):
    images = mapped(shape)
    ahead = ReadAhead(np.asarray(images))
    ahead.will_need(np.array([0, len(images) - 1]))  # the system takes it
    ahead.file = asked = Asked()
    places = np.array([2, 0, len(images) - 1])
    ahead.will_need(places)
    for place, (start, end) in zip(places, asked.ranges, strict=True):
        first = images.offset + place * images[0].nbytes
        assert start <= first < start + mmap.PAGESIZE
        assert end == first + images[0].nbytes


@pytest.mark.parametrize(
    "images",
    [np.zeros((4, 3, 8, 8), np.uint8), np.zeros((8, 3, 8, 8), np.uint8)[::2], np.zeros((0, 3, 8, 8), np.uint8)],
    ids=["in memory", "a view", "none"],
)
def test_what_is_not_mapped_is_not_asked_for(images):
    ahead = ReadAhead(images)
    ahead.will_need(np.arange(len(images)))
    assert ahead.file is None


@pytest.mark.parametrize("world", [1, 2])
def test_a_stream_asks_for_the_batch_that_comes_next(mapped, world):
    images = mapped((20, 3, 64, 64))
    for rank in range(world):
        stream = Stream(images, np.arange(20), seed=0, flip=True)
        asked = []
        stream.ahead.will_need = asked.append
        for position in range(0, 64, 8):
            stream.batch(position, 8, rank, world)
        following = [stream.at(p + rank * 8 // world, p + (rank + 1) * 8 // world)[0] for p in range(8, 72, 8)]
        assert all(np.array_equal(*pair) for pair in zip(asked, following, strict=True))
