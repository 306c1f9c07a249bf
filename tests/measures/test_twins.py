"""Pictures that are nearly the same, against a comparison of every pair."""

import numpy as np
import pytest
from PIL import Image

from vaekit.commands import data
from vaekit.commands.data import look_at
from vaekit.commands.prepare import about_shift, about_split
from vaekit.data.cache import prepare
from vaekit.data.loader import split
from vaekit.measures.copying import small_of
from vaekit.measures.twins import NEAR, across_split, near, shift


def smooth(seed, side=24):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


@pytest.fixture
def images():
    """Forty pictures; 35 is 3 with noise, 36 is 4 itself, 37 is 5 a little darker; 38 and 39 are grey all over."""
    images = np.stack([smooth(seed) for seed in range(40)])
    noise = np.random.default_rng(0).integers(-3, 4, images[0].shape)
    images[35] = (images[3].astype(int) + noise).clip(0, 255)
    images[36] = images[4]
    images[37] = images[5] * 0.97
    images[38:] = 100
    return images


def test_twins_are_those_that_differ_by_less_than_a_share_of_their_spread(images):
    small = small_of(images, np.arange(40)).double().numpy()
    expected = {
        (i, j)
        for i in range(38)
        for j in range(40)
        if ((small[i] - small[j]) ** 2).sum() <= NEAR**2 * ((small[i] - small[i].mean()) ** 2).sum()
    }
    masks = near(small_of(images, np.arange(40)), small_of(images, np.arange(40)))
    found = {(start + i, j) for start, same in masks for i, j in same.nonzero().tolist()}
    assert found == expected
    assert {(35, 3), (36, 4), (37, 5)} <= found


def test_twins_across_the_split_are_said_before_a_training(images, tmp_path):
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i:02d}.png")
    prepared = prepare(tmp_path, 24, 24, 3, tmp_path / "cache")
    train, test = split(prepared.names, 0.8)
    found, of_all = across_split(prepared.images, train, test)
    assert (found, of_all) == ([(35, 3), (36, 4), (37, 5)], True)
    (line,) = about_split(prepared, train, test)
    assert line.startswith("WARNING: 3 test pictures are nearly the same as a train picture")
    assert "35.png and 03.png" in line
    assert not about_split(prepared, train, test[:3])


def test_test_pictures_of_another_kind_are_told_and_a_split_by_hash_mixes_them():
    random = np.random.default_rng(0)
    lightness = np.linspace(60, 180, 400)[:, None, None, None]  # as where files come sorted
    images = np.clip(lightness + random.normal(0, 40, (400, 3, 24, 24)), 0, 255).astype(np.uint8)
    names = [f"{i:03d}.png" for i in range(400)]
    (line,) = about_shift(images, *split(names, 0.8))
    small = small_of(images, np.arange(400)).double().numpy()
    away = np.linalg.norm(small[:320].mean(0) - small[320:].mean(0)) / np.sqrt(small.var(0).sum())
    assert f"{away:.2f} of the pictures' spread away" in line
    assert not about_shift(images, *split(names, 0.8, "hash"))
    assert not about_shift(images[::8], *split(names[::8], 0.8)), "fifty pictures are too few to tell"


def test_the_shift_between_black_and_light_pictures_is_told_in_their_spread():
    images = np.zeros((100, 1, 16, 16), np.uint8)
    images[80:] = 255  # of 20 in 100 at 2 and 80 at 0 the standard deviation is 0.8
    assert shift(images, np.arange(80), np.arange(80, 100)) == pytest.approx(2 / 0.8)


def test_equal_pictures_are_of_one_kind():
    assert not about_shift(np.zeros((40, 3, 24, 24), np.uint8), np.arange(30), np.arange(30, 40))


def test_frames_of_one_camera_are_listed_up_to_a_limit(tmp_path, monkeypatch):
    frame = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    for i in range(30):
        Image.fromarray(frame).save(tmp_path / f"{i:02d}.png")
    monkeypatch.setenv("VAEKIT_CACHE", str(tmp_path / "cache"))
    assert len(look_at(tmp_path).twins) == 30 * 29 / 2
    monkeypatch.setattr(data, "MOST_PAIRS", 100)
    look = look_at(tmp_path)
    assert len(look.twins) == 100
    assert any(line.startswith("the first 100 pairs of the same pixels and 0 of nearly") for line in look.lines)
    assert look.across == 24 * 6, "all pairs are counted, though not listed"
