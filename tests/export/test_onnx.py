"""Models for other programs: what onnxruntime computes with them is what torch computes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit import VAE, Config, read_picture
from vaekit.cli import run as command
from vaekit.config.groups import Network
from vaekit.export import onnx
from vaekit.models.kept import weights_sha256
from vaekit.models.vae import build_vae

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_numpy.py"


@pytest.fixture(scope="module")
def trained(tiny, photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    vaekit.train(tiny, photos, run)
    return run


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    return vaekit.export_run(trained, tmp_path_factory.mktemp("onnx"))


def session(folder, name):
    return ort.InferenceSession(folder / name, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("size", [1, 2, 7])
def test_encoder_and_decoder_take_any_batch_and_give_what_torch_gives(trained, folder, photos, size):
    vae = VAE.from_pretrained(trained)
    x = torch.cat([read_picture(path, vae) for path in sorted(photos.iterdir())[:size]])
    posterior = vae.encode(x)
    mean, logvar = session(folder, "encoder.onnx").run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(mean), posterior.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(logvar), posterior.logvar, atol=1e-4, rtol=1e-4)
    (x_hat,) = session(folder, "decoder.onnx").run(None, {"z": mean})
    torch.testing.assert_close(torch.from_numpy(x_hat), vae.decode(posterior.mean), atol=1e-4, rtol=1e-4)


def test_the_manifest_says_what_is_there_and_of_which_weights(trained, folder):
    about = json.loads((folder / "manifest.json").read_text())
    vae = VAE.from_pretrained(trained)
    assert about["weights_sha256"] == weights_sha256(vae.state_dict())
    assert (about["image_shape"], about["latent_dim"]) == (list(vae.image_shape), vae.latent_dim)
    assert [file["file"] for file in about["files"]] == ["encoder.onnx", "decoder.onnx", "prior_step.onnx"]
    for file in about["files"]:
        assert file["num_bytes"] == (folder / file["file"]).stat().st_size
        assert 0 <= file["difference"] <= 1e-3


def test_the_example_reconstructs_and_draws_with_numpy_what_the_model_draws(trained, folder, photos, tmp_path):
    vae = VAE.from_pretrained(trained)
    picture = sorted(photos.iterdir())[0]
    subprocess.run([sys.executable, EXAMPLE, folder, picture], cwd=tmp_path, check=True)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((4, vae.latent_dim), np.float32))
    expected = vae.decode(vae.prior.latent_of(noise))
    for i, x_hat in enumerate(expected):
        drawn = np.asarray(Image.open(tmp_path / f"new-{i}.png")).astype(int)
        assert np.abs(drawn - ((x_hat.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 1
    with Image.open(tmp_path / "reconstruction.png") as image:
        assert image.size == (16, 16)


@pytest.mark.parametrize(
    "network",
    [
        Network(kind="resnetv2", latent_dim=6, heads="dense", channels=8, norm="batch"),
        Network(kind="resnetv2", latent_dim=6, heads="dense", channels=8, norm="frozen"),
        Network(latent_dim=12, heads="dense", channels=8, max_channels=16),
    ],
    ids=["batch", "frozen", "dense"],
)
def test_every_network_is_exported_as_it_is(network, tmp_path):
    vae = build_vae(Config(size=16, network=network).resolved()).eval().requires_grad_(False)
    assert [part.file for part in onnx.export_onnx(vae, tmp_path)] == ["encoder.onnx", "decoder.onnx"]


def test_a_flow_with_labels_takes_what_is_told(tmp_path):
    from vaekit.priors.base import Latents
    from vaekit.priors.fitting import Length
    from vaekit.priors.flow_fit import fit_flow

    vae = build_vae(Config(size=16, network=Network(latent_dim=16, channels=8, max_channels=16)).resolved())
    means = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    latents = Latents(means, torch.ones_like(means), 16, attributes=("a", "b"), labels=(means[:, :2] > 0).long())
    vae.set_prior("flow", fit_flow(latents, length=Length(10 * 128), width=32, depth=1))
    step = onnx.export_onnx(vae.eval().requires_grad_(False), tmp_path)[-1]
    assert step.inputs == ("w", "a", "told")
    assert json.loads((tmp_path / "manifest.json").read_text())["labels"] == ["a", "b"]


def test_what_is_not_the_same_is_not_kept(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "greatest_difference", lambda *parts: 0.5)
    with pytest.raises(ValueError, match=r"encoder\.onnx differs from torch by 0\.5, more than 0\.001"):
        vaekit.export_run(trained, tmp_path / "out")
    assert not (tmp_path / "out" / "encoder.onnx").exists()


def test_old_and_missing_packages_are_named(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx, "version", lambda name: "0.7.0" if name == "onnxscript" else "9.0")
    assert command(["export", str(trained), "--onnx", str(tmp_path / "out")]) == 2
    assert "needs onnxscript 0.7.1 or later, 0.7.0 is here" in capsys.readouterr().err
    monkeypatch.setattr(onnx, "NEEDED", {"a-package-of-nobody": "1.0"})
    monkeypatch.undo()
    monkeypatch.setattr(onnx, "NEEDED", {"a-package-of-nobody": "1.0"})
    assert command(["export", str(trained), "--onnx", str(tmp_path / "out")]) == 2
    assert 'needs a-package-of-nobody; run: pip install "vaekit[onnx]"' in capsys.readouterr().err
    assert command(["export", str(tmp_path), "--onnx", str(tmp_path / "out")]) == 2
    assert "no model in" in capsys.readouterr().err
