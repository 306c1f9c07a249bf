"""Smaller files: what they cost is measured, and small; archives that need torch alone."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vaekit
from vaekit import VAE, read_picture
from vaekit.cli import run as command

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def trained(tiny, photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    vaekit.train(dataclasses.replace(tiny, prior="gaussian"), photos, run)
    return run


@pytest.fixture(scope="module")
def full(trained, tmp_path_factory):
    """The model in fp32."""
    return vaekit.export_run(trained, tmp_path_factory.mktemp("onnx") / "full")


def reconstructed(folder, x):
    mean = ort.InferenceSession(folder / "encoder.onnx").run(None, {"x": x.numpy()})[0]
    return torch.from_numpy(ort.InferenceSession(folder / "decoder.onnx").run(None, {"z": mean})[0])


def bytes_of_weights(folder):
    model = onnx.load(folder / "decoder.onnx")
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)


@pytest.mark.parametrize(("precision", "most", "share"), [("fp16", 0.02, 0.55), ("int8", 1.5, 0.45)])
def test_a_smaller_model_reconstructs_nearly_alike_and_says_what_it_costs(
    trained, full, photos, tmp_path, precision, most, share
):
    folder = vaekit.export_run(trained, tmp_path / precision, precision=precision)
    vae = VAE.from_pretrained(trained)
    x = torch.cat([read_picture(path, vae) for path in sorted(photos.iterdir())[16:]])  # the test pictures
    losses = [
        (10 * torch.log10(4 / (x - reconstructed(place, x).clamp(-1, 1)).square().mean((1, 2, 3)))).mean()
        for place in (full, folder)
    ]
    about = json.loads((folder / "manifest.json").read_text())
    assert about["precision"] == precision
    assert about["psnr_db"]["fp32"] == pytest.approx(losses[0].item(), abs=1e-3)
    assert about["psnr_db"][precision] == pytest.approx(losses[1].item(), abs=1e-3)
    assert about["psnr_db"]["of"] == "4 test pictures"
    assert losses[0] - losses[1] < most
    assert bytes_of_weights(folder) < share * bytes_of_weights(full)
    assert about["files"][1]["num_bytes"] == (folder / "decoder.onnx").stat().st_size
    assert {path.name for path in folder.iterdir()} == {path.name for path in full.iterdir()}


def test_without_pictures_the_loss_is_that_of_drawn_ones(trained, tmp_path):
    VAE.from_pretrained(trained).save_pretrained(tmp_path / "saved")
    folder = vaekit.export_run(tmp_path / "saved", tmp_path / "onnx", precision="fp16")
    assert json.loads((folder / "manifest.json").read_text())["psnr_db"]["of"] == "200 pictures drawn from the prior"


def test_archives_run_without_vaekit(trained, photos, tmp_path):
    vaekit.export_run(trained, pt2=tmp_path / "pt2")
    vae = VAE.from_pretrained(trained)
    x = torch.cat([read_picture(path, vae) for path in sorted(photos.iterdir())[:5]])
    np.save(tmp_path / "x.npy", x.numpy())
    program = """
import sys, numpy as np, torch
encoder, decoder = (torch.export.load(f"pt2/{name}.pt2").module() for name in ("encoder", "decoder"))
mean, logvar = encoder(torch.from_numpy(np.load("x.npy")))
np.savez("found.npz", mean=mean.detach(), logvar=logvar.detach(), x_hat=decoder(mean)[0].detach())
assert "vaekit" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    found, posterior = np.load(tmp_path / "found.npz"), vae.encode(x)
    np.testing.assert_allclose(found["mean"], posterior.mean, atol=1e-5)
    np.testing.assert_allclose(found["logvar"], posterior.logvar, atol=1e-5)
    np.testing.assert_allclose(found["x_hat"], vae.decode(posterior.mean), atol=1e-5)


def test_no_archive_names_a_place_of_this_machine(trained, tmp_path):
    folder = vaekit.export_run(trained, pt2=tmp_path / "pt2")
    for path in folder.iterdir():
        content = path.read_bytes()
        for place in (str(Path(vaekit.__file__).parent), "site-packages", str(Path.home()) + "/"):
            assert place.encode() not in content


@pytest.mark.parametrize(
    ("options", "said"),
    [("--web P --precision int8", "--precision int8 is of --onnx"), ("--onnx P --pt2 Q", "export to what?")],
)
def test_a_mistake_is_one_line(trained, options, said, capsys):
    assert command(["export", str(trained), *options.split()]) == 2
    assert said in capsys.readouterr().err
