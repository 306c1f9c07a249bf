import math

import numpy as np
import pytest
import torch

from vaekit.data.loader import HeldOut, Stream, split
from vaekit.data.packing import names_within

NUM_IMAGES = 11


def numbered(num_images: int = NUM_IMAGES) -> np.ndarray:
    """Images whose left column tells their number and whose right column is 255, so that a mirror shows."""
    images = np.zeros((num_images, 1, 2, 3), np.uint8)
    images[..., 0] = np.arange(num_images)[:, None, None]
    images[..., -1] = 255
    return images


def stream(indices=None, seed: int = 0, flip: bool = True) -> Stream:
    return Stream(numbered(), np.arange(NUM_IMAGES) if indices is None else indices, seed, flip)


def numbers(batch: torch.Tensor) -> list[int]:
    return torch.minimum(batch[:, 0, 0, 0], batch[:, 0, 0, -1]).tolist()


def paths(folders: dict[str, int]) -> list[str]:
    """Names of so many pictures in each folder."""
    return [f"{folder}/{i:05}.jpg" for folder, count in folders.items() for i in range(count)]


def mirrored(batch: torch.Tensor) -> torch.Tensor:
    return batch[:, 0, 0, 0] == 255


@pytest.mark.parametrize(
    ("num_images", "fraction", "train", "test"),
    [(30_000, 0.8, 24_000, 6_000), (8, 0.8, 6, 2), (100, 0.29, 29, 71), (10, 0.7, 7, 3), (2, 0.5, 1, 1)],
)
def test_split_takes_the_first_for_training_and_the_rest_for_testing(num_images, fraction, train, test):
    first, last = split(paths({"photos": num_images}), fraction)
    assert (len(first), len(last)) == (train, test)
    assert np.concatenate([first, last]).tolist() == list(range(num_images))


def test_split_parts_each_folder_so_that_both_parts_show_every_class():
    train, test = split(paths({"cats": 10, "dogs": 5, "dogs/small": 5}), 0.8)
    assert test.tolist() == [8, 9, 14, 19]
    assert sorted([*train, *test]) == list(range(20))


def test_a_split_by_hash_is_as_if_drawn_and_moves_few_pictures_when_more_come():
    names = paths({"cats": 400, "dogs": 100})
    train, test = split(names, 0.8, "hash")
    assert (len(train), len(test)) == (400, 100)
    assert sorted([*train, *test]) == list(range(500))
    assert (test >= 400).sum() == 20, "both parts show every class"
    for part in (test[test < 400], train[train < 400]):
        assert abs(part.mean() - 199.5) < 3 * 400 / math.sqrt(12 * len(part))
    fewer = split(names[:390], 0.8, "hash")[1]
    assert len(np.intersect1d(fewer, test)) > 70


@pytest.mark.parametrize("kind", ["{}.jpg", "{}.v2.jpg", "{}"])
def test_a_split_by_hash_is_the_same_in_another_folder_and_in_shards(kind):
    names = [kind.format(f"{i:06d}") for i in range(200)]
    test = split(names, 0.8, "hash")[1]
    assert split([f"photos/{name}" for name in names], 0.8, "hash")[1].tolist() == test.tolist()
    assert split(names_within(names, ".png"), 0.8, "hash")[1].tolist() == test.tolist()


def test_folders_of_single_pictures_are_parted_as_one_folder_would_be():
    train, test = split(paths({f"person-{i}": 1 for i in range(100)}), 0.8)
    assert (len(train), len(test)) == (80, 20)


@pytest.mark.parametrize(("num_images", "fraction"), [(1, 0.8), (1, 0.2), (4, 0.2), (0, 0.5)])
def test_an_empty_part_is_refused_with_the_numbers(num_images, fraction):
    with pytest.raises(ValueError, match=f"of {num_images} pictures leaves .* add pictures or choose another"):
        split(paths({"photos": num_images}), fraction)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 80, float("nan")])
def test_a_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split(paths({"photos": 100}), fraction)


