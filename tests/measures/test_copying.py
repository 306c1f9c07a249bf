"""Copies of training pictures are found among samples, and typical pictures are none."""

import pytest
import torch

from vaekit.measures.copying import copying, nearest, small, small_of


@pytest.fixture
def faces(generator):
    """Pictures of one kind: 900 points of a low-dimensional cloud in 50 dimensions, as (train, test, other)."""
    basis = torch.randn(8, 50, generator=generator)
    points = torch.randn(900, 8, generator=generator) @ basis + 0.1 * torch.randn(900, 50, generator=generator)
    return points.split(300)


def test_new_pictures_of_the_same_kind_are_no_copies(faces):
    train, test, other = faces
    verdict = copying(other, test, train)
    assert not verdict.copies
    assert verdict.share < 0.045
    assert verdict.test_share == pytest.approx(0.02, abs=0.004)
    assert verdict.sentence.endswith("no copies")


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_copies_with_a_little_noise_are_found(faces, share, generator):
    train, test, other = faces
    samples = other.clone()
    count = int(share * len(samples))
    samples[:count] = train[:count] + 0.02 * torch.randn(count, 50, generator=generator)
    verdict = copying(samples, test, train)
    assert verdict.copies
    assert verdict.share == pytest.approx(share, abs=0.03)
    assert "repeat training pictures" in verdict.sentence


@pytest.mark.parametrize("count", [8, 60, 99])
def test_of_fewer_than_a_hundred_pictures_nothing_is_said(faces, count):
    train, test, _ = faces
    verdict = copying(train[:count], test, train)
    assert not verdict.copies
    assert verdict.sentence.endswith("too few pictures to tell")


@pytest.mark.parametrize("count", [20, 60, 150])
def test_few_pictures_of_the_same_kind_are_seldom_taken_for_copies(faces, count):
    train, test, other = faces
    verdicts = []
    for seed in range(60):
        order = torch.randperm(600, generator=torch.Generator().manual_seed(seed))
        some = torch.cat([test, other])[order]
        verdicts.append(copying(some[:count], some[count : 2 * count], train).copies)
    assert sum(verdicts) <= 3


def test_samples_that_are_all_typical_are_no_copies(faces):
    train, test, other = faces
    assert not copying(0.5 * other, 0.5 * test, train).copies  # soft pictures, as their own reconstructions are


def test_the_nearest_picture_is_the_right_one(faces):
    train, _, _ = faces
    places, ratios = nearest(train[[5, 17]], train)
    assert places.tolist() == [5, 17]
    assert ratios.max() < 1e-5


def test_too_few_training_pictures_are_refused(faces):
    with pytest.raises(ValueError, match="2 training pictures; whether samples copy any needs three or more"):
        copying(faces[0], faces[1], faces[2][:2])


def test_stored_pictures_become_the_same_small_ones(generator):
    pixels = torch.randint(256, (5, 3, 48, 32), generator=generator, dtype=torch.uint8)
    torch.testing.assert_close(
        small_of(pixels.numpy(), torch.tensor([3, 1]).numpy()), small(pixels[[3, 1]] / 127.5 - 1)
    )
    assert small(pixels.float()).shape == (5, 3 * 256)
