"""Pictures larger than the model's, tile by tile."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vaekit
from vaekit import VAE
from vaekit.cli import run as command
from vaekit.commands.tiles import bump, reconstructed_in_tiles, starts


class Keep(nn.Module):
    """An encoder that keeps all pixels; it has a weight, as networks do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        flat = x.flatten(1) * self.weight
        return flat, torch.zeros_like(flat)


def lossless(*shape):
    return VAE(Keep(), nn.Unflatten(1, shape), shape, int(np.prod(shape)))


@pytest.mark.parametrize("size", [(8, 12), (8, 13), (9, 12), (23, 40), (64, 12), (17, 131)])
def test_a_model_that_keeps_all_gives_the_picture_back(generator, size):
    x = torch.rand(3, *size, generator=generator) * 2 - 1
    torch.testing.assert_close(reconstructed_in_tiles(lossless(3, 8, 12), x), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("length", "size"), [(8, 8), (9, 8), (64, 8), (1000, 7), (5, 1), (4, 3)])
def test_tiles_reach_both_ends_and_overlap_by_half(length, size):
    found = starts(length, size)
    assert (found[0], found[-1]) == (0, length - size)
    assert all(0 < there - here <= max(1, size // 2) for here, there in pairwise(found))


def test_the_middle_of_a_tile_counts_most():
    weight = bump(8)
    torch.testing.assert_close(weight, weight.flip(0))
    assert weight.min() > 0
    assert weight.argmax() in (3, 4)


@pytest.fixture(scope="module")
def trained(tiny, photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    vaekit.train(tiny, photos, run)
    return run


def test_large_pictures_keep_their_size_and_small_ones_become_as_large_as_the_model(trained, tmp_path, capsys):
    random = np.random.default_rng(0)
    for name, size in {"wide.png": (50, 23), "small.png": (8, 4), "same.jpg": (16, 16)}.items():
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / name)
    files = [str(tmp_path / name) for name in ("wide.png", "small.png", "same.jpg")]
    assert command(["reconstruct", str(trained), *files, "--out", str(tmp_path / "large"), "--tile"]) == 0
    sizes = {}
    for path in (tmp_path / "large").glob("*.png"):
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert sizes == {"wide.png": (50, 23), "small.png": (32, 16), "same.png": (16, 16)}
    assert command(["reconstruct", str(trained), files[2], "--out", str(tmp_path / "usual")]) == 0
    with Image.open(tmp_path / "usual" / "same.png") as one, Image.open(tmp_path / "large" / "same.png") as other:
        difference = np.asarray(one, np.int16) - np.asarray(other, np.int16)
    assert np.abs(difference).max() <= 1
    assert "3 pictures, L1" in capsys.readouterr().err


def test_a_turned_photograph_is_upright(trained, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (60, 30), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert (
        command(["reconstruct", str(trained), str(tmp_path / "turned.jpg"), "--out", str(tmp_path / "o"), "--tile"])
        == 0
    )
    with Image.open(tmp_path / "o" / "turned.png") as picture:
        assert picture.size == (30, 60)
