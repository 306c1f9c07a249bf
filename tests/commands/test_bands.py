"""Every command on pictures of six bands and 16 bits, as satellites and microscopes give them."""

import dataclasses

import numpy as np
import pytest
import torch

import vaekit
from vaekit import LatentTable, read_picture, save_picture
from vaekit.cli import run as command
from vaekit.commands.train import train

BANDS = 6


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Forty arrays of six bands, 12 bits in files of 16."""
    folder = tmp_path_factory.mktemp("scenes")
    random = np.random.default_rng(0)
    for i in range(40):
        coarse = random.integers(0, 4096, (3, 3, BANDS))
        np.save(folder / f"{i:02d}.npy", coarse.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint16))
    return folder


@pytest.fixture(scope="module")
def run(tiny, scenes, tmp_path_factory):
    config = dataclasses.replace(tiny, channels=BANDS, depth=16, levels=(0.0, 4095.0))
    place = tmp_path_factory.mktemp("runs") / "run"
    train(config, scenes, place)
    return place


def test_it_is_measured_but_for_what_takes_colours(run):
    result = vaekit.evaluate_run(run)
    assert result["reconstruction"]["sampled"]["psnr"] > 5
    assert "have 6 bands" in result["not_measured"]["features"]
    assert "lpips" in result["not_measured"]


def test_new_pictures_are_arrays_that_can_be_read_again(run, tmp_path):
    vae = vaekit.VAE.from_pretrained(run)
    vaekit.sample_run(run, num_images=3, out=tmp_path / "new")
    files = sorted((tmp_path / "new").glob("*.npy"))
    assert len(files) == 3
    values = np.load(files[0])
    assert values.shape == (16, 16, BANDS)
    assert 0 <= values.min() <= values.max() <= 1
    x = torch.rand(BANDS, 16, 16) * 2 - 1
    save_picture(x, tmp_path / "x.npy")
    np.testing.assert_allclose(np.load(tmp_path / "x.npy").transpose(2, 0, 1), (x + 1) / 2, atol=1e-6)
    assert vae.image_shape == (BANDS, 16, 16)


def test_reconstructions_and_latents_of_files_and_of_one_array(run, scenes, tmp_path):
    vae = vaekit.VAE.from_pretrained(run)
    one = read_picture(scenes / "00.npy", vae)
    assert one.shape == (1, BANDS, 16, 16)
    vaekit.reconstruct_run(run, [scenes], tmp_path / "again")
    found = np.load(tmp_path / "again" / "00.npy")
    expected = (vae.decode(vae.encode(one).mean)[0].clamp(-1, 1) + 1) / 2
    np.testing.assert_allclose(found.transpose(2, 0, 1), expected, atol=1e-5)
    np.save(tmp_path / "all.npy", np.stack([np.load(path) for path in sorted(scenes.iterdir())]))
    tables = [
        LatentTable.load(vaekit.encode_run(run, [source], tmp_path / f"{i}.npz"))
        for i, source in enumerate((scenes, tmp_path / "all.npy"))
    ]
    torch.testing.assert_close(tables[0].mean, tables[1].mean)
    assert tables[1].files[:2] == ["000000", "000001"]


def test_figures_show_three_of_the_bands(run):
    assert len(vaekit.draw_run(run)) == 8


def test_a_picture_of_other_bands_is_one_line(run, photos, tmp_path, capsys):
    picture = str(sorted(photos.iterdir())[0])
    assert command(["encode", str(run), picture, "--out", str(tmp_path / "a.npz")]) == 2
    assert "3 bands, where 6 are asked for" in capsys.readouterr().err


def test_strict_refuses_where_a_picture_cannot_be_read(tiny, photos, tmp_path, capsys):
    folder = tmp_path / "some"
    folder.mkdir()
    for path in photos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "05.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"1 of the pictures cannot be read, the first is 05\.png: not a picture"):
        train(dataclasses.replace(tiny, strict=True), folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert command(["prepare", str(folder), "--size", "16", "--strict"]) == 2
    assert command(["prepare", str(folder), "--size", "16"]) == 0
    capsys.readouterr()