def test_each_epoch_shows_each_image_once():
    shown = numbers(stream().batch(0, 4 * NUM_IMAGES))
    for epoch in range(4):
        assert sorted(shown[epoch * NUM_IMAGES : (epoch + 1) * NUM_IMAGES]) == list(range(NUM_IMAGES))


def test_epochs_have_different_orders():
    shown = numbers(stream().batch(0, 2 * NUM_IMAGES))
    assert shown[:NUM_IMAGES] != shown[NUM_IMAGES:]


def test_only_the_given_indices_are_shown():
    assert set(numbers(stream(indices=np.array([2, 3, 5])).batch(0, 30))) == {2, 3, 5}


@pytest.mark.parametrize("size", [4, 8, 24])
def test_batches_are_pieces_of_one_sequence_across_epochs(size):
    whole = stream().batch(0, 48)
    pieces = [stream().batch(start, size) for start in range(0, 48, size)]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_parts_of_all_ranks_are_the_batch_of_one(world):
    one = stream()
    ranks = [stream() for _ in range(world)]
    for seen in range(0, 60, 12):
        parts = [ranks[rank].batch(seen, 12, rank, world) for rank in range(world)]
        assert torch.equal(torch.cat(parts), one.batch(seen, 12))


def test_a_batch_in_mid_epoch_does_not_depend_on_what_was_read_before():
    running = stream()
    for seen in range(0, 35, 5):
        batch = running.batch(seen, 5)
    assert torch.equal(stream().batch(30, 5), batch)


def test_the_seed_decides_the_order():
    assert torch.equal(stream(seed=1).batch(0, 40), stream(seed=1).batch(0, 40))
    assert not torch.equal(stream(seed=1).batch(0, 40), stream(seed=2).batch(0, 40))


def test_about_half_of_the_images_are_mirrored():
    num_mirrored = mirrored(stream().batch(0, 4000)).sum().item()
    assert abs(num_mirrored - 2000) < 4 * np.sqrt(4000 / 4)  # four standard deviations of a fair coin


def test_an_image_is_mirrored_anew_in_each_epoch():
    one = stream(indices=np.array([7])).batch(0, 100)
    assert 0 < mirrored(one).sum() < 100


def test_a_mirrored_image_is_the_image_reversed_from_left_to_right():
    batch = stream().batch(0, 50)
    images = torch.from_numpy(numbered())[numbers(batch)]
    for shown, image, is_mirrored in zip(batch, images, mirrored(batch), strict=True):
        assert shown.tolist() == [[row[::-1] if is_mirrored else row for row in image[0].tolist()]]


def test_without_flip_the_order_is_the_same_and_nothing_is_mirrored():
    plain = stream(flip=False).batch(0, 50)
    assert not mirrored(plain).any()
    assert numbers(plain) == numbers(stream().batch(0, 50))


def test_batches_are_uint8_and_leave_the_images_alone():
    images = numbered()
    images.setflags(write=False)
    batch = Stream(images, np.arange(NUM_IMAGES), seed=0, flip=True).batch(0, 6)
    assert batch.dtype == torch.uint8
    assert batch.shape == (6, 1, 2, 3)
    batch.zero_()
    assert (images == numbered()).all()


def test_a_batch_that_does_not_divide_over_the_ranks_is_caught():
    with pytest.raises(AssertionError, match="does not divide over 3 ranks"):
        stream().batch(0, 8, rank=0, world=3)


def test_held_out_images_come_in_order_unmirrored_with_a_smaller_last_batch():
    held_out = HeldOut(numbered(), np.arange(3, 11))
    batches = list(held_out.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    expected = torch.from_numpy(numbered()[3:]).float() / 127.5 - 1
    torch.testing.assert_close(torch.cat(batches), expected)


def test_some_held_out_images_are_spread_evenly_over_all_of_them():
    held_out = HeldOut(numbered(), np.arange(3, 11))
    whole = held_out.some(500)
    assert len(whole) == 8
    assert torch.equal(held_out.some(3), whole[[0, 4, 7]])
    assert torch.equal(torch.cat(list(held_out.batches(2, limit=3))), whole[[0, 4, 7]])
